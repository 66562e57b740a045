//! Who is not who he says: certificates, requests for certificates and join tokens of every wrong kind.

use std::thread;
use std::time::{Duration, SystemTime};

use meshwork_core::model::SpiffeId;
use meshwork_identity::{Authority, Identity, JoinToken, KeyAndCsr, enrol_client_config};
use meshwork_xds::proto::{Certificate, EnrollRequest, RenewRequest};
use prost::Message as _;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::ground::{Between, Ground};
use crate::grpc::{Ended, call, framed};
use crate::memory::Memory;
use crate::recorder::Recorder;
use crate::support::wait_for;
use crate::tls;
use crate::wire::{Door, Wire};

const ENROL: &str = "/meshwork.v1.Enrollment/Enroll";
const RENEW: &str = "/meshwork.v1.Enrollment/Renew";

const INVALID_ARGUMENT: u16 = 3;
const OUT_OF_RANGE: u16 = 11;
const UNAUTHENTICATED: u16 = 16;

const PEAK_KIB_MAX: u64 = 96 * 1024;

type Claim = (&'static str, Vec<Vec<u8>>, PrivateKeyDer<'static>);

/// What somebody may show for a certificate.
fn claims(own: &Identity) -> Vec<Claim> {
    let now = SystemTime::now();
    let chain: Vec<Vec<u8>> = own.chain().iter().map(|der| der.to_vec()).collect();
    let own_key = || own.key().clone_key();
    let stranger = Authority::create("mesh.local", now).unwrap();
    let fresh = KeyAndCsr::generate().unwrap();
    let foreign =
        stranger.issue(&fresh.csr_der, own.spiffe_id(), Duration::from_secs(3_600), now).unwrap().chain_der;
    let elsewhere = Authority::create("other.mesh", now).unwrap();
    let other_id = SpiffeId::new("other.mesh", "default", "web").unwrap();
    let other =
        elsewhere.issue(&fresh.csr_der, &other_id, Duration::from_secs(3_600), now).unwrap().chain_der;
    let past = now - Duration::from_secs(7_200);
    let ended = Authority::create("mesh.local", past).unwrap();
    let ended =
        ended.issue(&fresh.csr_der, own.spiffe_id(), Duration::from_secs(60), past).unwrap().chain_der;
    let key = || fresh.key.clone_key();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = chain.clone();
        change(&mut changed[0]);
        changed
    };
    vec![
        ("of another root", foreign.clone(), key()),
        ("of another trust domain", other, key()),
        ("of another root, and ended", ended, key()),
        ("somebody's, without his key", chain.clone(), key()),
        ("a leaf without what signed it", vec![chain[0].clone()], own_key()),
        ("a leaf under another's intermediate", vec![chain[0].clone(), foreign[1].clone()], own_key()),
        ("another's leaf under the mesh's intermediate", vec![foreign[0].clone(), chain[1].clone()], key()),
        ("the intermediate as a leaf", vec![chain[1].clone()], own_key()),
        ("a changed signature", with(&|leaf| *leaf.last_mut().unwrap() ^= 1), own_key()),
        ("a changed name", with(&|leaf| replace(leaf, b"/sa/web", b"/sa/wex")), own_key()),
        ("cut", with(&|leaf| leaf.truncate(leaf.len() / 2)), own_key()),
        ("with more behind it", with(&|leaf| leaf.extend([0; 10])), own_key()),
        ("empty", vec![Vec::new()], key()),
        ("garbage", vec![vec![0x30; 1_000]], key()),
        ("a length that lies", vec![vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]], key()),
        ("sequences in sequences", vec![[0x30, 0x80].repeat(5_000)], key()),
        ("60 KB of it", vec![[&[0x30, 0x82, 0xea, 0x60][..], &[0; 60_000]].concat()], key()),
        ("a chain of 40 strangers", [&foreign[..1], &vec![foreign[1].clone(); 40]].concat(), key()),
        ("a chain of 10,000 stubs", [&chain[..1], &vec![vec![0x30, 0]; 10_000]].concat(), own_key()),
    ]
}

