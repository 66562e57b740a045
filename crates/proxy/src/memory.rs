//! What was found out about servers by trying, so that it need not be tried again with each request.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use meshwork_core::Instant;

use crate::pool::Key;

/// Servers remembered by a worker. An application calls few of which there is anything to remember.
const REMEMBERED_MAX: usize = 1_024;

/// A port may get another server; an hour of tries saved is worth one wrong guess.
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// Servers that answered HTTP/2 in HTTP/1: they are spoken to so at once.
pub(crate) type OnlyHttp1 = Remembered<Key>;

pub(crate) struct Remembered<K> {
    seen: HashMap<K, Instant>,
}

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self { seen: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Remembered<K> {
    pub(crate) fn remember(&mut self, name: &K, now: Instant) {
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.retain(|_, at| now.since(*at) < REMEMBERED_FOR);
        }
        if self.seen.len() < REMEMBERED_MAX {
            self.seen.insert(name.clone(), now);
        }
    }

    pub(crate) fn is_known(&self, name: &K, now: Instant) -> bool {
        self.seen.get(name).is_some_and(|at| now.since(*at) < REMEMBERED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_remembered_for_an_hour() {
        let mut seen = Remembered::default();
        let start = Instant::from_millis(0);
        seen.remember(&80, start);
        assert!(seen.is_known(&80, start + Duration::from_secs(3_599)));
        assert!(!seen.is_known(&80, start + Duration::from_secs(3_600)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Remembered::default();
        for port in 1..=2_000 {
            seen.remember(&port, Instant::from_millis(0));
        }
        assert_eq!(seen.seen.len(), REMEMBERED_MAX);
    }
}
