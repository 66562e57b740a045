//! gRPC through two sidecars, with tonic and with gRPC's C core (Python): calls of every form come out as they went in,
//! end as they ended, and each is balanced on its own.
//!
//! | file | what |
//! |---|---|
//! | `streams.rs` | generated messages in calls of every form, compared byte for byte; large ones and many |
//! | `ends.rs` | errors with their details, deadlines, cancellation, servers that die, what the mesh itself says |
//! | `balance.rs` | the calls of one connection go to all endpoints |
//! | `python.rs`, `peer.py` | the same with `grpcio` at one end or both |

mod balance;
mod ends;
mod python;
mod streams;

use bytes::Bytes;
use meshwork_core::model::AppProtocol;
use meshwork_testkit::{
    EchoClient, GrpcApp, Mesh, Sidecar, eventually, grpc_client, grpc_client_by_connect, workload,
};
use tonic::transport::Channel;

use super::HTTP2;

const DESTINATION: &str = "payments:50051";
const PORT: u16 = 50_051;

/// Caller `web` and service `payments`.
async fn mesh(app: &GrpcApp) -> Mesh {
    mesh_with(app.address().port(), Some(AppProtocol::Grpc)).await
}

async fn mesh_with(app_port: u16, protocol: Option<AppProtocol>) -> Mesh {
    let payments = workload("payments").port(PORT, app_port, protocol);
    Mesh::builder().http2(HTTP2).with(payments).with(workload("web").upstream(DESTINATION)).start().await
}

/// How a client gets to its sidecar.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `--upstream`
    LocalPort,
    /// CONNECT, as C core and Go do by themselves.
    Tunnel,
}

fn client(web: &Sidecar, way: Way) -> EchoClient<Channel> {
    match way {
        Way::LocalPort => grpc_client(web.upstream(DESTINATION)),
        Way::Tunnel => grpc_client_by_connect(web.outbound_http(), DESTINATION).0,
    }
}

/// Both sidecars have counted so many calls that ended so.
async fn counted(mesh: &Mesh, status: &str, calls: usize) {
    for (sidecar, direction) in [("web", "outbound"), ("payments", "inbound")] {
        let labels = [
            ("direction", direction),
            ("source", "default/web"),
            ("destination", "default/payments"),
            ("rpc_grpc_status_code", status),
        ];
        let count = || mesh.sidecar(sidecar).metrics().requests(&labels);
        let what = format!("{calls} {direction} calls with status {status}");
        eventually(&what, async || count() >= calls).await;
        assert_eq!(count(), calls, "{what}");
    }
}

/// Bytes that differ with the seed (SplitMix64).
fn generated(seed: u64, length: usize) -> Bytes {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