fn replace(bytes: &mut [u8], what: &[u8], with: &[u8]) {
    let at = bytes.windows(what.len()).position(|window| window == what).expect("the name is there");
    bytes[at..at + with.len()].copy_from_slice(with);
}

#[test]
fn nobody_comes_in_with_a_certificate_that_is_not_his() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let cart = ground.cart.sidecar().expect("it runs");
    let (sidecar, control) =
        (Memory::of("cart's sidecar", cart), Memory::of("the control plane", ground.mesh.control().pid()));
    let own = ground.enrolled("web").identity;
    let secret = b"GET /secret HTTP/1.1\r\nHost: cart\r\n\r\n";
    let mut doors: Vec<(String, Door)> = vec![
        ("in clear".to_owned(), Door { address: ground.inbound_address(), tls: None }),
        (
            "without one".to_owned(),
            Door { address: ground.inbound_address(), tls: Some(tls::anonymous(b"http/1.1")) },
        ),
    ];
    for (name, chain, key) in claims(&own) {
        let tls = Some(tls::claiming(&chain, &key, b"http/1.1"));
        doors.push((name.to_owned(), Door { address: ground.inbound_address(), tls }));
        // At the control plane such a one is not even a stranger.
        let door = Door { address: ground.control_address(), tls: Some(tls::claiming(&chain, &key, b"h2")) };
        let csr = RenewRequest { csr_der: KeyAndCsr::generate().unwrap().csr_der };
        let ended = call(&door, RENEW, &[], &framed(0, &csr.encode_to_vec()));
        assert_eq!(ended, Ended::default(), "{name}: the control plane answered");
    }
    for (name, door) in doors {
        let mut wire = door.open();
        // In TLS 1.3 a client is done before it was judged, so its words may go out.
        let _ = wire.send(secret);
        let answer = wire.rest();
        assert!(answer.is_empty(), "{name}: {:?}", String::from_utf8_lossy(&answer));
    }
    let (requests, _) = app.received();
    assert!(requests.iter().all(|request| request.path == "/ready"), "{requests:?}");
    sidecar.is_bounded(PEAK_KIB_MAX);
    control.is_bounded(PEAK_KIB_MAX);
    ground.still_works();
}

fn enrol(ground: &Ground, secret: &str, csr_der: &[u8]) -> Ended {
    let request = EnrollRequest { token_secret: secret.to_owned(), csr_der: csr_der.to_vec() };
    call(&ground.control_as_stranger(), ENROL, &[], &framed(0, &request.encode_to_vec()))
}

/// Whose certificate came.
fn certified(ended: &Ended, key: PrivateKeyDer<'static>) -> String {
    assert_eq!(ended.grpc, Some(0), "{ended:?}");
    let certificate = Certificate::decode(&ended.body[5..]).unwrap();
    let chain = certificate.chain_der.into_iter().map(CertificateDer::from).collect();
    Identity::new(chain, key).unwrap().spiffe_id().to_string()
}

#[test]
fn a_request_for_somebody_elses_certificate_gives_ones_own_or_none() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let token = ground.token("cart", &[]);
    let secret = token.secret.reveal();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "spiffe://mesh.local/ns/default/sa/payments");
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    params.subject_alt_names = vec![
        uri("spiffe://mesh.local/ns/default/sa/payments"),
        uri("spiffe://mesh.local/ns/meshwork-system/sa/control"),
    ];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let named = params.serialize_request(&key).unwrap();
    let key = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let cart = "spiffe://mesh.local/ns/default/sa/cart";
    assert_eq!(certified(&enrol(&ground, secret, named.der()), key()), cart);
    // The same by renewal, with web's certificate.
    let renewal = framed(0, &RenewRequest { csr_der: named.der().to_vec() }.encode_to_vec());
    let renewed = call(&ground.control_as("web"), RENEW, &[], &renewal);
    assert_eq!(certified(&renewed, key()), "spiffe://mesh.local/ns/default/sa/web");

    let own = KeyAndCsr::generate().unwrap().csr_der;
    let mut unproven = own.clone();
    *unproven.last_mut().unwrap() ^= 1;
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default().serialize_request(&p384).unwrap().der().to_vec();
    for (name, csr, expect) in [
        ("a signature that is wrong", unproven, INVALID_ARGUMENT),
        ("another kind of key", p384, INVALID_ARGUMENT),
        ("nothing", Vec::new(), INVALID_ARGUMENT),
        ("garbage", vec![0x30; 500], INVALID_ARGUMENT),
        ("half of it", own[..own.len() / 2].to_vec(), INVALID_ARGUMENT),
        ("more than it", [&own[..], &[0]].concat(), INVALID_ARGUMENT),
        ("sequences in sequences", [0x30, 0x80].repeat(4_000), INVALID_ARGUMENT),
        ("9 KB", vec![0; 9_000], INVALID_ARGUMENT),
        ("100 KB", vec![0; 100_000], OUT_OF_RANGE),
    ] {
        let ended = enrol(&ground, secret, &csr);
        assert_eq!(ended.grpc, Some(expect), "{name}: {ended:?}");
    }
    ground.still_works();
}

