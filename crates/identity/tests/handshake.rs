//! Who is let in: real rustls handshakes, client and server in one thread, bytes handed over in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_core::model::SpiffeId;
use meshwork_identity::{
    Authority, CLOCK_SKEW, Enrolled, Identity, KeyAndCsr, Membership, PeerRefused, Refusal, RootHash,
    TrustBundle, check_peer, check_renewable, client_config, control_client_config, control_id,
    control_server_config, enrol_client_config, server_config, session_name,
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use rustls_pki_types::CertificateDer;

const H1: &[u8] = b"http/1.1";
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A mesh of the trust domain `mesh.local`, founded ten days ago.
struct Mesh {
    authority: Authority,
}

impl Mesh {
    fn new() -> Self {
        Self { authority: Authority::create("mesh.local", SystemTime::now() - 10 * DAY).unwrap() }
    }

    fn identity(&self, service: &str) -> Identity {
        self.identity_from(&id(service), SystemTime::now(), DAY)
    }

    fn identity_from(&self, id: &SpiffeId, now: SystemTime, ttl: Duration) -> Identity {
        let request = KeyAndCsr::generate().unwrap();
        let issued = self.authority.issue(&request.csr_der, id, ttl, now).unwrap();
        let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        Identity::new(chain, request.key).unwrap()
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        Arc::new(self.authority.bundle().clone())
    }

    fn client(&self, service: &str, expected: &[&str]) -> Arc<ClientConfig> {
        client_config(&self.identity(service), &self.bundle(), &ids(expected), &[H1]).unwrap()
    }

    fn server(&self, service: &str) -> Arc<ServerConfig> {
        server_config(&self.identity(service), &self.bundle(), &[H1]).unwrap()
    }

    fn control(&self, id: &SpiffeId) -> Arc<ServerConfig> {
        let identity = self.identity_from(id, SystemTime::now(), DAY);
        control_server_config(&identity, &self.bundle(), &[], &[b"h2"]).unwrap()
    }
}

fn id(service: &str) -> SpiffeId {
    SpiffeId::new("mesh.local", "default", service).unwrap()
}

fn ids(services: &[&str]) -> BTreeSet<SpiffeId> {
    services.iter().map(|service| id(service)).collect()
}

struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

/// What each side said when it gave up.
#[derive(Debug)]
struct Failed {
    client: Option<rustls::Error>,
    server: Option<rustls::Error>,
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Pair, Box<Failed>> {
    let name = session_name("127.0.0.1:4321".parse().unwrap());
    let mut pair = Pair {
        client: ClientConnection::new(client.clone(), name).unwrap(),
        server: ServerConnection::new(server.clone()).unwrap(),
    };
    let mut failed = Failed { client: None, server: None };
    loop {
        let mut moved = 0;
        let mut wire = Vec::new();
        while pair.client.wants_write() {
            moved += pair.client.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() && failed.server.is_none() {
            pair.server.read_tls(&mut input).unwrap();
            failed.server = pair.server.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while pair.server.wants_write() {
            moved += pair.server.write_tls(&mut wire).unwrap();
        }
        let mut input = &wire[..];
        while !input.is_empty() && failed.client.is_none() {
            pair.client.read_tls(&mut input).unwrap();
            failed.client = pair.client.process_new_packets().err();
        }
        if moved == 0 {
            break;
        }
    }
    if failed.client.is_some() || failed.server.is_some() {
        return Err(Box::new(failed));
    }
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking(), "the handshake got stuck");
    Ok(pair)
}

#[track_caller]
fn refused_by_client(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> PeerRefused {
    let failed = handshake(client, server).err().expect("the client let a wrong server in");
    PeerRefused::of(&failed.client.expect("the client said nothing")).expect("not our refusal").clone()
}

#[track_caller]
fn refused_by_server(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> PeerRefused {
    let failed = handshake(client, server).err().expect("the server let a wrong client in");
    PeerRefused::of(&failed.server.expect("the server said nothing")).expect("not our refusal").clone()
}

impl Pair {
    fn kinds(&self) -> (HandshakeKind, HandshakeKind) {
        (self.client.handshake_kind().unwrap(), self.server.handshake_kind().unwrap())
    }

    fn server_seen_at(&self, expected: &[&str], now: SystemTime) -> Result<SpiffeId, PeerRefused> {
        let certificates = self.client.peer_certificates().unwrap();
        check_peer(certificates, Some(&ids(expected)), "mesh.local", now).map(|peer| peer.id)
    }

    fn client_seen_at(&self, now: SystemTime) -> Result<SpiffeId, PeerRefused> {
        let certificates = self.server.peer_certificates().unwrap();
        check_peer(certificates, None, "mesh.local", now).map(|peer| peer.id)
    }
}

#[test]
fn the_right_pair_connects_with_tls_1_3_and_post_quantum_keys() {
    let mesh = Mesh::new();
    let pair = handshake(&mesh.client("web", &["cart"]), &mesh.server("cart")).unwrap();
    assert_eq!(pair.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = pair.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(pair.client.alpn_protocol(), Some(H1));
    assert_eq!(pair.server.server_name(), None, "the client told where it goes");
    assert_eq!(pair.kinds(), (HandshakeKind::Full, HandshakeKind::Full));
    let now = SystemTime::now();
    assert_eq!(pair.server_seen_at(&["cart"], now), Ok(id("cart")));
    assert_eq!(pair.client_seen_at(now), Ok(id("web")));
}

#[test]
fn a_strangers_root_is_refused_by_both_sides() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let refused = refused_by_client(&mesh.client("web", &["cart"]), &stranger.server("cart"));
    assert_eq!(refused, PeerRefused { peer: Some(id("cart")), reason: Refusal::UnknownRoot });

    // A stranger's client that takes us for good, but comes with its own certificate.
    let client = client_config(&stranger.identity("web"), &mesh.bundle(), &ids(&["cart"]), &[H1]).unwrap();
    let refused = refused_by_server(&client, &mesh.server("cart"));
    assert_eq!(refused, PeerRefused { peer: Some(id("web")), reason: Refusal::UnknownRoot });
}

#[test]
fn the_right_root_with_the_wrong_service_is_refused() {
    let mesh = Mesh::new();
    let refused = refused_by_client(&mesh.client("web", &["payments"]), &mesh.server("cart"));
    assert_eq!(refused.peer, Some(id("cart")));
    assert_eq!(
        refused.to_string(),
        "refused spiffe://mesh.local/ns/default/sa/cart: expected spiffe://mesh.local/ns/default/sa/payments"
    );

    // A server that knows which client it wants asks after the handshake.
    let pair = handshake(&mesh.client("batch", &["cart"]), &mesh.server("cart")).unwrap();
    let certificates = pair.server.peer_certificates().unwrap();
    let refused =
        check_peer(certificates, Some(&ids(&["web"])), "mesh.local", SystemTime::now()).unwrap_err();
    assert_eq!((refused.peer.clone(), refused.reason.word()), (Some(id("batch")), "wrong_service"));
}

#[test]
fn nobody_is_expected_where_no_identity_is_declared() {
    let mesh = Mesh::new();
    let refused = refused_by_client(&mesh.client("web", &[]), &mesh.server("cart"));
    assert!(refused.to_string().contains("no identity is declared"), "{refused}");
}

#[test]
fn another_trust_domain_below_the_same_root_is_refused() {
    let mesh = Mesh::new();
    let bundle = Arc::new(TrustBundle::new("other.local", mesh.authority.roots().to_vec()).unwrap());
    let server = server_config(&mesh.identity("cart"), &bundle, &[H1]).unwrap();
    let refused = refused_by_server(&mesh.client("web", &["cart"]), &server);
    assert_eq!(refused.reason.word(), "foreign_trust_domain");
}

#[test]
fn a_certificate_counts_only_within_its_time() {
    let mesh = Mesh::new();
    let now = SystemTime::now();
    let expired = mesh.identity_from(&id("cart"), now - DAY, HOUR);
    let server = server_config(&expired, &mesh.bundle(), &[H1]).unwrap();
    let refused = refused_by_client(&mesh.client("web", &["cart"]), &server);
    assert_eq!(
        refused,
        PeerRefused { peer: Some(id("cart")), reason: Refusal::Expired(expired.not_after()) }
    );

    let early = mesh.identity_from(&id("web"), now + CLOCK_SKEW + HOUR, HOUR);
    let client = client_config(&early, &mesh.bundle(), &ids(&["cart"]), &[H1]).unwrap();
    let refused = refused_by_server(&client, &mesh.server("cart"));
    assert_eq!(refused.reason, Refusal::NotYetValid(early.not_before()));
}

#[test]
fn a_client_without_a_certificate_is_let_in_by_the_control_plane_only() {
    let mesh = Mesh::new();
    let client = enrol_client_config(mesh.authority.root_key_hash(), &[H1]).unwrap();
    let identity = mesh.identity_from(&control_id("mesh.local").unwrap(), SystemTime::now(), DAY);
    assert!(
        handshake(&client, &control_server_config(&identity, &mesh.bundle(), &[], &[H1]).unwrap()).is_ok()
    );

    // The same certificates on a sidecar's terms: so nothing but the missing certificate can fail.
    let chain = [identity.chain(), mesh.authority.roots()].concat();
    let identity = Identity::new(chain, identity.key().clone_key()).unwrap();
    let failed = handshake(&client, &server_config(&identity, &mesh.bundle(), &[H1]).unwrap()).err().unwrap();
    assert_eq!(failed.server, Some(rustls::Error::NoCertificatesPresented));
}

#[test]
fn a_leaf_can_not_make_others() {
    let mesh = Mesh::new();
    let cart = mesh.identity("cart");
    let key = rcgen::KeyPair::try_from(cart.key()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&cart.chain()[0], key).unwrap();
    let forged_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(id("payments").to_string().try_into().unwrap())];
    params.distinguished_name = rcgen::DistinguishedName::new();
    let forged = params.signed_by(&forged_key, &issuer).unwrap();
    let mut chain = vec![forged.der().clone()];
    chain.extend_from_slice(cart.chain());
    let forged = Identity::new(chain, forged_key.into()).unwrap();
    let server = server_config(&forged, &mesh.bundle(), &[H1]).unwrap();
    let refused = refused_by_client(&mesh.client("web", &["payments"]), &server);
    assert!(matches!(refused.reason, Refusal::Invalid(_) | Refusal::UnknownRoot), "{refused}");
}

#[test]
fn a_resumed_session_is_refused_once_a_certificate_has_expired() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.client("web", &["cart"]), mesh.server("cart"));
    handshake(&client, &server).unwrap();
    let resumed = handshake(&client, &server).unwrap();
    assert_eq!(resumed.kinds(), (HandshakeKind::Resumed, HandshakeKind::Resumed));

    let now = SystemTime::now();
    assert_eq!(resumed.server_seen_at(&["cart"], now), Ok(id("cart")));
    assert_eq!(resumed.client_seen_at(now), Ok(id("web")));
    for refused in [resumed.server_seen_at(&["cart"], now + 2 * DAY), resumed.client_seen_at(now + 2 * DAY)] {
        assert_eq!(refused.unwrap_err().reason.word(), "expired");
    }
    assert_eq!(resumed.server_seen_at(&["payments"], now).unwrap_err().reason.word(), "wrong_service");
}

#[test]
fn tickets_die_with_the_config_that_gave_them() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.client("web", &["cart"]), mesh.server("cart"));
    handshake(&client, &server).unwrap();

    // The server got a new bundle or certificate: the client's tickets are worth nothing.
    let renewed = mesh.server("cart");
    assert_eq!(handshake(&client, &renewed).unwrap().kinds(), (HandshakeKind::Full, HandshakeKind::Full));
    // The client got one: it offers none.
    let fresh = mesh.client("web", &["cart"]);
    assert_eq!(handshake(&fresh, &server).unwrap().kinds().1, HandshakeKind::Full);
    // Control: within one pair of configs resumption goes on.
    assert_eq!(handshake(&client, &renewed).unwrap().kinds().1, HandshakeKind::Resumed);
}

