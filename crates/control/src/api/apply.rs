//! `POST /api/v1/apply`: documents in, all or nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::{Extension, Json};
use bytes::Bytes;
use http::Uri;
use meshwork_core::manifest::Kind;
use meshwork_core::model::Key as Named;
use meshwork_core::validate::{self, Declared};
use serde::{Deserialize, Serialize};

use super::access::may_write;
use super::error::PROBLEMS_MAX;
use super::{Api, ApiError, Problem, bytes, describe, query};
use crate::addresses::Given;
use crate::audit::Change;
use crate::caller::Caller;
use crate::document::{Flaw, Source};
use crate::manifest::{self, Document, Record};
use crate::model;
use crate::store::{CommitError, Expect, Key, Stored, Transaction};
use crate::time::unix_seconds;

/// Tries when others write the same resources at the same moment. Each try reads what they wrote.
const TRIES_MAX: usize = 5;

/// Warnings that one answer lists.
const WARNINGS_MAX: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ApplyQuery {
    /// What the text is called in errors.
    #[serde(default = "stdin")]
    file: String,
    /// `1`: judge only.
    #[serde(default)]
    dry_run: Option<String>,
    /// For documents that name none.
    #[serde(default = "default_namespace")]
    namespace: String,
}

fn stdin() -> String {
    "-".to_owned()
}

