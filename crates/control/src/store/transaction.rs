//! What one commit asks for, and what it may answer.

use super::Key;

/// Conditions and changes; all or nothing.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(super) expectations: Vec<(Key, Expect)>,
    pub(super) changes: Vec<(Key, Option<Vec<u8>>)>,
}

/// What must hold of a key for the transaction to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expect {
    Absent,
    Present,
    /// Last changed at this revision.
    Revision(u64),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("{key} is not as expected: {expected}, but {found}")]
    Conflict { key: Key, expected: String, found: String },
    #[error("{key} holds {bytes} bytes; {max} is the most that one resource may have")]
    TooLarge { key: Key, bytes: usize, max: usize },
    #[error("the store holds {max} keys, the most it may; delete what is no longer needed")]
    Full { max: u64 },
    #[error("the store cannot be written: {0}; free the disk or mend it, then try again")]
    Disk(String),
    #[error("the control plane is stopping; try again on the next one")]
    Closed,
}

impl Transaction {
    pub(crate) fn expect(mut self, key: Key, expect: Expect) -> Self {
        self.expectations.push((key, expect));
        self
    }

    /// Writes a value; one that already stands there is no change and takes no revision.
    pub(crate) fn put(mut self, key: Key, value: Vec<u8>) -> Self {
        self.changes.push((key, Some(value)));
        self
    }

    /// What it would write of values.
    pub(super) fn bytes(&self) -> u64 {
        self.changes.iter().flat_map(|(_, value)| value).map(|value| value.len() as u64).sum()
    }

    /// Removes a key; one that is absent is no change.
    pub(crate) fn delete(mut self, key: Key) -> Self {
        self.changes.push((key, None));
        self
    }
}

impl Expect {
    /// `None` if it holds of a key whose last change was at `found`; else the two sides in words.
    pub(super) fn refusal(self, found: Option<u64>) -> Option<(String, String)> {
        let holds = match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Revision(revision) => found == Some(revision),
        };
        let expected = match self {
            Self::Absent => "expected none".to_owned(),
            Self::Present => "expected one".to_owned(),
            Self::Revision(revision) => format!("expected resourceVersion {revision}"),
        };
        let found = match found {
            None => "there is none".to_owned(),
            Some(revision) => format!("it is at resourceVersion {revision}"),
        };
        (!holds).then_some((expected, found))
    }
}
