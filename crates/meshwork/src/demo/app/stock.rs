//! Stock speaks no HTTP: a line with an item, a line with its number. Opaque TCP for the mesh.

use std::future::Future;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::BoxError;
use crate::settings::Address;

/// Connections that the client keeps; more calls at once open more for a moment.
const KEPT_MAX: usize = 16;

pub(super) async fn serve(listener: TcpListener, stopped: impl Future<Output = ()>) -> Result<(), BoxError> {
    let mut connections = JoinSet::new();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(answer(stream));
            },
            Some(_) = connections.join_next() => {}
            () = &mut stopped => return Ok(()),
        }
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(item) = lines.next_line().await? {
        // Any number will do, as long as the caller can tell it is the item's.
        write.write_all(format!("{}\n", item.len() * 7).as_bytes()).await?;
    }
    Ok(())
}

/// Asks for numbers over kept connections.
pub(super) struct StockClient {
    address: Address,
    kept: Mutex<Vec<Connection>>,
}

struct Connection {
    lines: tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl StockClient {
    pub(super) fn to(address: Address) -> Self {
        Self { address, kept: Mutex::new(Vec::new()) }
    }

    pub(super) async fn count(&self, item: &str) -> Result<u64, String> {
        let kept = self.kept.lock().await.pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| format!("stock: cannot connect: {error}"))?,
        };
        let number = connection.ask(item).await.map_err(|error| format!("stock: {error}"))?;
        let mut kept = self.kept.lock().await;
        if kept.len() < KEPT_MAX {
            kept.push(connection);
        }
        Ok(number)
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect((&*self.address.host, self.address.port)).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Connection { lines: BufReader::new(read).lines(), write })
    }
}

impl Connection {
    async fn ask(&mut self, item: &str) -> std::io::Result<u64> {
        self.write.write_all(format!("{item}\n").as_bytes()).await?;
        let line = self.lines.next_line().await?;
        let line =
            line.ok_or_else(|| std::io::Error::other("the connection was closed before the answer"))?;
        line.parse().map_err(|_| std::io::Error::other(format!("{line:?} is no number")))
    }
}