#[test]
fn a_replaced_root_is_believed_while_both_are_in_the_bundle() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let both = [old.authority.roots(), new.authority.roots()].concat();
    let bundle = Arc::new(TrustBundle::new("mesh.local", both).unwrap());
    let client = client_config(&new.identity("web"), &bundle, &ids(&["cart"]), &[H1]).unwrap();
    let server = server_config(&old.identity("cart"), &bundle, &[H1]).unwrap();
    assert!(handshake(&client, &server).is_ok());
    assert_ne!(bundle.version(), old.bundle().version());
}

#[test]
fn a_token_holder_believes_the_pinned_root_only() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let control = control_id("mesh.local").unwrap();
    let pinned = |hash: RootHash| enrol_client_config(hash, &[b"h2"]).unwrap();

    let pair = handshake(&pinned(mesh.authority.root_key_hash()), &mesh.control(&control)).unwrap();
    assert!(pair.server.peer_certificates().is_none(), "who enrols has no certificate");

    let refused = refused_by_client(&pinned(stranger.authority.root_key_hash()), &mesh.control(&control));
    assert_eq!(refused.reason, Refusal::UnknownRoot);

    // cart's certificate is genuine, but cart is not the control plane.
    let refused = refused_by_client(&pinned(mesh.authority.root_key_hash()), &mesh.control(&id("cart")));
    assert_eq!(refused.to_string().split_once(": ").unwrap().1, "expected the mesh's control plane");

    // A stranger shows the pinned root beside a chain of its own.
    let mut certificates = stranger.authority.roots().to_vec();
    certificates.extend_from_slice(mesh.authority.roots());
    let bundle = Arc::new(TrustBundle::new("mesh.local", certificates).unwrap());
    let identity = stranger.identity_from(&control, SystemTime::now(), DAY);
    let server = control_server_config(&identity, &bundle, &[], &[b"h2"]).unwrap();
    let refused = refused_by_client(&pinned(mesh.authority.root_key_hash()), &server);
    assert_eq!(refused.reason, Refusal::UnknownRoot);
}

