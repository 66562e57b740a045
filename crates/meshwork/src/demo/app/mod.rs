//! The shop's programs: ordinary ones, that know nothing of a mesh. They listen on loopback. Where they are captured they call
//! others by name, and that is all; else by name with `http_proxy`, and payments and stock by local ports.

mod load;
mod payments;
mod serve;
mod shop;
mod stock;

pub(super) use load::Report;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::shop::{Cart, Catalog, Web};
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
            let payments = args.payments.ok_or("cart needs --payments")?;
            let stock = args.stock.ok_or("cart needs --stock")?;
            let cart = Cart::new(version, &payments, stock)?;
            serve::serve(listener(args.app_listen).await?, Arc::new(cart), stopped).await
        }
        Role::Catalog => {
            let catalog = Arc::new(Catalog::new(version));
            // Before it can be told: without a handler the signals would end it.
            let following = tokio::spawn(catalog.clone().follow());
            serve::serve(listener(args.app_listen).await?, catalog, stopped).await?;
            following.abort();
            Ok(())
        }
        Role::Payments => payments::serve(listener(args.app_listen).await?, version, stopped).await,
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
