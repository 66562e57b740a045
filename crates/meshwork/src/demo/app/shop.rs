//! The shop's pages: web asks cart; cart asks catalog, payments and stock.

use serde_json::{Value, json};

use super::serve::Page;
use super::stock::StockClient;
use crate::demo::http::{HttpClient, HttpError};
use crate::settings::Address;

/// The shop's front: one call to `cart`.
pub(super) struct Web {
    http: HttpClient,
}

impl Web {
    pub(super) fn new() -> Result<Self, HttpError> {
        Ok(Self { http: HttpClient::by_proxy_variable()? })
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
    stock: StockClient,
}

impl Cart {
    pub(super) fn new(version: String, stock: Address) -> Result<Self, HttpError> {
        Ok(Self { version, http: HttpClient::by_proxy_variable()?, stock: StockClient::to(stock) })
    }
}

impl Page for Cart {
    async fn page(&self) -> Result<Value, String> {
        let (catalog, payments, stock) = tokio::join!(
            call(&self.http, "catalog", "/items"),
            call(&self.http, "payments", "/quote"),
            self.stock.count("teapot"),
        );
        Ok(json!({ "version": self.version, "catalog": catalog?, "payments": payments?, "stock": stock? }))
    }
}

/// Calls nobody.
pub(super) struct Leaf {
    page: Value,
}

impl Leaf {
    pub(super) fn catalog(version: String) -> Self {
        Self { page: json!({ "version": version, "items": ["teapot", "kettle", "cup", "saucer"] }) }
    }

    pub(super) fn payments(version: String) -> Self {
        Self { page: json!({ "version": version, "currency": "EUR", "total": 4_200 }) }
    }
}

impl Page for Leaf {
    async fn page(&self) -> Result<Value, String> {
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