#[test]
fn an_enrolled_sidecar_and_the_control_plane_know_each_other() {
    let mesh = Mesh::new();
    let control = mesh.control(&control_id("mesh.local").unwrap());
    let client = control_client_config(&mesh.identity("cart"), &mesh.bundle(), &[b"h2"]).unwrap();
    let pair = handshake(&client, &control).unwrap();
    assert_eq!(pair.client_seen_at(SystemTime::now()), Ok(id("cart")));
    assert_eq!(refused_by_client(&client, &mesh.control(&id("web"))).reason.word(), "wrong_service");

    let stranger = Mesh::new();
    let client = control_client_config(&stranger.identity("cart"), &mesh.bundle(), &[b"h2"]).unwrap();
    assert_eq!(refused_by_server(&client, &control).reason, Refusal::UnknownRoot);
}

#[test]
fn what_was_saved_is_what_was_enrolled() {
    use std::os::unix::fs::PermissionsExt;

    let mesh = Mesh::new();
    let request = KeyAndCsr::generate().unwrap();
    let issued = mesh.authority.issue(&request.csr_der, &id("cart"), DAY, SystemTime::now()).unwrap();
    let roots = mesh.authority.roots().iter().map(|root| root.to_vec()).collect();
    let text = |text: &str| text.to_owned();
    let membership = Membership {
        mesh_id: text("m1"),
        service: text("cart"),
        namespace: text("default"),
        control: text("127.0.0.1:4190"),
    };
    let enrolled = Enrolled::new(request.key, issued.chain_der, roots, membership).unwrap();

    let directory = tempfile::tempdir().unwrap();
    assert!(Enrolled::load(directory.path()).unwrap().is_none());
    enrolled.save(directory.path()).unwrap();
    enrolled.save(directory.path()).unwrap();
    let file = directory.path().join("identity.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(directory.path().read_dir().unwrap().count(), 1, "a temporary file was left");

    let loaded = Enrolled::load(directory.path()).unwrap().unwrap();
    assert_eq!(loaded.membership, enrolled.membership);
    assert_eq!(loaded.bundle, enrolled.bundle);
    let client = client_config(&loaded.identity, &loaded.bundle, &ids(&["web"]), &[H1]).unwrap();
    assert!(handshake(&client, &mesh.server("web")).is_ok());

    let shown = format!("{loaded:?}");
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(key.contains("PRIVATE KEY") && !shown.contains("PRIVATE"), "{shown}");
    std::fs::write(&file, &key[..key.len() / 2]).unwrap();
    let error = Enrolled::load(directory.path()).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("join token"), "{error}");
    let aside = Enrolled::set_aside(directory.path()).unwrap();
    assert!(aside.exists() && Enrolled::load(directory.path()).unwrap().is_none());
}

