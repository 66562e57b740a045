//! Text -> tree, for YAML of several documents and for JSON, which YAML 1.2 contains.
//!
//! The one file that knows `serde-saphyr`: its API moves.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, Spanned};

use super::node::Entry;
use super::{Flaw, Node, Place, Value};

/// Documents in one text, those in lists among them. A mesh of 10,000 services still fits into one file.
pub(crate) const DOCUMENTS_MAX: usize = 20_000;
/// Values in one text, names of fields included: a mesh of 10,000 services with a route each has some 700,000.
const NODES_MAX: usize = 1_000_000;
/// Elements of one list or map: ours have hundreds.
const ELEMENTS_MAX: usize = 10_000;
/// How deep values may nest: ours are ten deep. Reading is recursive, so this is what guards the stack: at 64, that of an
/// unoptimised build was full.
const DEPTH_MAX: usize = 24;
/// Aliases (`*a`) in one text: a convenience, not a way to make much out of little.
const ALIASES_MAX: usize = 1_000;

/// What aliases may unfold to: twenty values for each of them.
const ALIAS_EVENTS_MAX: usize = 20_000;

/// Reads every document of `text`; empty ones are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Flaw> {
    parse_up_to(NODES_MAX, text)
}

/// The same of a text with so many values at most.
pub(super) fn parse_up_to(nodes_max: usize, text: &str) -> Result<Vec<Node>, Flaw> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_MAX,
            max_nodes: nodes_max,
            max_events: 4 * nodes_max,
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_aliases: ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // `no` and `on` are words, as in YAML 1.2.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location().map(place);
        let error = error.without_snippet();
        let message = match error {
            Error::Budget { breach, .. } => beyond(breach, nodes_max),
            error => error.to_string(),
        };
        // The place is told apart from the sentence: the library puts it at its end.
        let message = match message.rfind(" at line ") {
            Some(end) if place.is_some() => message[..end].to_owned(),
            _ => message,
        };
        Flaw { message: message.trim_end_matches(':').to_owned(), place }
    })
}

/// Which limit a text is beyond.
fn beyond(breach: &BudgetBreach, nodes_max: usize) -> String {
    match breach {
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
            format!("more than {nodes_max} values in one text; split it")
        }
        BudgetBreach::Documents { .. } => {
            format!("more than {DOCUMENTS_MAX} documents in one text; split it")
        }
        BudgetBreach::Depth { .. } => format!("values nest more than {DEPTH_MAX} deep"),
        BudgetBreach::Aliases { .. } => {
            format!("more than {ALIASES_MAX} aliases in one text; write them out")
        }
        // The library's own limits, of what we take no need of.
        other => format!("more than may be in one text: {other:?}"),
    }
}

fn place(location: Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: place(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            room(list.len())?;
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value()?;
            room(map.len())?;
            map.push(Entry { place: place(key.referenced), key: key.value, value });
        }
        Ok(Value::Map(map))
    }
}

/// For one more element: who sends millions is told so after thousands.
fn room<E: de::Error>(held: usize) -> Result<(), E> {
    if held < ELEMENTS_MAX {
        return Ok(());
    }
    Err(E::custom(format_args!("more than {ELEMENTS_MAX} elements in one list or map; split it")))
}
