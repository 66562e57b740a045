//! The shop's pages: web asks cart; cart asks catalog, payments and stock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::payments::{PaymentsClient, QuoteReply};
use super::serve::Page;
use super::stock::StockClient;
use crate::BoxError;
use crate::demo::http::{HttpClient, HttpError};
use crate::settings::Address;

/// What the shop sells; every cart has one of each.
const ITEMS: [&str; 4] = ["teapot", "kettle", "cup", "saucer"];

/// The shop's front: one call to `cart`.
pub(super) struct Web {
    http: HttpClient,
}

impl Web {
    pub(super) fn new() -> Result<Self, HttpError> {
        Ok(Self { http: HttpClient::by_environment()? })
    }
}

impl Page for Web {
    async fn page(&self) -> Result<Value, String> {
        Ok(json!({ "cart": call(&self.http, "cart", "/cart").await? }))
    }
}

/// Asks all three at once, as a real one would.
pub(super) struct Cart {
    version: String,
    http: HttpClient,
    payments: PaymentsClient,
    stock: StockClient,
}

impl Cart {
    pub(super) fn new(version: String, payments: &Address, stock: Address) -> Result<Self, BoxError> {
        let http = HttpClient::by_environment()?;
        let (payments, stock) = (PaymentsClient::to(payments)?, StockClient::to(stock));
        Ok(Self { version, http, payments, stock })
    }
}

impl Page for Cart {
    async fn page(&self) -> Result<Value, String> {
        let (catalog, payments, stock) = tokio::join!(
            call(&self.http, "catalog", "/items"),
            self.payments.quote(ITEMS.map(str::to_owned).into()),
            self.stock.count("teapot"),
        );
        let QuoteReply { version, currency, total } = payments?;
        let payments = json!({ "version": version, "currency": currency, "total": total });
        Ok(json!({ "version": self.version, "catalog": catalog?, "payments": payments, "stock": stock? }))
    }
}

/// What there is. Calls nobody.
pub(super) struct Catalog {
    page: Value,
    is_spoilt: AtomicBool,
}

impl Catalog {
    pub(super) fn new(version: String) -> Self {
        Self { page: json!({ "version": version, "items": ITEMS }), is_spoilt: AtomicBool::new(false) }
    }

    /// From SIGUSR1 to SIGUSR2 it answers wrongly, so that the demo can show what becomes of such an instance.
    pub(super) async fn follow(self: Arc<Self>) -> std::io::Result<()> {
        let (mut spoil, mut mend) =
            (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
        loop {
            let is_spoilt = tokio::select! {
                _ = spoil.recv() => true,
                _ = mend.recv() => false,
            };
            self.is_spoilt.store(is_spoilt, Ordering::Relaxed);
        }
    }
}

impl Page for Catalog {
    async fn page(&self) -> Result<Value, String> {
        if self.is_spoilt.load(Ordering::Relaxed) {
            return Err("this catalog is broken, on purpose".to_owned());
        }
        Ok(self.page.clone())
    }
}

async fn call(http: &HttpClient, service: &str, path: &str) -> Result<Value, String> {
    let answer = http.get(service, &format!("http://{service}{path}")).await;
    let (status, body) = answer.map_err(|error| format!("{service}: {error}"))?;
    if !status.is_success() {
        let body = String::from_utf8_lossy(&body);
        return Err(format!("{service} answered {status}: {}", body.chars().take(200).collect::<String>()));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{service} answered no JSON: {error}"))
}
