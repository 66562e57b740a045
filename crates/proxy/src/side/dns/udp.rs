//! Queries that come as datagrams.

use std::sync::Arc;
use std::time::Duration;

use meshwork_core::dns::Transport;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::answer::{Answerer, Begun};
use crate::telemetry::Event;

/// A query has one name, which has 255 bytes at most; the rest are options.
pub(super) const QUERY_BYTES_MAX: usize = 4_096;

/// When receiving fails: it passes, we stay.
const RECEIVE_PAUSE: Duration = Duration::from_millis(20);

/// Serves until dropped. Owns every query that waits.
pub(super) async fn serve(socket: UdpSocket, answerer: Arc<Answerer>) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, client)) => match answerer.begin(&buffer[..length], Transport::Udp) {
                    Begun::Ignored => {}
                    Begun::Answered(reply) => send(&socket, &reply, client).await,
                    Begun::Waiting(query) => {
                        let (socket, answerer) = (socket.clone(), answerer.clone());
                        waiting.spawn(async move {
                            let reply = answerer.finish(query).await;
                            send(&socket, &reply, client).await;
                        });
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "cannot receive look-ups");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            },
            Some(ended) = waiting.join_next() => {
                if ended.is_err() {
                    answerer.registry.count(Event::Panic);
                }
            }
        }
    }
}

/// Who is gone gets nothing, and who lost it asks again.
async fn send(socket: &UdpSocket, reply: &[u8], client: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%error, %client, "cannot answer a look-up");
    }
}
