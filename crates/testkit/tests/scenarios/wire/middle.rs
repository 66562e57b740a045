//! A machine in the middle of real processes: it holds the key of their mesh's authority, so that whoever is called, it is he,
//! and whoever calls, it calls on as him. It passes all bytes on and keeps them.
//!
//! What sidecars register as their addresses it replaces by its own, which takes as many characters, so that others come by
//! it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use meshwork_core::model::SpiffeId;
use meshwork_identity::{
    Authority, Identity, KeyAndCsr, TrustBundle, check_peer, client_config, control_client_config,
    control_id, control_server_config, enrol_client_config, server_config, session_name,
};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::recording::{By, Said, replace};

const ALPN: [&[u8]; 3] = [b"h2", b"http/1.1", b"meshwork-tcp/1"];
const IP: &[u8] = b"127.0.0.1:";
const PORT_DIGITS: usize = 5;
const BUFFER_BYTES: usize = 64 * 1024;

/// What one connection said.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) alpn: String,
    pub(crate) said: Said,
}

pub(crate) struct Middle {
    authority: Authority,
    bundle: Arc<TrustBundle>,
    heard: Mutex<Vec<Heard>>,
    /// What a sidecar registered, and where it is reached by us.
    led: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// What becomes another thing on its way to the sidecar of that account.
    spoiled: Mutex<Option<Spoiled>>,
}

#[derive(Clone)]
pub(crate) struct Spoiled {
    pub(crate) account: String,
    pub(crate) these: Vec<u8>,
    pub(crate) with: Vec<u8>,
}

/// The way of a connection's bytes.
struct Way {
    middle: Arc<Middle>,
    index: usize,
    client: String,
    /// To the control plane, and not to another sidecar.
    to_control: bool,
}

impl Middle {
    pub(crate) fn new(authority: Authority) -> Arc<Self> {
        let bundle = Arc::new(authority.bundle().clone());
        let (heard, led, spoiled) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { authority, bundle, heard, led, spoiled })
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        lock(&self.heard).clone()
    }

    pub(crate) fn spoil(&self, spoiled: Spoiled) {
        *lock(&self.spoiled) = Some(spoiled);
    }

    /// Where sidecars find the control plane by us.
    pub(crate) async fn before_control(self: &Arc<Self>, control: SocketAddr) -> SocketAddr {
        let id = control_id(self.bundle.trust_domain()).unwrap();
        let tls = control_server_config(&self.identity(&id), &self.bundle, &[], &ALPN[..1]).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (middle, acceptor) = (self.clone(), TlsAcceptor::from(tls));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(middle.clone().serve(stream, acceptor.clone(), None, control));
            }
        });
        address
    }

    /// The same of a sidecar's port for others.
    fn before_sidecar(self: &Arc<Self>, server: SpiffeId, address: SocketAddr) -> SocketAddr {
        let tls = server_config(&self.identity(&server), &self.bundle, &ALPN).unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let own = listener.local_addr().unwrap();
        let (middle, acceptor) = (self.clone(), TlsAcceptor::from(tls));
        tokio::spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = middle.clone().serve(stream, acceptor.clone(), Some(server.clone()), address);
                tokio::spawn(serving);
            }
        });
        own
    }

    /// `server`: a sidecar; else it is the control plane.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        server: Option<SpiffeId>,
        onward: SocketAddr,
    ) {
        // Who only looks whether the port accepts says nothing.
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let (_, tls) = stream.get_ref();
        let alpn = tls.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
        let trust_domain = self.bundle.trust_domain();
        let client = tls
            .peer_certificates()
            .map(|chain| check_peer(chain, None, trust_domain, SystemTime::now()).unwrap().id);
        let tls = self.as_client(client.as_ref(), server.as_ref(), &alpn);
        let Ok(socket) = TcpStream::connect(onward).await else { return };
        let Ok(onward) = TlsConnector::from(tls).connect(session_name(onward), socket).await else { return };
        let account = |id: Option<&SpiffeId>, none: &str| id.map_or(none, |id| id.account()).to_owned();
        let heard = Heard {
            client: account(client.as_ref(), "nobody"),
            server: account(server.as_ref(), "control"),
            alpn: String::from_utf8(alpn).unwrap(),
            said: Said::new(),
        };
        let way = Way {
            client: heard.client.clone(),
            to_control: server.is_none(),
            index: {
                let mut all = lock(&self.heard);
                all.push(heard);
                all.len() - 1
            },
            middle: self,
        };
        let ((from, to), (back, on)) = (tokio::io::split(stream), tokio::io::split(onward));
        tokio::join!(way.pass(By::Client, from, on), way.pass(By::Server, back, to));
    }

    fn as_client(
        &self,
        client: Option<&SpiffeId>,
        server: Option<&SpiffeId>,
        alpn: &[u8],
    ) -> Arc<ClientConfig> {
        match (client, server) {
            (None, _) => enrol_client_config(self.authority.root_key_hash(), &[alpn]).unwrap(),
            (Some(id), None) => control_client_config(&self.identity(id), &self.bundle, &[alpn]).unwrap(),
            (Some(id), Some(server)) => {
                let expected = BTreeSet::from([server.clone()]);
                client_config(&self.identity(id), &self.bundle, &expected, &[alpn]).unwrap()
            }
        }
    }

    fn identity(&self, id: &SpiffeId) -> Identity {
        let KeyAndCsr { key, csr_der } = KeyAndCsr::generate().unwrap();
        let hour = Duration::from_secs(3_600);
        let issued = self.authority.issue(&csr_der, id, hour, SystemTime::now()).unwrap();
        Identity::new(issued.chain_der.into_iter().map(Into::into).collect(), key).unwrap()
    }
}

impl Way {
    async fn pass(&self, by: By, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let bytes = &mut buffer[..length];
            self.change(by, bytes);
            {
                let said = &mut lock(&self.middle.heard)[self.index].said;
                match said.last_mut() {
                    Some((last, run)) if *last == by => run.extend_from_slice(bytes),
                    _ => said.push((by, bytes.to_vec())),
                }
            }
            if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        // The other end may be gone already.
        let _ = to.shutdown().await;
    }

    fn change(&self, by: By, bytes: &mut [u8]) {
        match (by, self.to_control) {
            (By::Client, true) => self.lead(bytes),
            (By::Server, true) => {
                let spoiled = lock(&self.middle.spoiled).clone();
                if let Some(Spoiled { these, with, .. }) =
                    spoiled.filter(|spoiled| spoiled.account == self.client)
                {
                    replace(bytes, &these, &with);
                }
            }
            (_, false) => {}
        }
    }

    /// An address that is registered becomes one of ours.
    fn lead(&self, bytes: &mut [u8]) {
        for address in addresses(bytes) {
            let mut led = lock(&self.middle.led);
            if led.values().any(|own| *own == address) {
                continue; // told back by who was told it
            }
            let own = led.entry(address.clone()).or_insert_with(|| {
                let trust_domain = self.middle.bundle.trust_domain();
                let server = SpiffeId::new(trust_domain, "default", &self.client).unwrap();
                let socket = String::from_utf8(address.clone()).unwrap().parse().unwrap();
                self.middle.before_sidecar(server, socket).to_string().into_bytes()
            });
            replace(bytes, &address, own);
        }
    }
}

fn addresses(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    let length = IP.len() + PORT_DIGITS;
    let is_address =
        |window: &&[u8]| window.starts_with(IP) && window[IP.len()..].iter().all(u8::is_ascii_digit);
    bytes.windows(length).filter(is_address).map(<[u8]>::to_vec).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
