//! Long work on a thread that runs only where nobody else wants to: decoding and applying a config of megabytes takes
//! tens of milliseconds, and on a machine without an idle core requests would wait for it.
//!
//! Whoever is busy with other things on every core starves such a thread. So if it once took far longer than its
//! work, the next of it is done on the side thread for a while, which then gives way in pieces (`pace.rs`).

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::scheduling;

/// A response has at most 1 MiB, which is 20 ms of work. Past this the machine has no room for it.
const QUICK_MAX: Duration = Duration::from_secs(1);

/// How long it is then done elsewhere.
const BUSY_TIME: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Background {
    busy_until: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BackgroundError {
    #[error("no thread can be started for it: {0}")]
    Start(#[from] io::Error),
    #[error("its thread panicked")]
    Panicked,
}

impl Background {
    /// Whether work is done there soon, as far as is known.
    pub(super) fn is_quick(&self) -> bool {
        self.busy_until.is_none_or(|until| until <= Instant::now())
    }

    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BackgroundError> {
        let started = Instant::now();
        let (done, result) = oneshot::channel();
        std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            if let Err(error) = scheduling::run_when_idle() {
                tracing::debug!("a config is taken at the usual priority: {error}");
            }
            // Nobody waits for it any more if the sidecar ends.
            let _ = done.send(work());
        })?;
        let result = result.await.map_err(|_| BackgroundError::Panicked);
        if started.elapsed() > QUICK_MAX {
            tracing::warn!(
                seconds = started.elapsed().as_secs_f32(),
                "a config waited for a core: this machine is busy, and for a minute configs compete with requests"
            );
            self.busy_until = Some(Instant::now() + BUSY_TIME);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_on_a_thread_that_gives_way_to_every_other() {
        let policy = Background::default().run(scheduling::policy).await.unwrap();
        assert_eq!(policy, libc::SCHED_IDLE);
        assert_ne!(scheduling::policy(), libc::SCHED_IDLE, "and the one that waits does not");
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let result = Background::default().run(|| -> () { panic!("on purpose") }).await;
        assert_eq!(result.unwrap_err().to_string(), "its thread panicked");
    }

    #[tokio::test(start_paused = true)]
    async fn where_it_starves_it_is_done_elsewhere_for_a_while() {
        let mut background = Background::default();
        background.run(|| ()).await.unwrap();
        assert!(background.is_quick());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = background.run(move || wait.recv().unwrap());
        let meanwhile = async {
            tokio::time::advance(QUICK_MAX * 2).await;
            go.send(()).unwrap();
        };
        tokio::join!(slow, meanwhile).0.unwrap();
        assert!(!background.is_quick());
        tokio::time::advance(BUSY_TIME).await;
        assert!(background.is_quick());
    }
}