fn default_namespace() -> String {
    "default".to_owned()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Applied {
    revision: u64,
    dry_run: bool,
    applied: Vec<AppliedDocument>,
    /// What is amiss among documents that are each right; what is missing may still come.
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Warning {
    kind: &'static str,
    namespace: String,
    name: String,
    #[serde(flatten)]
    problem: validate::Problem,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AppliedDocument {
    kind: &'static str,
    namespace: String,
    name: String,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

pub(super) async fn apply(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Applied>, ApiError> {
    let ApplyQuery { file, dry_run, namespace } = query(&uri)?;
    let body = bytes(body)?;
    let text = std::str::from_utf8(&body)
        .map_err(|error| ApiError::BadRequest(format!("{file} is no UTF-8 text: {error}")))?;
    let source = Source { file: &file, text };
    let dry_run = dry_run.is_some_and(|word| word != "0" && word != "false");
    let documents = match read_aside(&api, &source, namespace).await {
        Ok(documents) => documents,
        Err(refused) => {
            // The query's, so of any length.
            let file: String = file.chars().take(256).collect();
            api.audit(&caller, "apply", &format!("what {file} holds"), &Change::default(), Err(&refused));
            return Err(refused);
        }
    };
    if let Err(refused) = may_write(&caller, &documents) {
        api.audit(&caller, "apply", &names(&documents), &Change::default(), Err(&refused));
        return Err(refused);
    }
    let result = write(&api, &source, &documents, dry_run).await;
    if !dry_run {
        let revision = result.as_ref().map(|(applied, _)| applied.revision);
        let nothing = Change::default();
        let change = result.as_ref().map_or(&nothing, |(_, change)| change);
        api.audit(&caller, "apply", &names(&documents), change, revision);
    }
    if result.is_ok() {
        api.view().await; // whoever asks next, a sidecar too, is told of it
    }
    result.map(|(applied, _)| Json(applied))
}

/// Reads up to 16 MiB on another thread: the pushes of others must not wait for that. Few at a time: each fills a core for
/// as long as it takes, and memory with what was read.
async fn read_aside(api: &Api, source: &Source<'_>, namespace: String) -> Result<Vec<Document>, ApiError> {
    let turn = Arc::clone(&api.readings).acquire_owned().await;
    let turn = turn.map_err(|error| ApiError::Internal(error.to_string()))?; // never closed
    let (file, text) = (source.file.to_owned(), source.text.to_owned());
    let read = move || {
        // Until it is read, also when whoever sent it has left.
        let _turn = turn;
        read_all(&Source { file: &file, text: &text }, &namespace)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| ApiError::Internal(error.to_string()))?
}

/// Reads every document, so that all that is wrong is told at once.
fn read_all(source: &Source<'_>, namespace: &str) -> Result<Vec<Document>, ApiError> {
    // Those that are told, and no more: to show where one is, the text is read up to there.
    let invalid = |flaws: Vec<Flaw>| {
        ApiError::Invalid(
            flaws.into_iter().take(PROBLEMS_MAX).map(|flaw| Problem::of(flaw, source)).collect(),
        )
    };
    let nodes = manifest::documents(source.text).map_err(|flaw| invalid(vec![flaw]))?;
    if nodes.is_empty() {
        return Err(invalid(vec![Flaw::new("there is no document in it")]));
    }
    let mut documents: Vec<Document> = Vec::new();
    let mut flaws = Vec::new();
    let mut places = BTreeMap::new();
    for node in nodes {
        match node.map_err(|flaw| vec![flaw]).and_then(|node| Document::read(node, namespace)) {
            Err(found) => flaws.extend(found),
            Ok(document) => {
                let place = document.node.place;
                if let Some(first) = places.insert(document.key(), place.line) {
                    let (kind, named) = (document.kind, &document.named);
                    let message = format!("{kind} {named} is there twice; the first is at line {first}");
                    flaws.push(Flaw::at(message, place));
                }
                documents.push(document);
            }
        }
    }
    if flaws.is_empty() { Ok(documents) } else { Err(invalid(flaws)) }
}

async fn write(
    api: &Api,
    source: &Source<'_>,
    documents: &[Document],
    dry_run: bool,
) -> Result<(Applied, Change), ApiError> {
    let keys: Vec<Key> = documents.iter().map(Document::key).collect();
    let mut tries = 1;
    loop {
        // No more than that: what a change costs must not grow with what else there is.
        let (stored, revision) = api.store.get_all(&keys)?;
        refuse_registered(api, source, documents)?;
        let Plan { transaction, applied, addresses, change } = plan(api, source, documents, &stored)?;
        let warnings = || warnings(api, documents, &addresses);
        if dry_run {
            return Ok((Applied { revision, dry_run, applied, warnings: warnings() }, change));
        }
        match api.store.commit(transaction).await {
            Ok(revision) => {
                return Ok((Applied { revision, dry_run, applied, warnings: warnings() }, change));
            }
            // Somebody was faster. Whoever gave a resourceVersion is told by `plan` on the next round.
            Err(CommitError::Conflict { .. }) if tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// What would be amiss with the documents in the mesh as it is now.
fn warnings(api: &Api, documents: &[Document], addresses: &BTreeMap<Named, Ipv4Addr>) -> Vec<Warning> {
    let mut mesh = api.views.current().mesh.clone();
    let now = unix_seconds(SystemTime::now());
    for document in documents {
        let mut declared = document.declared.clone();
        if let Declared::TrafficPolicy(policy) = &mut declared {
            // The document does not say how old it is, and of two policies the older holds.
            policy.created = mesh.policy(&policy.key).map_or(now, |known| known.created);
        }
        if let Declared::Service(service) = &mut declared {
            let address = addresses.get(&service.key);
            service.virtual_address = address.map(|address| api.addresses.ranges.address(*address));
        }
        model::declare(&mut mesh, declared);
    }
    let warn = |document: &Document| {
        let Named { namespace, name } = document.named.clone();
        let kind = document.kind.name();
        let found = describe::problems(&mesh, document.kind, &document.named);
        found.into_iter().map(move |problem| Warning {
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
            problem,
        })
    };
    documents.iter().flat_map(warn).take(WARNINGS_MAX).collect()
}

struct Plan {
    transaction: Transaction,
    applied: Vec<AppliedDocument>,
    /// Of the services among the documents.
    addresses: BTreeMap<Named, Ipv4Addr>,
    /// For the audit log.
    change: Change,
}

/// What to write, given what is stored; refused if a document was written for another version.
fn plan(
    api: &Api,
    source: &Source<'_>,
    documents: &[Document],
    stored: &BTreeMap<Key, Stored>,
) -> Result<Plan, ApiError> {
    let now = unix_seconds(SystemTime::now());
    let (mut given, mut addresses) = (Given::default(), BTreeMap::new());
    let (mut transaction, mut change) = (Transaction::default(), Change::default());
    let mut applied = Vec::with_capacity(documents.len());
    for document in documents {
        let key = document.key();
        let before = stored.get(&key);
        if let Some(flaw) = other_version(document, before) {
            return Err(ApiError::Conflict(Problem::of(flaw, source)));
        }
        let record = before.map(|stored| Record::read(&key, &stored.value)).transpose()?;
        let outcome = match &record {
            None => Outcome::Created,
            Some(record) if record.manifest == document.manifest => Outcome::Unchanged,
            Some(_) => Outcome::Configured,
        };
        let expect = before.map_or(Expect::Absent, |stored| Expect::Revision(stored.revision));
        transaction = transaction.expect(key.clone(), expect);
        if document.kind == Kind::Workload {
            let Named { namespace, name } = &document.named;
            transaction = transaction.expect(Key::registration(namespace, name), Expect::Absent);
        }
        let mut address = record.as_ref().and_then(|record| record.address);
        if outcome != Outcome::Unchanged {
            if document.kind == Kind::Service && address.is_none() {
                (transaction, address) = api.addresses.give(transaction, &document.named, &mut given, now)?;
            }
            let before = record.as_ref().map(|record| &record.manifest);
            change.add(&format!("{} {}", document.kind, document.named), before, Some(&document.manifest));
            let created = record.map_or(now, |record| record.created);
            let manifest = document.manifest.clone();
            let record = Record { created, manifest, drained: false, address };
            transaction = transaction.put(key, record.to_bytes());
        }
        addresses.extend(address.map(|address| (document.named.clone(), address)));
        let Named { namespace, name } = document.named.clone();
        applied.push(AppliedDocument { kind: document.kind.name(), namespace, name, outcome });
    }
    Ok(Plan { transaction, applied, addresses, change })
}

/// A workload that its sidecar registered is the sidecar's.
fn refuse_registered(api: &Api, source: &Source<'_>, documents: &[Document]) -> Result<(), ApiError> {
    for document in documents.iter().filter(|document| document.kind == Kind::Workload) {
        let Named { namespace, name } = &document.named;
        if api.store.get(&Key::registration(namespace, name))?.is_some() {
            let message = format!("Workload {name} is registered by its sidecar; choose another name");
            let flaw = Flaw::at(message, document.node.place_of("metadata.name"));
            return Err(ApiError::Conflict(Problem::of(flaw, source)));
        }
    }
    Ok(())
}

fn other_version(document: &Document, stored: Option<&Stored>) -> Option<Flaw> {
    let wanted = document.resource_version?;
    let found = match stored.map(|stored| stored.revision) {
        Some(found) if found == wanted => return None,
        Some(found) => format!("it is at {found} now"),
        None => "there is none now".to_owned(),
    };
    let (kind, named) = (document.kind, &document.named);
    let message = format!(
        "{kind} {named} was written for resourceVersion {wanted}, but {found}; get it again, or leave the field out to replace it"
    );
    Some(Flaw::at(message, document.node.place_of("metadata.resourceVersion")))
}

/// For the audit log: bounded, as a document's author chose the names.
fn names(documents: &[Document]) -> String {
    const NAMES_MAX: usize = 20;
    let mut names: Vec<String> = documents
        .iter()
        .take(NAMES_MAX)
        .map(|document| format!("{} {}", document.kind, document.named))
        .collect();
    if documents.len() > NAMES_MAX {
        names.push(format!("and {} more", documents.len() - NAMES_MAX));
    }
    names.join(", ")
}
