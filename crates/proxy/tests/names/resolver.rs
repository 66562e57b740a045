//! A resolver of a host that behaves as a test wants it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{PATIENCE, bind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// What it sends for a query, one after the other; empty: nothing.
type Behaviour = Arc<dyn Fn(&Message, Over) -> Vec<Message> + Send + Sync>;

/// Dropped, it ends.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<(Message, Over)>>>,
    count: watch::Receiver<usize>,
    tasks: [JoinHandle<()>; 2],
}

impl Resolver {
    pub(crate) fn start(behaviour: impl Fn(&Message, Over) -> Vec<Message> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = udp.local_addr().unwrap();
        let (counts, count) = watch::channel(0);
        let asked: Arc<Mutex<Vec<(Message, Over)>>> = Arc::default();
        let taken = asked.clone();
        let behaviour: Behaviour = Arc::new(move |query, over| {
            // Before it answers, so that who has the answer finds it counted.
            taken.lock().unwrap().push((query.clone(), over));
            counts.send_modify(|count| *count += 1);
            behaviour(query, over)
        });
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let datagrams = serve_udp(tokio::net::UdpSocket::from_std(udp).unwrap(), behaviour.clone());
        let connections = serve_tcp(tokio::net::TcpListener::from_std(tcp).unwrap(), behaviour);
        Self { address, asked, count, tasks: [tokio::spawn(datagrams), tokio::spawn(connections)] }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<(Message, Over)> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) async fn wait_for(&self, queries: usize) {
        let mut count = self.count.clone();
        let came = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= queries)).await;
        came.expect("the resolver was not asked so often").unwrap();
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, behaviour: Behaviour) {
    let mut buffer = [0; 4_096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_vec(&buffer[..length]).unwrap();
        for answer in behaviour(&query, Over::Udp) {
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, behaviour: Behaviour) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        for answer in behaviour(&Message::from_vec(&bytes).unwrap(), Over::Tcp) {
            let bytes = answer.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    }
}

/// An answer without records.
pub(crate) fn answer(query: &Message) -> Message {
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer
}