/// Two roots of one mesh, the second one to replace the first, and who has been told what.
struct Rotation {
    old: Mesh,
    new: Mesh,
}

impl Rotation {
    fn new() -> Self {
        Self { old: Mesh::new(), new: Mesh::new() }
    }

    fn both(&self) -> Arc<TrustBundle> {
        let roots = [self.old.authority.roots(), self.new.authority.roots()].concat();
        Arc::new(TrustBundle::new("mesh.local", roots).unwrap())
    }

    /// A leaf of the new root, with the old one's word for it.
    fn renewed(&self, id: &SpiffeId) -> Identity {
        let request = KeyAndCsr::generate().unwrap();
        let now = SystemTime::now();
        let issued = self.new.authority.issue(&request.csr_der, id, DAY, now).unwrap();
        let vouching = self.old.authority.vouch_for(&self.new.authority, now).unwrap();
        let mut chain: Vec<_> = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        chain.push(vouching);
        Identity::new(chain, request.key).unwrap()
    }
}

#[test]
fn while_a_root_is_replaced_everybody_believes_everybody() {
    let rotation = Rotation::new();
    let identity = |service, is_new| match is_new {
        true => rotation.renewed(&id(service)),
        false => rotation.old.identity(service),
    };
    let bundle = |knows_both| if knows_both { rotation.both() } else { rotation.old.bundle() };
    for (web_is_new, cart_is_new) in [(false, false), (false, true), (true, false), (true, true)] {
        // Whoever renewed was told both roots with that; others perhaps not yet.
        for (web_knows, cart_knows) in [(false, false), (false, true), (true, false), (true, true)] {
            let (web, cart) = (identity("web", web_is_new), identity("cart", cart_is_new));
            let (web_knows, cart_knows) =
                (bundle(web_knows || web_is_new), bundle(cart_knows || cart_is_new));
            let client = client_config(&web, &web_knows, &ids(&["cart"]), &[H1]).unwrap();
            let server = server_config(&cart, &cart_knows, &[H1]).unwrap();
            let pair = handshake(&client, &server);
            assert!(pair.is_ok(), "{web_is_new} {cart_is_new}: {:?}", pair.err());
        }
    }
}

