//! A text's documents, with those that stand in a list: `get -o yaml` and `kubectl get -o yaml` print several as one `List`.
//!
//! Each item is a document like any other, with its own place in the text. A list in a list is none of ours.

use meshwork_core::manifest::Kind;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::document::{self, DOCUMENTS_MAX, Entry, Flaw, Node, Value};

/// What a list may say beside its items. All of it is the store's that printed it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // only to refuse what is not among them
struct List {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    metadata: Option<ListMetadata>,
    /// Left out or null: none.
    items: Option<Vec<IgnoredAny>>,
}

/// Kubernetes' `ListMeta`. A list that is only a part of all there is (`continue`) may be applied like any other: what is not
/// in it stays as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // as above
struct ListMetadata {
    resource_version: Option<IgnoredAny>,
    self_link: Option<IgnoredAny>,
    r#continue: Option<IgnoredAny>,
    remaining_item_count: Option<IgnoredAny>,
}

/// What a list's items are.
#[derive(Clone, Copy)]
enum Of {
    Any,
    One(Kind),
}

/// Every document of a text; in place of a list that is not right, what is wrong with it.
pub(crate) fn documents(text: &str) -> Result<Vec<Result<Node, Flaw>>, Flaw> {
    let mut documents = Vec::new();
    for node in document::parse(text)? {
        let place = node.place;
        match list_of(&node) {
            None => documents.push(Ok(node)),
            Some(of) => match items(node, of) {
                Ok(items) => documents.extend(items.into_iter().map(Ok)),
                Err(flaw) => documents.push(Err(flaw)),
            },
        }
        // Parsing has counted each list as one.
        if documents.len() > DOCUMENTS_MAX {
            let message = format!("more than {DOCUMENTS_MAX} documents in one text; split it");
            return Err(Flaw::at(message, place));
        }
    }
    Ok(documents)
}

/// `List`, or the list of a kind as Kubernetes' API answers it (`HTTPRouteList`).
fn list_of(node: &Node) -> Option<Of> {
    let (api_version, kind) = (node.text("apiVersion")?, node.text("kind")?);
    if (api_version, kind) == ("v1", "List") {
        return Some(Of::Any);
    }
    Kind::find(api_version, kind.strip_suffix("List")?).ok().map(Of::One)
}

fn items(list: Node, of: Of) -> Result<Vec<Node>, Flaw> {
    List::deserialize(&list)?;
    let Value::Map(entries) = list.value else { return Ok(Vec::new()) };
    let items = entries.into_iter().find(|entry| entry.key == "items").map(|entry| entry.value.value);
    let Some(Value::List(mut items)) = items else { return Ok(Vec::new()) };
    if let Of::One(kind) = of {
        items.iter_mut().for_each(|item| say_kind(item, kind));
    }
    Ok(items)
}

/// The API of Kubernetes says the kind of a list's items once, in the list.
fn say_kind(item: &mut Node, kind: Kind) {
    let place = item.place;
    if item.entry("apiVersion").is_some() || item.entry("kind").is_some() {
        return;
    }
    let Value::Map(entries) = &mut item.value else { return };
    for (key, text) in [("apiVersion", kind.api_version()), ("kind", kind.name())] {
        let value = Node { place, value: Value::Text(text.to_owned()) };
        entries.push(Entry { key: key.to_owned(), place, value });
    }
}
