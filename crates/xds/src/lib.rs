//! The wire: xDS v3 and Meshwork's own messages, and both sessions as pure state machines.
