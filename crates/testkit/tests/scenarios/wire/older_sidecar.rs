//! Sidecars of an earlier version in a mesh of this version's control plane: each message of theirs as they sent it. What they are
//! answered, and what the control plane knows of them then.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use meshwork_core::resource::Resource;
use meshwork_identity::{Enrolled, JoinToken, enrol_client_config};
use meshwork_testkit::{Mesh, Sidecar, eventually, workload};
use meshwork_xds::convert::{Reference, from_wire};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::{Certificate, ControlMessage};
use meshwork_xds::resource_type;
use meshwork_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use serde_json::{Value, json};

use super::raw::Call;
use super::recording::{By, Conversation, Recording, replace, says};
use super::{
    ACCOUNTS, ADS, CALLS, ENROL, EXCHANGES, ODD, RENEW, RETRIES, SESSION, SPOILED, SPOILED_FROM, recorded,
};
use crate::ads::{channel, channel_by, enrolled};

/// What is played renews no lease: none may lapse, however slow the machine is. Recorded was another one.
const LEASE: Duration = Duration::from_secs(600);
const LEASE_RECORDED: u32 = 15;

/// A mesh of this version that has the earlier one's ID.
pub(crate) struct Replay {
    pub(crate) mesh: Mesh,
    pub(crate) calls: Recording,
    /// By account, each beside a sidecar of this version that only calls.
    pub(crate) members: BTreeMap<&'static str, (Sidecar, Enrolled)>,
}

impl Replay {
    pub(crate) async fn start() -> Self {
        let mesh = Mesh::builder().http2(true).control(|settings| settings.lease = LEASE).start().await;
        let (mut members, mut calls) = (BTreeMap::new(), recorded(CALLS));
        for account in ACCOUNTS {
            let sidecar = mesh.join(workload(account)).await;
            let enrolled = enrolled(&sidecar);
            members.insert(account, (sidecar, enrolled));
        }
        let mesh_id = calls.fact("mesh-id").to_owned();
        calls.replace(mesh_id, &members["web"].1.membership.mesh_id);
        Self { mesh, calls, members }
    }

    /// It registers as it did; its session, welcomed.
    pub(crate) async fn register(&self, account: &str) -> Call {
        let session = self.calls.one(account, "control", SESSION);
        let first = session.of(By::Client)[0];
        let mut call = Call::open(channel(&self.members[account].1).await, SESSION, first).await;
        let welcome = ControlMessage::decode(&call.hear("a welcome").await[..]).unwrap();
        assert!(matches!(welcome.message, Some(Down::Welcome(_))), "{welcome:?}");
        call
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.mesh.api("GET", path, "").await;
        assert_eq!(status, 200, "{answer:#}");
        answer
    }

    /// What operators are shown of its sidecar.
    async fn shown(&self, account: &str) -> Value {
        let (workload, status) = (self.calls.fact(account), self.mesh.status().await);
        let of_it = |proxy: &&Value| proxy["workload"] == workload;
        status["proxies"].as_array().unwrap().iter().find(of_it).cloned().unwrap_or_default()
    }
}

#[tokio::test]
async fn an_older_sidecar_joins_and_its_certificate_is_renewed() {
    let replay = Replay::start().await;
    let address = replay.mesh.control_address().to_string();
    for account in ACCOUNTS {
        let Conversation { said, .. } = replay.calls.one(account, "control", ENROL);
        let token: JoinToken = replay.mesh.operator().token("default", account).await.parse().unwrap();
        let mut asked = said[0].1.clone();
        let blank = replay.calls.fact(&format!("secret-of-{account}"));
        assert_eq!(replace(&mut asked, blank.as_bytes(), token.secret.reveal().as_bytes()), 1);
        let tls = enrol_client_config(token.root_hash, &[b"h2"]).unwrap();
        let answer = Call::once(channel_by(tls, address.clone()).await, ENROL, &asked).await;
        assert_same_certificate(&answer, &said[1].1, account);
    }
    let renewals = replay.calls.conversations.iter().filter(|one| one.about == RENEW);
    for Conversation { client, said, .. } in renewals {
        let channel = channel(&replay.members[&**client].1).await;
        let answer = Call::once(channel, RENEW, &said[0].1).await;
        assert_same_certificate(&answer, &said[1].1, client);
    }
}

/// Both are of the same mesh for the same service; the signatures alone are another authority's.
#[track_caller]
fn assert_same_certificate(ours: &[u8], theirs: &[u8], account: &str) {
    let [ours, theirs] = [ours, theirs].map(|bytes| {
        let Certificate { chain_der, roots_der, spiffe_id, mesh_id, service, namespace } =
            Certificate::decode(bytes).unwrap();
        (chain_der.len(), public_key(&chain_der[0]), roots_der.len(), spiffe_id, mesh_id, service, namespace)
    });
    assert_eq!(ours, theirs);
    assert_eq!(ours.3, format!("spiffe://mesh.local/ns/default/sa/{account}"));
    assert_eq!((&*ours.5, &*ours.6), (account, "default"));
}

