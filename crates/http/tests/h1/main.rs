//! The HTTP/1 engine from outside: rows from the RFCs, what is refused, properties over generated
//! messages, and hyper and curl as the other end.

mod rows;
mod smuggling;
mod transcript;
