//! Writes down what both ends of a delta stream say in this version: `make record-wire`, at each release. The next version's
//! test (`tests/skew/main.rs`) holds itself to it.
//!
//! One message a line, in hexadecimal digits: `>` what the sidecar sent, `<` what the control plane sent.

#[path = "../tests/skew/shop.rs"]
mod shop;

use std::collections::VecDeque;
use std::fmt::Write as _;

use meshwork_core::compile::{Audience, Features, compile};
use meshwork_core::resource::ResourceType;
use meshwork_xds::codec::{DeltaResponse, Encoded as _};
use meshwork_xds::convert::encode;
use meshwork_xds::session::client::Sidecar;
use meshwork_xds::session::{ClientSession, ServerSession, Session as _};
use meshwork_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;

const AUDIENCE: Audience = Audience::Sidecar(Features::ALL);

/// How far the story is once it is quiet.
#[derive(Clone, Copy)]
enum Told {
    Everything,
    TheChange,
}

fn main() {
    let mut client = ClientSession::new(Sidecar {
        workload: shop::WORKLOAD.to_owned(),
        trust_domain: shop::TRUST_DOMAIN.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: Features::ALL.names().map(str::to_owned).collect(),
        mesh_id: None,
    });
    let (mut server, mut mesh, mut story) = (ServerSession::new(), shop::mesh(), String::new());
    for name in shop::CALLED {
        client.want(name).expect("few are wanted");
    }
    let mut requests: VecDeque<DeltaDiscoveryRequest> = client.connected().into();
    let mut told = Told::Everything;
    loop {
        let request = requests.pop_front();
        match (&request, told) {
            (Some(request), _) => line('>', &request.encode_to_vec(), &mut story),
            (None, Told::Everything) => {
                story.push_str(shop::CHANGED);
                shop::change(&mut mesh);
            }
            (None, Told::TheChange) => break,
        }
        let resolve = &mut |resource_type: ResourceType, name: &str| {
            let compiled = compile(&mesh, resource_type, name, "default", AUDIENCE);
            Some(encode(&compiled.expect("a sidecar honours all")?, AUDIENCE))
        };
        let responses = match request {
            Some(request) => {
                server.request(request, "1", resolve).expect("nothing is wrong with it").responses
            }
            None => {
                told = Told::TheChange;
                server.changed(&mut shop::concerns, "2", resolve)
            }
        };
        for response in responses {
            requests.extend(take(&mut client, &response, &mut story));
        }
    }
    print!("{story}");
}

fn take(
    client: &mut ClientSession,
    response: &DeltaResponse,
    story: &mut String,
) -> Vec<DeltaDiscoveryRequest> {
    let mut bytes = Vec::new();
    response.encode(&mut bytes);
    line('<', &bytes, story);
    let response = DeltaDiscoveryResponse::decode(&bytes[..]).expect("the server's own bytes");
    let reaction = client.response(response).expect("one mesh");
    assert!(reaction.refused.is_empty(), "{:?}", reaction.refused);
    reaction.requests
}

fn line(direction: char, bytes: &[u8], story: &mut String) {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // A String takes everything.
    let _ = writeln!(story, "{direction} {digits}");
}
