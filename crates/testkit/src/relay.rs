//! A machine in the middle: passes bytes on between two ends, and keeps what it saw.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Dropped, it breaks every connection off.
pub struct Relay {
    address: SocketAddr,
    recordings: Arc<Mutex<Vec<Recording>>>,
    _relaying: AbortOnDropHandle<()>,
}

/// What one connection carried, whole.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// From whoever connected.
    pub request: Vec<u8>,
    pub response: Vec<u8>,
}

type Pick = fn(&mut Recording) -> &mut Vec<u8>;

impl Relay {
    /// A relay before that address.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn before(destination: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port for the relay");
        let address = listener.local_addr().expect("it is bound");
        let recordings: Arc<Mutex<Vec<Recording>>> = Arc::default();
        let shared = recordings.clone();
        let relaying = tokio::spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(onward) = TcpStream::connect(destination).await else { continue };
                let index = {
                    let mut all = lock(&shared);
                    all.push(Recording::default());
                    all.len() - 1
                };
                let ((from, to), (onward_from, onward_to)) = (stream.into_split(), onward.into_split());
                ways.spawn(pass(from, onward_to, shared.clone(), index, |recording| &mut recording.request));
                ways.spawn(pass(onward_from, to, shared.clone(), index, |recording| &mut recording.response));
            }
        });
        Self { address, recordings, _relaying: AbortOnDropHandle::new(relaying) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection so far.
    pub fn recordings(&self) -> Vec<Recording> {
        lock(&self.recordings).clone()
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    recordings: Arc<Mutex<Vec<Recording>>>,
    index: usize,
    pick: Pick,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        pick(&mut lock(&recordings)[index]).extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