#[test]
fn without_the_old_roots_word_a_new_leaf_is_a_strangers() {
    let rotation = Rotation::new();
    let client = rotation.old.client("web", &["cart"]);
    let bare = server_config(&rotation.new.identity("cart"), &rotation.both(), &[H1]).unwrap();
    assert_eq!(refused_by_client(&client, &bare).reason, Refusal::UnknownRoot);
}

#[test]
fn a_retired_roots_leaf_is_refused_and_its_word_is_worth_nothing() {
    let rotation = Rotation::new();
    let only_new = rotation.new.bundle();
    let client = client_config(&rotation.renewed(&id("web")), &only_new, &ids(&["cart"]), &[H1]).unwrap();
    assert_eq!(refused_by_client(&client, &rotation.old.server("cart")).reason, Refusal::UnknownRoot);
    let server = server_config(&rotation.renewed(&id("cart")), &only_new, &[H1]).unwrap();
    assert!(handshake(&client, &server).is_ok());
    assert_eq!(
        refused_by_server(&rotation.old.client("web", &["cart"]), &server).reason,
        Refusal::UnknownRoot
    );
}

#[test]
fn tokens_of_either_root_reach_a_control_plane_that_is_replacing_one() {
    let rotation = Rotation::new();
    let vouching = rotation.new.authority.vouch_for(&rotation.old.authority, SystemTime::now()).unwrap();
    let control = control_id("mesh.local").unwrap();
    let identity = rotation.old.identity_from(&control, SystemTime::now(), DAY);
    let server = control_server_config(&identity, &rotation.both(), &[vouching], &[b"h2"]).unwrap();
    for mesh in [&rotation.old, &rotation.new] {
        let token = enrol_client_config(mesh.authority.root_key_hash(), &[b"h2"]).unwrap();
        let pair = handshake(&token, &server);
        assert!(pair.is_ok(), "{:?}", pair.err());
    }
    let stranger = enrol_client_config(Mesh::new().authority.root_key_hash(), &[b"h2"]).unwrap();
    assert_eq!(refused_by_client(&stranger, &server).reason, Refusal::UnknownRoot);
    // Afterwards the old root's tokens are worth nothing.
    let retired = rotation.new.control(&control);
    let token = enrol_client_config(rotation.old.authority.root_key_hash(), &[b"h2"]).unwrap();
    assert_eq!(refused_by_client(&token, &retired).reason, Refusal::UnknownRoot);
}

