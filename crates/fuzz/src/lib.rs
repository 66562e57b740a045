//! Fuzz targets: what must hold of everything that reads foreign bytes, whatever the bytes.
//!
//! A target is a plain function from bytes to nothing that panics when a property breaks. So `cargo test` replays the
//! corpus and some thousand generated inputs on any machine (`tests/replay.rs`), and `make fuzz` lets libFuzzer look for
//! more with the same functions (`src/bin/libfuzzer.rs`).
//!
//! | file | what |
//! |---|---|
//! | `targets/` | the targets, one file for each kind of bytes |
//! | `input.rs` | bytes as a program: choices, numbers, pieces |
//! | `generate.rs` | inputs by seed: known good ones, changed |
//! | `shop.rs` | a small mesh, whose resources the xDS targets begin with |
//! | `corpus/<target>/` | inputs that are kept: by hand, and what was found once |
//!
//! Nothing here is shipped, and nothing here knows what an attacker wants: the properties do. Which bytes reach an
//! application although a strict parser would have split them otherwise, is asked of whole sidecars elsewhere.

pub mod generate;

mod input;
mod shop;
mod targets;

/// Something that reads foreign bytes, and what must hold of it.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its corpus is called.
    pub name: &'static str,
    /// Panics if a property breaks.
    pub run: fn(&[u8]),
    /// Inputs that get far, made by the product itself, so that they are never out of date.
    /// What holds keys or randomness is in the corpus instead: the same in every run.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that mean something there.
    pub words: &'static [&'static [u8]],
}

pub use targets::ALL;

/// The target of that name.
pub fn find(name: &str) -> Option<Target> {
    ALL.iter().copied().find(|target| target.name == name)
}
