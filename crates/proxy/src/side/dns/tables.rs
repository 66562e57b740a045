//! The names of the mesh: who looks up one of another namespace for the first time waits until its table is here, or
//! until it seems that nobody will send it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshwork_core::Instant;
use meshwork_core::names::{self, Answer, Asker, Question};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::live::Live;

/// How long a first look-up waits for the control plane: it answers within milliseconds, or is away.
const TABLE_WAIT: Duration = Duration::from_secs(1);

/// After a wait in vain nobody waits again for so long: with the control plane away, `example.com` asks for a namespace
/// `com` that nobody can deny, and must not take a second longer each time.
const VAIN_KEPT: Duration = Duration::from_secs(10);

/// Namespaces that were waited for in vain. Beyond, all are forgotten, and waited for once more.
const VAIN_MAX: usize = 1_024;

pub(super) struct Tables {
    live: Arc<Live>,
    clock: Clock,
    /// By namespace, when a wait ended without an answer.
    vain: Mutex<HashMap<String, Instant>>,
}

impl Tables {
    pub(super) fn new(live: Arc<Live>, clock: Clock) -> Self {
        Self { live, clock, vain: Mutex::default() }
    }

    /// Until it is known what is in the namespace, or the time is up.
    pub(super) async fn wait(&self, namespace: &str) {
        let mut versions = self.live.watch();
        if !self.live.ask_names(namespace) || self.was_vain(namespace) {
            return;
        }
        let known =
            async { while !self.live.names().knows(namespace) && versions.changed().await.is_ok() {} };
        let mut vain = match timeout(TABLE_WAIT, known).await {
            Ok(()) => {
                self.vain().remove(namespace);
                return;
            }
            Err(_) => self.vain(),
        };
        if vain.len() >= VAIN_MAX {
            vain.clear();
        }
        vain.insert(namespace.to_owned(), self.clock.now());
    }

    /// A name was looked up: its namespace's table stays as long as that happens.
    pub(super) fn used(&self, question: Question<'_>, asker: &Asker<'_>) {
        if let Answer::AskNamespace(namespace) = names::resolve(question, asker, &names::Tables::default()) {
            self.live.ask_names(&namespace);
        }
    }

    fn was_vain(&self, namespace: &str) -> bool {
        let since = self.vain().get(namespace).copied();
        since.is_some_and(|since| self.clock.now().since(since) < VAIN_KEPT)
    }

    fn vain(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // A panic left a map of whole entries.
        self.vain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
