//! The shop's programs: ordinary ones, that know nothing of a mesh. They listen on loopback, call others by name with
//! `http_proxy`, and stock by a local TCP port.

mod load;
mod serve;
mod shop;
mod stock;

pub(super) use load::Report;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::shop::{Cart, Leaf, Web};
use super::Role;
use crate::BoxError;
use crate::cli::DemoAppArgs;

/// `meshwork demo-app ROLE`: runs until SIGTERM.
pub(crate) async fn app(args: DemoAppArgs) -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async move {
        terminate.recv().await;
    };
    let version = args.app_version.clone();
    match args.role {
        Role::Load => load::run(&args.report.ok_or("the load needs --report")?, stopped).await,
        Role::Web => serve::serve(listener(args.app_listen).await?, Arc::new(Web::new()?), stopped).await,
        Role::Cart => {
            let stock = args.stock.ok_or("cart needs --stock")?;
            serve::serve(listener(args.app_listen).await?, Arc::new(Cart::new(version, stock)?), stopped)
                .await
        }
        Role::Catalog => {
            serve::serve(listener(args.app_listen).await?, Arc::new(Leaf::catalog(version)), stopped).await
        }
        Role::Payments => {
            serve::serve(listener(args.app_listen).await?, Arc::new(Leaf::payments(version)), stopped).await
        }
        Role::Stock => stock::serve(listener(args.app_listen).await?, stopped).await,
    }
}

async fn listener(address: Option<SocketAddr>) -> Result<TcpListener, BoxError> {
    let address = address.ok_or("this program needs --app-listen")?;
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        format!("the shop's program cannot listen on {address}: {error}; run the demo again").into()
    })
}