/// The one that was asked for is the first in a certificate: an uncompressed point of P-256 (RFC 5480, 2.2).
fn public_key(leaf: &[u8]) -> Vec<u8> {
    const POINT: [u8; 4] = [0x03, 0x42, 0x00, 0x04];
    let place = leaf.windows(POINT.len()).position(|window| window == POINT).expect("a key");
    leaf[place + POINT.len()..][..64].to_vec()
}

#[tokio::test]
async fn an_older_sidecar_registers_tells_what_it_sees_and_is_drained() {
    let replay = Replay::start().await;
    let session = replay.calls.one("cart", "control", SESSION);
    let mut call: Option<Call> = None;
    let mut is_shown = false;
    for (by, message) in &session.said {
        match (by, &mut call) {
            (By::Client, Some(call)) => call.say(message).await,
            (By::Client, None) => {
                call = Some(Call::open(channel(&replay.members["cart"].1).await, SESSION, message).await);
            }
            (By::Server, call) => {
                let mut told = ControlMessage::decode(&message[..]).unwrap();
                if let Some(Down::Welcome(welcome)) = &mut told.message {
                    assert_eq!(welcome.lease_seconds, LEASE_RECORDED);
                    welcome.lease_seconds = LEASE.as_secs() as u32;
                }
                if matches!(told.message, Some(Down::DrainOrder(_))) {
                    let path =
                        format!("/api/v1/namespaces/default/workloads/{}/drain", replay.calls.fact("cart"));
                    assert_eq!(replay.mesh.api("POST", &path, "").await.0, 200);
                }
                let ours = call.as_mut().expect("it spoke first").hear("an answer").await;
                assert_eq!(ControlMessage::decode(&ours[..]).unwrap(), told);
                assert!(told.message.is_some(), "no message of this version: {message:?}");
                if !is_shown {
                    assert_shown(&replay).await;
                    is_shown = true;
                }
            }
        }
    }
    eventually("it is out", async || replay.shown("cart").await["health"] == "draining").await;
}

/// All that it registered is known.
async fn assert_shown(replay: &Replay) {
    let cart = replay.shown("cart").await;
    let shown = (&cart["service"], &cart["version"], &cart["health"], &cart["connected"]);
    assert_eq!(shown, (&json!("cart"), &json!("0.1.0"), &json!("healthy"), &json!(true)));
    assert!(cart["clockAheadSeconds"].as_i64().is_some_and(|ahead| ahead < 0), "it was recorded: {cart:#}");
    let described = replay.get("/api/v1/describe/services/default/cart").await;
    let endpoints = described["endpoints"].as_array().unwrap();
    let told: Vec<_> = endpoints
        .iter()
        .map(|one| {
            (
                one["port"].clone(),
                one["address"].clone(),
                one["appPort"].to_string(),
                one["transports"].clone(),
            )
        })
        .collect();
    let transports = json!(["mtls-http2", "mtls-http1", "mtls-tcp"]);
    let fact = |name: &str| replay.calls.fact(name).to_owned();
    let expected = [(80, "cart-80", "http-port"), (90, "cart-90", "tcp-port")]
        .map(|(port, address, app)| (json!(port), json!(fact(address)), fact(app), transports.clone()));
    assert_eq!(told, expected);
    let workload = replay.get(&format!("/api/v1/namespaces/default/workloads/{}", fact("cart"))).await;
    let labels = &workload["metadata"]["labels"];
    assert_eq!((&labels["app"], &labels["tier"]), (&json!("cart"), &json!("back")), "{workload:#}");
    let service = replay.get("/api/v1/namespaces/default/services/cart").await;
    let ports = service["spec"]["ports"].as_array().unwrap();
    let protocols: Vec<_> = ports.iter().map(|port| (&port["port"], &port["appProtocol"])).collect();
    assert_eq!(protocols, [(&json!(80), &json!("http")), (&json!(90), &json!("tcp"))], "{service:#}");
}

#[tokio::test]
async fn what_an_older_sidecar_sees_is_shown() {
    let replay = Replay::start().await;
    let call = replay.register("web").await;
    let told = replay.calls.one("web", "control", SESSION).of(By::Client);
    // What is told later replaces it.
    let last = told.iter().rposition(|message| says(message, b"default/cart:80")).expect("it told of cart");
    for message in &told[1..=last] {
        call.say(message).await;
    }
    let expected = json!([{
        "backend": "default/cart:80", "requests": EXCHANGES.len(), "retries": RETRIES, "budgetUsedUp": false, "ejected": []
    }]);
    let summary = async || replay.shown("web").await["summary"].clone();
    eventually("its summary is shown", async || summary().await["backends"] == expected).await;
    assert_eq!(summary().await["config"], "current");
}

