//! What a write changed: field by field, old and new, and never much of it. Pure.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// Fields that one line of the audit log tells; how many more there were is told, too.
const FIELDS_MAX: usize = 40;

/// Characters of one value: names, numbers and addresses are shorter.
const VALUE_CHARS_MAX: usize = 80;

/// Characters of a field's path; documents choose the keys of their maps.
const PATH_CHARS_MAX: usize = 160;

/// Stands for a value that may be somebody's secret: what a route sets or expects in a header.
const NOT_SHOWN: &str = "(not shown)";

/// Stands where a field was not, or is not any more.
const NONE: &str = "none";

/// Each field that changed: `Service shop/cart spec.ports[0].port: 80 -> 8080`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Change {
    lines: Vec<String>,
    #[serde(skip)]
    more: usize,
}

impl Change {
    /// Adds what is different between two versions of one resource; `None`: there was none, or there is none now.
    pub(crate) fn add(&mut self, subject: &str, old: Option<&Value>, new: Option<&Value>) {
        self.compare(subject, &mut String::new(), old, new);
        if self.more > 0 {
            self.lines.truncate(FIELDS_MAX);
            self.lines.push(format!("and {} fields more", self.more));
        }
    }

    pub(crate) fn of(subject: &str, old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut change = Self::default();
        change.add(subject, old, new);
        change
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn compare(&mut self, subject: &str, path: &mut String, old: Option<&Value>, new: Option<&Value>) {
        if old == new {
            return;
        }
        let parts = parts(old, new);
        if parts.is_empty() {
            return self.tell(subject, path, old, new);
        }
        let length = path.len();
        for (step, old, new) in parts {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
            self.compare(subject, path, old, new);
            path.truncate(length);
        }
    }

    fn tell(&mut self, subject: &str, path: &str, old: Option<&Value>, new: Option<&Value>) {
        if self.lines.len() >= FIELDS_MAX {
            self.more += 1;
            return;
        }
        let (old, new) = (shown(path, old), shown(path, new));
        self.lines.push(format!("{subject} {}: {old} -> {new}", cut(path, PATH_CHARS_MAX)));
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

enum Step<'v> {
    Field(&'v str),
    Index(usize),
}

/// What two values are made of, side by side; empty where one of them is no more than a value.
fn parts<'v>(
    old: Option<&'v Value>,
    new: Option<&'v Value>,
) -> Vec<(Step<'v>, Option<&'v Value>, Option<&'v Value>)> {
    match (old, new) {
        (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) => {
            let [old, new] = [old, new].map(|value| value.and_then(Value::as_object));
            let names = old.into_iter().flatten().map(|(name, _)| name);
            let added = new.into_iter().flatten().map(|(name, _)| name);
            let added = added.filter(|name| !old.is_some_and(|old| old.contains_key(*name)));
            let side =
                |side: Option<&'v serde_json::Map<String, Value>>, name| side.and_then(|map| map.get(name));
            let all = names.chain(added);
            all.map(|name| (Step::Field(name), side(old, name), side(new, name))).collect()
        }
        (Some(Value::Array(_)) | None, Some(Value::Array(_)) | None) => {
            let [old, new] = [old, new].map(|value| value.and_then(Value::as_array));
            let length = |side: Option<&Vec<Value>>| side.map_or(0, Vec::len);
            let item =
                |side: Option<&'v Vec<Value>>, index| side.and_then(|list: &'v Vec<Value>| list.get(index));
            let all = 0..length(old).max(length(new));
            all.map(|index| (Step::Index(index), item(old, index), item(new, index))).collect()
        }
        (Some(_), _) | (_, Some(_)) => Vec::new(),
    }
}

fn shown(path: &str, value: Option<&Value>) -> String {
    match value {
        None => NONE.to_owned(),
        // Of headers, cookies and query parameters: `Authorization: Bearer …` may be among them.
        Some(_) if path.ends_with(".value") => NOT_SHOWN.to_owned(),
        Some(value) => cut(&value.to_string(), VALUE_CHARS_MAX),
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(old: Option<Value>, new: Option<Value>, expect: &[&str]) {
        assert_eq!(Change::of("Service a/b", old.as_ref(), new.as_ref()).lines, expect);
    }

    #[test]
    fn each_field_is_told_with_its_old_and_its_new_value() {
        check(
            Some(
                json!({"spec": {"ports": [{"port": 80}, {"port": 81}], "selector": {"app": "b"}}, "kind": "Service"}),
            ),
            Some(
                json!({"spec": {"ports": [{"port": 8080}], "selector": {"app": "b", "v": "2"}}, "kind": "Service"}),
            ),
            &[
                "Service a/b spec.ports[0].port: 80 -> 8080",
                "Service a/b spec.ports[1].port: 81 -> none",
                "Service a/b spec.selector.v: none -> \"2\"",
            ],
        );
    }

    #[test]
    fn what_is_new_or_gone_is_told_whole() {
        check(None, Some(json!({"a": {"b": 1}})), &["Service a/b a.b: none -> 1"]);
        check(Some(json!({"a": [true]})), None, &["Service a/b a[0]: true -> none"]);
        check(Some(json!({"a": {"b": 1}})), Some(json!({"a": 1})), &["Service a/b a: {\"b\":1} -> 1"]);
        check(Some(json!({"a": {}})), Some(json!({})), &["Service a/b a: {} -> none"]);
        check(Some(json!({"a": 1})), Some(json!({"a": 1})), &[]);
    }

    #[test]
    fn what_a_route_sets_in_a_header_is_never_shown() {
        let with = |value: &str| json!({"filters": [{"set": [{"name": "authorization", "value": value}]}]});
        let change = Change::of("HTTPRoute a/b", Some(&with("Bearer old")), Some(&with("Bearer new")));
        assert_eq!(change.lines, ["HTTPRoute a/b filters[0].set[0].value: (not shown) -> (not shown)"]);
    }

    #[test]
    fn a_change_has_an_end() {
        let many: Value = (0..1_000).map(|n| (format!("{n:04}"), json!("x".repeat(1_000)))).collect();
        let mut change = Change::of("Service a/b", None, Some(&many));
        assert_eq!(change.lines.len(), FIELDS_MAX + 1);
        assert_eq!(change.lines[FIELDS_MAX], "and 960 fields more");
        change.add("Service a/c", None, Some(&many));
        assert_eq!(change.lines.len(), FIELDS_MAX + 1);
        assert_eq!(change.lines[FIELDS_MAX], "and 1960 fields more");
        let bytes_max = FIELDS_MAX * (4 * (VALUE_CHARS_MAX + PATH_CHARS_MAX) + 50);
        assert!(change.to_string().len() < bytes_max);
        let deep = json!({"k".repeat(10_000): "é".repeat(10_000)});
        let told = Change::of("Service a/b", Some(&deep), None).to_string();
        assert_eq!(told.chars().count(), 12 + PATH_CHARS_MAX + 1 + 2 + VALUE_CHARS_MAX + 1 + 8);
    }
}
