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

#[cfg(test)]
mod tests {
    use meshwork_core::resource::ResourceType;
    use tokio::time::Instant as Moment;

    use super::*;
    use crate::telemetry::Registry;

    fn tables() -> (Tables, Arc<Live>, tokio::sync::mpsc::Receiver<crate::live::Ask>) {
        let clock = Clock::start();
        let (live, asks) = Live::new(Registry::new("default/web".to_owned()), clock, &[]);
        (Tables::new(live.clone(), clock), live, asks)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_does_so_once() {
        let (tables, _live, _asks) = tables();
        let begin = Moment::now();
        tables.wait("com").await;
        let once = begin.elapsed();
        assert!(once >= TABLE_WAIT);
        tables.wait("com").await;
        assert_eq!(begin.elapsed(), once);
        tables.wait("org").await;
        assert!(begin.elapsed() >= TABLE_WAIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_the_wait_and_what_was_in_vain_before_is_forgotten() {
        let (tables, live, mut asks) = tables();
        tables.wait("com").await;
        asks.recv().await.unwrap();
        live.apply(Vec::new(), &[(ResourceType::NameTable, "com".to_owned())]);
        let begin = Moment::now();
        tables.wait("com").await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_remembered_as_may_be() {
        let (tables, _live, mut asks) = tables();
        for number in 0..=VAIN_MAX {
            tables.wait(&format!("n{number}")).await;
            asks.recv().await.unwrap();
        }
        assert_eq!(tables.vain().len(), 1);
    }
}
