//! Documents as operators write them: YAML or JSON text -> a tree that knows its places -> typed values.
//!
//! Every value remembers the line and column it came from, so that whatever is wrong later, in the text,
//! in a field's type or in what `validate` says of it, can be shown where it stands.
//!
//! | file | what |
//! |---|---|
//! | `yaml.rs` | text -> tree; the one file that knows the YAML library |
//! | `node.rs` | the tree, and the way to a value by its path |
//! | `read.rs` | tree -> typed values, with serde |
//! | `flaw.rs` | what is wrong and where, with the line and a caret |

mod flaw;
mod node;
mod read;
mod yaml;

pub(crate) use flaw::{Flaw, Source};
pub(crate) use node::{Entry, Node, Place, Value};
pub(crate) use yaml::{DOCUMENTS_MAX, parse};

#[cfg(test)]
mod tests;
