//! `grpc.health.v1` (grpc/grpc doc/health-checking.md), as much of it as one unary call needs.

/// The method's path.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The status of a server or service that is well.
pub const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckRequest {
    /// Empty: the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}
