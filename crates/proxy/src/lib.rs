//! The data plane: a sidecar for a workload.