#[test]
fn a_certificate_that_has_just_ended_reaches_the_control_plane_and_nobody_else() {
    let mesh = Mesh::new();
    let signed = |ago| mesh.identity_from(&id("web"), SystemTime::now() - ago, DAY);
    let control = mesh.control(&control_id("mesh.local").unwrap());
    let to_control = |identity: &Identity| control_client_config(identity, &mesh.bundle(), &[b"h2"]).unwrap();
    let ended = signed(DAY + HOUR);
    let pair = handshake(&to_control(&ended), &control).unwrap();
    let now = SystemTime::now();
    let certificates = pair.server.peer_certificates().unwrap();
    assert_eq!(pair.client_seen_at(now).unwrap_err().reason.word(), "expired");
    assert_eq!(check_renewable(certificates, "mesh.local", now).unwrap().id, id("web"));
    let late = now + DAY;
    assert_eq!(check_renewable(certificates, "mesh.local", late).unwrap_err().reason.word(), "expired");
    // Too late, a stranger's, and anybody else's door.
    let long_ended = refused_by_server(&to_control(&signed(2 * DAY + HOUR)), &control);
    assert_eq!(long_ended.reason.word(), "expired");
    let stranger = Mesh::new().identity_from(&id("web"), SystemTime::now() - DAY - HOUR, DAY);
    assert_eq!(refused_by_server(&to_control(&stranger), &control).reason, Refusal::UnknownRoot);
    let client = client_config(&ended, &mesh.bundle(), &ids(&["cart"]), &[H1]).unwrap();
    assert_eq!(refused_by_server(&client, &mesh.server("cart")).reason.word(), "expired");
}

#[test]
fn a_sidecar_knows_below_which_root_it_stands() {
    let rotation = Rotation::new();
    let membership = Membership {
        mesh_id: "m".to_owned(),
        service: "cart".to_owned(),
        namespace: "default".to_owned(),
        control: "127.0.0.1:1".to_owned(),
    };
    let enrolled = |identity: Identity| Enrolled {
        identity: Arc::new(identity),
        bundle: rotation.both(),
        membership: membership.clone(),
    };
    let old = enrolled(rotation.old.identity("cart"));
    assert_eq!(old.issuing_root(), Some(rotation.old.authority.root_key_hash()));
    let new = enrolled(rotation.renewed(&id("cart")));
    assert_eq!(new.issuing_root(), Some(rotation.new.authority.root_key_hash()));
    let stranger = enrolled(Mesh::new().identity("cart"));
    assert_eq!(stranger.issuing_root(), None);
}