#[test]
fn a_token_is_worth_what_it_says_and_nothing_after() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let own = KeyAndCsr::generate().unwrap();
    let try_it = |secret: &str| enrol(&ground, secret, &own.csr_der);

    // Good once, and many try at the same moment.
    let once = ground.token("cart", &["--once"]);
    let tries = thread::scope(|scope| {
        let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| try_it(once.secret.reveal()))).collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    let good = tries.iter().filter(|ended| ended.grpc == Some(0)).count();
    let refused = tries.iter().filter(|ended| ended.grpc == Some(UNAUTHENTICATED)).count();
    assert_eq!((good, refused), (1, 7), "{tries:?}");
    assert_eq!(try_it(once.secret.reveal()).grpc, Some(UNAUTHENTICATED), "replayed");

    let short = ground.token("cart", &["--ttl", "1s"]);
    let ended = wait_for("the token to end", || {
        Some(try_it(short.secret.reveal())).filter(|ended| ended.grpc != Some(0))
    });
    assert_eq!(ended.grpc, Some(UNAUTHENTICATED));
    assert!(ended.told.contains("expired"), "{ended:?}");

    for secret in ["", "x", "' OR 1=1", "\0", "../../token", &"x".repeat(4_000)] {
        assert_eq!(try_it(secret).grpc, Some(UNAUTHENTICATED), "{secret:?}");
    }
    let foreign = meshwork_identity::TokenSecret::generate().unwrap();
    assert_eq!(try_it(foreign.reveal()).grpc, Some(UNAUTHENTICATED), "another mesh's");
    ground.still_works();
}

/// A token that was changed anywhere is refused by whoever reads it, leads to nobody who can prove himself, or is refused
/// by the control plane; or it says the same of who may come in.
#[test]
fn no_byte_of_a_token_can_be_changed_for_a_gain() {
    let app = Recorder::listen();
    let ground = Ground::start(Between::Http2, app.port);
    let token = ground.token("cart", &[]);
    let text = token.to_string();
    let own = KeyAndCsr::generate().unwrap();
    let (mut unread, mut unproven, mut refused) = (0, 0, 0);
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let Ok(changed) = String::from_utf8(changed).unwrap().parse::<JoinToken>() else {
            unread += 1;
            continue;
        };
        assert_ne!(changed, token, "a change that nobody can see, at {at}");
        if changed.root_hash != token.root_hash {
            // Who believes it turns away from the mesh's own control plane, before he has said his secret.
            let config = enrol_client_config(changed.root_hash, &[b"h2"]).unwrap();
            let mut wire = Wire::tls(ground.control_address(), config);
            assert!(wire.send("secret").is_err(), "another root is believed, at {at}");
            unproven += 1;
        } else if changed.secret != token.secret {
            let ended = enrol(&ground, changed.secret.reveal(), &own.csr_der);
            assert_eq!(ended.grpc, Some(UNAUTHENTICATED), "at {at}: {ended:?}");
            refused += 1;
        }
    }
    println!("{} bytes: {unread} unreadable, {unproven} to nobody, {refused} refused", text.len());
    assert!(unread > 0 && refused > 0 && unproven > 0, "{unread} {unproven} {refused}");
    ground.still_works();
}
