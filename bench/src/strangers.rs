//! Both sidecars are asked to talk with somebody they must not talk with.
//!
//! The inbound one: with no certificate, and with one that names the right client but that another authority signed.
//! The outbound one: to reach a service through an endpoint that another account runs. Each check has its opposite
//! (the right identity gets an answer in the same way), so that none passes because nothing works.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::{Enrolled, client_config, provider, session_name};
use rcgen::SanType;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::certificates;
use crate::failure::{Doing as _, Failure, Result, fail};
use crate::http_text;
use crate::mesh::{IMPOSTOR, Mesh};
use crate::namespaces::{Namespaces, SERVER};
use crate::peers::Side;
use crate::scrape::{Counts, scrape};
use crate::target::Target;

/// What any of these exchanges takes at most.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

const ALPN: &[u8] = b"http/1.1";

/// How a connection to the inbound side went.
#[derive(Debug, PartialEq)]
enum Greeting {
    Answered(String),
    Refused(String),
}

/// Fails unless each stranger is refused, by both ends, and says what was seen.
pub(crate) fn check(mesh: &Mesh, namespaces: &Namespaces, port: u16, target: &Target) -> Result<Vec<String>> {
    let caller =
        Enrolled::load(&mesh.state_dir(Side::Outbound)).doing(|| "reading an identity".to_owned())?;
    let caller =
        caller.ok_or_else(|| Failure("the outbound sidecar has no identity on its disk".to_owned()))?;
    let server = Enrolled::load(&mesh.state_dir(Side::Inbound)).doing(|| "reading an identity".to_owned())?;
    let server =
        server.ok_or_else(|| Failure("the inbound sidecar has no identity on its disk".to_owned()))?;
    let expected = BTreeSet::from([server.identity.spiffe_id().clone()]);
    let own = client_config(&caller.identity, &caller.bundle, &expected, &[ALPN]);
    let own = own.doing(|| "configuring TLS".to_owned())?;
    let inbound = SocketAddr::from((SERVER, port));
    let greet = |config| namespaces.client.inside(|| greet(inbound, config));

    let before = refused_peers(&scrape(&namespaces.server)?);
    if !matches!(greet(own)?, Greeting::Answered(line) if line.contains(" 200 ")) {
        return fail(
            "the inbound sidecar refused its own mesh's client: nothing that it refuses means anything",
        );
    }
    let name = caller.identity.spiffe_id().to_string();
    let mut seen = vec![format!("the inbound side answers {name}")];
    for (who, config) in [("no certificate", nobody()?), ("another authority's certificate", foreign(&name)?)]
    {
        match greet(config)? {
            Greeting::Answered(line) => return fail(format!("the inbound sidecar answered {who}: {line}")),
            Greeting::Refused(why) => seen.push(format!("the inbound side refuses {who}: {why}")),
        }
    }
    let refused = refused_peers(&scrape(&namespaces.server)?) - before;
    if refused < 1 {
        return fail("the inbound sidecar's metrics do not count the strangers as refused");
    }
    seen.push(wrong_server(namespaces, target)?);
    Ok(seen)
}

/// The outbound side must not send a request to an endpoint whose certificate is another account's.
fn wrong_server(namespaces: &Namespaces, target: &Target) -> Result<String> {
    let host = IMPOSTOR;
    let before = refused_peers(&scrape(&namespaces.client)?);
    let (status, body) =
        namespaces.client.inside(|| http_text::get(target.address, &format!("http://{host}/128"), host))?;
    let refused = refused_peers(&scrape(&namespaces.client)?) - before;
    if status == 200 || refused < 1 {
        return fail(format!(
            "the outbound sidecar used an endpoint of another account: {status}, {refused} refused: {body}"
        ));
    }
    Ok(format!(
        "the outbound side refuses another account's endpoint: {status} {}",
        body.lines().next().unwrap_or_default()
    ))
}

fn refused_peers(counts: &Counts) -> i64 {
    counts.of("meshwork_tls_handshakes_total", &[("kind", "peer_refused")])
}

/// Asks for `/128` and gives what came of it.
fn greet(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Greeting> {
    let doing = || format!("connecting to {address}");
    let stream = TcpStream::connect(address).doing(doing)?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).doing(doing)?;
    let session = ClientConnection::new(config, session_name(address)).doing(doing)?;
    let mut stream = StreamOwned::new(session, stream);
    let request =
        format!("GET /128 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", crate::topology::SERVICE);
    let mut text = Vec::new();
    let talked = stream.write_all(request.as_bytes()).and_then(|()| {
        let mut buffer = [0; 4_096];
        while !text.contains(&b'\n') {
            match stream.read(&mut buffer)? {
                0 => break,
                read => text.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(())
    });
    let line = String::from_utf8_lossy(&text).lines().next().map(str::to_owned);
    Ok(match (line, talked) {
        (Some(line), _) => Greeting::Answered(line),
        (None, Err(error)) => Greeting::Refused(error.to_string()),
        (None, Ok(())) => Greeting::Refused("closed".to_owned()),
    })
}

/// A client that shows nothing.
fn nobody() -> Result<Arc<ClientConfig>> {
    let builder = builder()?;
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A client with the right name, signed by somebody else.
fn foreign(name: &str) -> Result<Arc<ClientConfig>> {
    let doing = || "making a stranger".to_owned();
    let authority = certificates::authority("another mesh")?;
    let (certificate, key) = certificates::leaf(&authority, SanType::URI(name.try_into().doing(doing)?))?;
    let chain = CertificateDer::from_pem_slice(certificate.as_bytes()).doing(doing)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).doing(doing)?;
    let mut config = builder()?.with_client_auth_cert(vec![chain], key).doing(doing)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder =
        builder.with_protocol_versions(&[&rustls::version::TLS13]).doing(|| "TLS 1.3".to_owned())?;
    let algorithms = provider().signature_verification_algorithms;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(algorithms))))
}

/// Believes any server: here it is the server who must not believe.
#[derive(Debug)]
struct Credulous(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
