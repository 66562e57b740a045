//! Version skew by the bytes of real processes: what an earlier version's sidecars and control plane said, over mutual TLS, held
//! against this version's control plane and sidecars. Meaning is compared: what is known, carried and done afterwards.
//!
//! | file | what |
//! |---|---|
//! | `calls.txt`, `peers.txt` | what was said with the control plane, and between sidecars |
//! | `recording.rs`, `frames.rs` | how it is written, and taken out of HTTP/2 |
//! | `record.rs`, `middle.rs` | how it was recorded |
//! | `raw.rs` | gRPC by bytes |
//! | `older_sidecar.rs` | an older sidecar joins this version's control plane |
//! | `older_peer.rs` | an older sidecar calls one of this version, and is called by it |
//! | `features.rs` | what sidecars announce that they can, with and without each |
//! | `older_control.rs` | a sidecar of this version in an older control plane's mesh |

mod features;
mod frames;
mod middle;
mod older_control;
mod older_peer;
mod older_sidecar;
mod raw;
mod record;
mod recording;

use std::path::PathBuf;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use meshwork_testkit::{get, post};

use recording::Recording;

const ENROL: &str = "/meshwork.v1.Enrollment/Enroll";
const RENEW: &str = "/meshwork.v1.Enrollment/Renew";
const SESSION: &str = "/meshwork.v1.Sidecar/Session";
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

const CALLS: &str = "calls.txt";
const PEERS: &str = "peers.txt";

/// cart is called: by web, and by plain, which speaks no HTTP/2 to other sidecars.
const ACCOUNTS: [&str; 3] = ["cart", "web", "plain"];

/// What web says to cart's opaque port, and hears again.
const HELLO: &[u8] = b"\x01opaque\0bytes";

/// `xmethod` becomes `:method` on its way to web, which is told of two methods then. It is refused.
const ODD: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: odd
spec:
  parentRefs:
  - group: \"\"
    kind: Service
    name: cart
    port: 80
  rules:
  - matches:
    - method: GET
      headers:
      - name: xmethod
        value: \"1\"
    backendRefs:
    - name: cart
      port: 80
  - backendRefs:
    - name: cart
      port: 80
";

const SPOILED_FROM: &[u8] = b"xmethod";
const SPOILED: &[u8] = b":method";

/// A request of web's and plain's to cart, which answers with its body.
struct Exchange {
    path: &'static str,
    /// Empty: a GET.
    body: &'static str,
    status: u16,
}

/// The POST goes first, on a new connection: one that was idle for a second would not do. The busy one is tried again, as
/// often as it may be.
const EXCHANGES: [Exchange; 4] = [
    Exchange { path: "/items", body: "one more item", status: 201 },
    Exchange { path: "/hello?a=b", body: "", status: 200 },
    Exchange { path: "/busy", body: "", status: 503 },
    Exchange { path: "/gone", body: "", status: 404 },
];

/// Further tries of all of them.
const RETRIES: u64 = 2;

impl Exchange {
    fn request(&self) -> Request<Full<Bytes>> {
        let url = format!("http://cart{}", self.path);
        if self.body.is_empty() { get(&url) } else { post(&url, self.body) }
    }
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/wire").join(name)
}

fn recorded(name: &str) -> Recording {
    let file = file(name);
    let text = std::fs::read_to_string(&file);
    Recording::parse(&text.unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display())))
}
