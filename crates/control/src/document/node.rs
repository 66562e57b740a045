//! The tree of a document. Each value knows where it stands.

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the text's order; no key is there twice.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.entry(key)?.value.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where `path` (`spec.rules[0].backendRefs[1].port`) stands; if the tree ends before the path does,
    /// as with a field that is missing, the last place on the way.
    pub(crate) fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for element in elements(path) {
            match &node.value {
                Value::Map(_) => match node.entry(element) {
                    Some(entry) => (node, place) = (&entry.value, entry.place),
                    None => break,
                },
                Value::List(items) => match element.parse().ok().and_then(|n: usize| items.get(n)) {
                    Some(item) => (node, place) = (item, item.place),
                    None => break,
                },
                _ => break,
            }
        }
        // A scalar's own place says more than its key's: the caret stands under what is wrong.
        match node.value {
            Value::List(_) | Value::Map(_) | Value::Null => place,
            _ => node.place,
        }
    }
}

/// `a.b[0].c` -> a, b, 0, c; a key with dots is written `metadata.annotations["meshwork.dev/accounts"]`.
fn elements(path: &str) -> Vec<&str> {
    let mut elements = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (element, after) = match bracketed.strip_prefix('"') {
                Some(quoted) => quoted.split_once("\"]").unwrap_or((quoted, "")),
                None => bracketed.split_once(']').unwrap_or((bracketed, "")),
            };
            elements.push(element);
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            elements.push(&rest[..end]);
            let after = &rest[end..];
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
    elements
}
