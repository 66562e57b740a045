//! Names over real sockets: ours, and those of resolvers that answer well, badly or not at all.

mod clients;
mod forwarded;
mod limits;
mod ours;
mod resolver;
mod support;
mod transports;
