//! The control plane: API, store, registry, certificate authority and xDS.
