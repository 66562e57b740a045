//! The DNS of a sidecar on a port that the kernel chose, and a client that shows what it gets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshwork_core::names::{NameTable, Named};
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_proxy::side::dns::Dns;
use meshwork_proxy::telemetry::{Event, Registry};
use meshwork_proxy::{Ask, Clock, Live};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far more than anything here takes, also where others use the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Dropped, it ends.
pub(crate) struct Names {
    pub(crate) address: SocketAddr,
    pub(crate) live: Arc<Live>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) registry: Arc<Registry>,
    files: TempDir,
    serving: JoinHandle<()>,
}

impl Names {
    /// On loopback; these resolvers stand in its `resolv.conf`.
    pub(crate) fn start(resolvers: &[SocketAddr]) -> Self {
        Self::on(Ipv4Addr::LOCALHOST, 0, resolvers)
    }

    pub(crate) fn on(address: Ipv4Addr, port: u16, resolvers: &[SocketAddr]) -> Self {
        let (udp, tcp) = bind((address, port).into());
        let address = udp.local_addr().unwrap();
        let registry = Registry::new("default/web".to_owned());
        let clock = Clock::start();
        let (live, asks) = Live::new(registry.clone(), clock, &[]);
        let files = TempDir::new().unwrap();
        let resolv_conf = files.path().join("resolv.conf");
        write(&resolv_conf, resolvers);
        let dns = Dns {
            namespace: "default".to_owned(),
            resolv_conf,
            mark: None,
            live: live.clone(),
            registry: registry.clone(),
            clock,
        };
        let serving = tokio::spawn(async move { dns.serve(vec![(udp, tcp)]).await.unwrap() });
        let names = Self { address, live, asks, registry, files, serving };
        names.give(table("default", &["cart", "stock"]));
        names
    }

    pub(crate) fn give(&self, table: NameTable) {
        self.live.apply(vec![Resource::NameTable(table)], &[]);
    }

    pub(crate) fn give_nothing(&self, namespace: &str) {
        self.live.apply(Vec::new(), &[(ResourceType::NameTable, namespace.to_owned())]);
    }

    pub(crate) fn set_resolvers(&self, resolvers: &[SocketAddr]) {
        // In one step, as whatever manages a host's network does it.
        let new = self.files.path().join("new");
        write(&new, resolvers);
        std::fs::rename(new, self.files.path().join("resolv.conf")).unwrap();
    }

    pub(crate) fn counted(&self, event: Event) -> u64 {
        self.registry.counted(event)
    }

    /// Again, if a resolver was too slow for us: that is this machine's fault, not the code's.
    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        loop {
            let slow = self.counted(Event::DnsResolverTimeout);
            let reply = self.send(&asked(name, kind)).await;
            let has_failed = reply.metadata.response_code == ResponseCode::ServFail;
            if !has_failed || self.counted(Event::DnsResolverTimeout) == slow {
                return reply;
            }
        }
    }

    /// How often a resolver was asked of which each query got an answer at last.
    pub(crate) fn tries(&self) -> usize {
        (self.counted(Event::DnsForwarded) + self.counted(Event::DnsResolverTimeout)) as usize
    }

    pub(crate) async fn send(&self, query: &Message) -> Message {
        let socket = self.client().await;
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        let reply = receive(&socket).await;
        assert_eq!((reply.metadata.id, &reply.queries), (query.metadata.id, &query.queries));
        assert_eq!(reply.metadata.message_type, MessageType::Response);
        reply
    }

    pub(crate) async fn client(&self) -> tokio::net::UdpSocket {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    pub(crate) async fn ask_over_tcp(&self, query: &Message) -> Message {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&framed(query)).await.unwrap();
        read_framed(&mut stream).await
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn write(resolv_conf: &Path, resolvers: &[SocketAddr]) {
    let lines = resolvers.iter().map(|resolver| format!("nameserver {resolver}\n"));
    std::fs::write(resolv_conf, lines.collect::<String>()).unwrap();
}

/// Both sockets on one port.
pub(crate) fn bind(address: SocketAddr) -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind(address).unwrap();
        // Somebody else may have that port for datagrams.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both");
}

/// One name each, with the addresses 240.0.0.1, 240.0.0.2 …
pub(crate) fn table(namespace: &str, services: &[&str]) -> NameTable {
    let named = |number: usize| Named {
        v4: Ipv4Addr::new(240, 0, 0, number as u8 + 1),
        v6: format!("fd4d:5700::{}", number + 1).parse().unwrap(),
        ports: BTreeMap::from([("http".to_owned(), 80)]),
        instances: BTreeMap::new(),
        headless: false,
    };
    let services = services.iter().enumerate().map(|(number, name)| ((*name).to_owned(), named(number)));
    NameTable { namespace: namespace.to_owned(), services: services.collect() }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(crate) fn asked(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(next_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

/// An ID that no other query of the test has.
fn next_id() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn with_edns(mut message: Message) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1_232);
    message.set_edns(edns);
    message
}

pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()
}

pub(crate) async fn read_framed(stream: &mut tokio::net::TcpStream) -> Message {
    let read = async {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    };
    tokio::time::timeout(PATIENCE, read).await.expect("no answer came")
}

pub(crate) async fn receive(socket: &tokio::net::UdpSocket) -> Message {
    let mut buffer = [0; 4_096];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.expect("no answer came").unwrap()]).unwrap()
}

/// The addresses of IPv4 in an answer.
pub(crate) fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(A(address)) => Some(*address),
        _ => None,
    });
    addresses.collect()
}

pub(crate) fn address(owner: &Name, ttl: u32, last: u8) -> Record {
    Record::from_rdata(owner.clone(), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}
