//! For `crates/fuzz` alone: documents as the API reads them, from text to what the store keeps and the model gets.

use meshwork_core::validate::Declared;

use crate::document::{Flaw, Source};
use crate::manifest::{self, Document, Record};

/// A document that was taken.
#[derive(Debug)]
pub struct Taken {
    pub declared: Declared,
    /// What the store keeps of it, JSON.
    pub manifest: String,
    /// What is declared once the store has given it back.
    pub stored: Result<Declared, String>,
}

/// Reads a text as `apply` does. Each document is taken or refused alone; refused are the sentences, each with the line and
/// the caret that an operator sees.
#[allow(clippy::type_complexity)] // one caller, who takes it apart at once
pub fn documents(text: &str) -> Result<Vec<Result<Taken, Vec<String>>>, String> {
    let source = Source { file: "-", text };
    let told = |flaw: &Flaw| {
        let shown = flaw.place.and_then(|place| source.snippet(place)).unwrap_or_default();
        format!("{flaw}\n{shown}")
    };
    let nodes = manifest::documents(text).map_err(|flaw| told(&flaw))?;
    let read = nodes.into_iter().map(|node| {
        let read = node.map_err(|flaw| vec![flaw]).and_then(|node| Document::read(node, "default"));
        read.map(taken).map_err(|flaws| flaws.iter().map(told).collect())
    });
    Ok(read.collect())
}

fn taken(document: Document) -> Taken {
    let key = document.key();
    let manifest = document.manifest.to_string();
    let record = Record { created: 0, manifest: document.manifest, drained: false, address: None };
    let stored = Record::read(&key, &record.to_bytes()).and_then(|record| record.declared(&key));
    Taken { declared: document.declared, manifest, stored: stored.map_err(|error| error.to_string()) }
}
