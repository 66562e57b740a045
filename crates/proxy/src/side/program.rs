//! The identity of a program that has no sidecar (proxyless gRPC, Envoy): the same certificate that a sidecar would get,
//! kept and renewed in the same way, and written as PEM files that such programs read.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_identity::Enrolled;
use tokio::sync::watch;

use super::channel::to_control;
use super::renew::{Keeper, Told};
use super::status::StatusBoard;
use super::{enroll, random};
use crate::mark::Dial;
use crate::telemetry::Registry;

/// Writes key, certificate and roots below `directory`: those that are there already, renewed if half of their life is
/// over, or new ones for the join token.
pub async fn obtain(directory: &Path, token: Option<&str>, wait: Duration) -> Result<Enrolled, String> {
    let text = |error: enroll::EnrollError| error.to_string();
    let enrolled = enroll::obtain_as_told(token, directory, wait).await.map_err(text)?;
    let due = enrolled.identity.life().renewal(random()) <= SystemTime::now();
    let enrolled = if due { renewed(enrolled, directory).await? } else { enrolled };
    enrolled.export(directory).map_err(|error| error.to_string())?;
    Ok(enrolled)
}

/// Renews it for ever; whoever reads the files finds each new one whole.
pub async fn keep(directory: &Path, enrolled: Enrolled) {
    let registry = Registry::new(enrolled.membership.service.clone());
    let (enrolled, current) = watch::channel(Arc::new(enrolled));
    // New roots come with each renewal; a program without a sidecar is told of them in no other way.
    let (_nothing, told) = watch::channel(Told::default());
    let export = |renewed: &Enrolled| {
        if let Err(error) = renewed.export(directory) {
            tracing::error!(%error, "the renewed certificate can't be written: programs keep the old one");
        }
    };
    let channel = to_control(current, Dial::default());
    let status = StatusBoard::default();
    Keeper { state_dir: directory, enrolled, channel, told, install: &export, registry, status }.keep().await;
}

/// What is there is good for as long again, so a control plane that is away is no failure.
async fn renewed(enrolled: Enrolled, directory: &Path) -> Result<Enrolled, String> {
    let (_holder, current) = watch::channel(Arc::new(enrolled.clone()));
    match enroll::renew(to_control(current, Dial::default()), &enrolled).await {
        Ok(renewed) => {
            renewed.save(directory).map_err(|error| error.to_string())?;
            Ok(renewed)
        }
        Err(failed) => {
            tracing::warn!(reason = %failed, "the certificate could not be renewed; the one that is there is used");
            Ok(enrolled)
        }
    }
}
