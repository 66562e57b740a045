//! DNS messages: what another implementation writes is understood, what we write it understands, and no bytes do harm.

mod kept;
mod properties;
mod queries;
mod relayed;
mod replies;
mod support;
