//! The control plane: API, store, registry, certificate authority and xDS.

mod store;

pub use store::StoreError;
