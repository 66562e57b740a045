//! To the local application: a connection that was on its way to one of its ports.

use std::net::SocketAddr;
use std::rc::Rc;

use meshwork_core::discover::Refusal;
use meshwork_core::meant::{self, Toward};
use tokio::net::TcpStream;

use super::{captured, refuse};
use crate::inbound;
use crate::worker::Worker;

pub(crate) async fn serve(socket: TcpStream, from: SocketAddr, worker: &Rc<Worker>) {
    let Some(original) = captured(&socket, from, worker) else { return };
    match meant::toward(original, &worker.shared.served, &worker.shared.own) {
        Toward::Declared(index) => {
            inbound::serve(socket, from, &worker.shared.ports[index], worker).await;
        }
        Toward::Undeclared => {
            refuse(&socket, from, format_args!("nobody declared the port of {original} (--port)"), worker);
        }
        Toward::Sidecar => {
            refuse(&socket, from, format_args!("{original}: {}", Refusal::OwnPort), worker);
        }
    }
}