#[tokio::test]
async fn an_older_sidecar_is_told_what_its_own_control_plane_told_it() {
    let replay = Replay::start().await;
    let mut sessions = Vec::new();
    for account in ACCOUNTS {
        sessions.push(replay.register(account).await);
    }
    let ads = replay.calls.one("web", "control", ADS);
    let mut theirs = ToldOf::new();
    for response in ads.of(By::Server).into_iter().take_while(|bytes| !says(bytes, SPOILED)) {
        note(&mut theirs, &DeltaDiscoveryResponse::decode(response).unwrap());
    }
    assert!(theirs.len() > 8, "{:?} show little", theirs.keys());

    let mut requests = ads.of(By::Client).into_iter();
    let mut call = Call::open(channel(&replay.members["web"].1).await, ADS, requests.next().unwrap()).await;
    let answers = ads.of(By::Client).into_iter().map(|bytes| DeltaDiscoveryRequest::decode(bytes).unwrap());
    let (refusals, taken): (Vec<_>, Vec<_>) =
        answers.filter(|one| !one.response_nonce.is_empty()).partition(|one| one.error_detail.is_some());
    for request in requests {
        let mut request = DeltaDiscoveryRequest::decode(request).unwrap();
        request.response_nonce.clear();
        request.error_detail = None;
        let asks =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        if asks {
            call.say(&request.encode_to_vec()).await;
        }
    }
    let mut ours = ToldOf::new();
    let as_recorded = |ours: &ToldOf| theirs.iter().all(|(name, one)| ours.get(name) == Some(one));
    while !as_recorded(&ours) {
        let missing: Vec<_> = theirs.iter().filter(|(name, one)| ours.get(name) != Some(one)).collect();
        let instead: Vec<_> = missing.iter().map(|(name, _)| ours.get(name)).collect();
        let what = format!("{missing:#?} instead of {instead:#?}");
        let response = DeltaDiscoveryResponse::decode(&call.hear(&what).await[..]).unwrap();
        note(&mut ours, &response);
        let answer = taken.iter().find(|one| one.type_url == response.type_url).expect("it takes all types");
        call.say(&answered(answer, &response)).await;
    }

    replay.mesh.apply(ODD).await;
    loop {
        let bytes = call.hear("the route").await;
        let response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
        if says(&bytes, SPOILED_FROM) {
            call.say(&answered(&refusals[0], &response)).await;
            break;
        }
        let answer = taken.iter().find(|one| one.type_url == response.type_url).expect("it takes all types");
        call.say(&answered(answer, &response)).await;
    }
    let nacks = async || replay.shown("web").await["config"]["nacks"].clone();
    eventually("its refusal is shown", async || nacks().await[0] != Value::Null).await;
    let nack = nacks().await[0].clone();
    assert_eq!((&nack["type"], &nack["name"]), (&json!("route"), &json!("default/cart:80")), "{nack:#}");
    let reason = nack["reason"].as_str().unwrap();
    assert!(reason.ends_with("match.headers[1]: names the method twice"), "{reason}");
}

/// What it answered, about this response.
fn answered(answer: &DeltaDiscoveryRequest, response: &DeltaDiscoveryResponse) -> Vec<u8> {
    let answer = DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..answer.clone() };
    let answer = DeltaDiscoveryRequest {
        resource_names_subscribe: Vec::new(),
        resource_names_unsubscribe: Vec::new(),
        initial_resource_versions: Default::default(),
        ..answer
    };
    answer.encode_to_vec()
}

/// Resources by name, `None`: there is none of it.
type ToldOf = BTreeMap<Reference, Option<Resource>>;

fn note(told: &mut ToldOf, response: &DeltaDiscoveryResponse) {
    let of_type = resource_type(&response.type_url).unwrap();
    for resource in &response.resources {
        let any = resource.resource.as_ref().unwrap();
        let read = from_wire(&any.type_url, &resource.name, &any.value).expect("it is understood");
        told.insert(Reference::new(of_type, &*resource.name), Some(comparable(read)));
    }
    for name in &response.removed_resources {
        told.insert(Reference::new(of_type, &**name), None);
    }
}

/// Without the keys of the authority, which is another one, and the prefix that each mesh draws for its IPv6 addresses.
fn comparable(mut resource: Resource) -> Resource {
    match &mut resource {
        Resource::MeshSettings(settings) => {
            settings.issuing_root.clear();
            for ranges in [&mut settings.ranges, &mut settings.virtual_ranges] {
                ranges.retain(|range| range.addr().is_ipv4());
            }
        }
        Resource::TrustBundle(bundle) => bundle.roots.iter_mut().for_each(Vec::clear),
        Resource::NameTable(table) => {
            for named in table.services.values_mut() {
                let [_, _, _, _, own @ ..] = named.v6.segments();
                let [a, b, c, d] = own;
                named.v6 = Ipv6Addr::new(0, 0, 0, 0, a, b, c, d);
            }
        }
        _ => {}
    }
    resource
}
