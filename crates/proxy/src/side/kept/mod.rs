//! The last good config on the sidecar's disk: what it serves from after a restart, until the control plane says more.
//!
//! One file, `config.bin`, beside certificate and name (`format.rs` says what is in it). Written some time after a
//! change, on a thread of its own that gives way to every other: encoding megabytes and waiting for a disk hold up
//! neither workers nor the side thread. A disk that takes no more stops the writing, not the traffic; it is tried
//! again until it works.
//!
//! Roots are not in it. They are kept with the certificate, which may be newer, and an old bundle must never replace
//! a new one.

mod format;
pub(crate) mod fuzzing;

use std::fs::{self, File};
use std::future::pending;
use std::io::{self, BufReader, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use meshwork_core::compile::{Audience, Features};
use meshwork_core::resource::Resource;
use meshwork_identity::private_file;
use meshwork_xds::convert::reference;
use meshwork_xds::session::{ClientSession, Seen};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::random;
use crate::known::Shared;
use crate::live::Live;
use crate::scheduling;
use crate::telemetry::{Event, Registry};
use format::{Content, Head, Unreadable};

const FILE: &str = "config.bin";

/// Where a file goes that cannot be used, so that it can be looked at.
const ASIDE: &str = "config.bin.aside";

/// From a change to its writing, so that a config that comes in many pieces is one write, and so at most one a second.
const WRITE_AFTER: Duration = Duration::from_secs(1);

/// A write that took so many times less is worth the next one: a large config that changes all the time costs a
/// fiftieth of a core.
const REST_PER_WRITE: u32 = 50;

/// The longest such rest: where a thread that gives way waits long for a core, too.
const REST_MAX: Duration = Duration::from_secs(60);

/// Resources that take longer than a millisecond.
const MANY: usize = 100;

/// Between tries while the disk takes nothing.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What a stop waits for the last write. A config of megabytes takes a tenth of a second; a disk that hangs must not
/// hang the end.
const LAST_WRITE_MAX: Duration = Duration::from_secs(3);

/// Where the config is kept, and whose it is.
pub(super) struct Place {
    path: PathBuf,
    mesh_id: String,
    workload: String,
    audience: Audience,
    /// Never older than what `Live` holds: else an older store would be taken for one that has all of it.
    seen: Mutex<Seen>,
    /// One write at a time.
    writing: Mutex<()>,
}

impl Place {
    /// `workload`: `<namespace>/<workload>`.
    pub(super) fn new(state_dir: &Path, mesh_id: &str, workload: &str, features: Features) -> Arc<Self> {
        Arc::new(Self {
            path: state_dir.join(FILE),
            mesh_id: mesh_id.to_owned(),
            workload: workload.to_owned(),
            audience: Audience::Sidecar(features),
            seen: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    /// Puts the session where the last process was, and gives the data path what that one held.
    pub(super) fn restore(&self, session: &mut ClientSession, live: &Live) {
        let Some(Content { head, held, refused }) = self.read() else { return };
        for reason in refused {
            tracing::warn!(reason, "left out a resource of the config on disk");
        }
        let seen = Seen { era: head.era, revision: head.revision };
        self.saw(&seen);
        session.restore_seen(seen);
        let unneeded = session.restore(&held);
        for name in &head.wanted {
            // As many as fit; the application will ask for the others.
            let _ = session.want(name);
        }
        let resources: Vec<Resource> = held
            .into_iter()
            .map(|versioned| versioned.resource)
            .filter(|resource| !unneeded.contains(&reference(resource)))
            .collect();
        tracing::info!(resources = resources.len(), "took the last good config from disk");
        live.apply(resources, &[]);
    }

    /// What comes next into `Live` is as of this.
    pub(super) fn saw(&self, seen: &Seen) {
        seen.clone_into(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `None`: there is none that could be used.
    fn read(&self) -> Option<Content> {
        let content = match File::open(&self.path) {
            Ok(file) => format::read(BufReader::new(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => Err(Unreadable::Io(error)),
        };
        let reason = match content {
            Ok(content) if content.head.mesh_id != self.mesh_id => {
                format!("it is of mesh {}, this sidecar is in {}", content.head.mesh_id, self.mesh_id)
            }
            Ok(content) if content.head.workload != self.workload => {
                format!("it is that of {}, this is {}", content.head.workload, self.workload)
            }
            Ok(content) => return Some(content),
            Err(error) => error.to_string(),
        };
        let aside = self.path.with_file_name(ASIDE);
        let moved = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("it is now {}", aside.display()),
            Err(error) => format!("it cannot be moved away either: {error}"),
        };
        tracing::warn!(
            file = %self.path.display(),
            reason,
            "cannot use the config on disk, so the control plane is asked for everything; {moved}"
        );
        None
    }

    /// Takes what a slow disk takes.
    fn write(&self, live: &Live, haste: Haste) -> io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((wanted, resources)) = live.config() else { return Ok(()) };
        // Only now: whoever waits for what `Live` locks must not wait for a thread that never gets a core. Nor should an
        // end wait for one; what is written in a moment holds up nobody.
        if let Haste::None = haste
            && resources.len() >= MANY
            && let Err(error) = scheduling::run_when_idle()
        {
            tracing::debug!("a config is written at the usual priority: {error}");
        }
        let Seen { era, revision } = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mesh_id, workload) = (self.mesh_id.clone(), self.workload.clone());
        let head = Head { mesh_id, workload, era, revision, wanted };
        private_file::replace(&self.path, |file| {
            let resources = resources.iter().map(Shared::resource);
            format::write(BufWriter::new(file), &head, self.audience, resources)
        })
    }
}

/// Whether somebody waits for a write.
#[derive(Clone, Copy)]
enum Haste {
    None,
    Ending,
}

/// Writes what changed. Dropped, it writes a last time.
pub(super) struct Keeper {
    place: Arc<Place>,
    live: Arc<Live>,
    registry: Arc<Registry>,
    changes: watch::Receiver<u64>,
    /// Something changed since the last write began.
    unwritten: bool,
    /// The last write failed.
    failing: bool,
}

impl Keeper {
    pub(super) fn new(place: Arc<Place>, live: Arc<Live>, registry: Arc<Registry>) -> Self {
        let changes = live.watch();
        Self { place, live, registry, changes, unwritten: false, failing: false }
    }

    /// Never ends by itself.
    pub(super) async fn keep(mut self) {
        let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            if !self.unwritten && self.changes.changed().await.is_err() {
                return pending().await; // `Live` is held here, so it is there
            }
            self.unwritten = true;
            tokio::time::sleep(WRITE_AFTER).await;
            self.changes.mark_unchanged();
            self.unwritten = false;
            let started = Instant::now();
            let written = self.write_elsewhere().await;
            let pause = match written {
                Ok(()) => {
                    backoff.reset();
                    (started.elapsed() * REST_PER_WRITE).min(REST_MAX)
                }
                // Another try would find it as large.
                Err(ref error) if error.kind() == ErrorKind::FileTooLarge => Duration::ZERO,
                Err(_) => {
                    self.unwritten = true;
                    backoff.pause(random())
                }
            };
            self.tell(written);
            tokio::time::sleep(pause).await;
        }
    }

    async fn write_elsewhere(&self) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.start_write(Haste::None, move |result| drop(done.send(result)))?;
        written.await.unwrap_or_else(|_| Err(io::Error::other("the thread that wrote it panicked")))
    }

    fn start_write(
        &self,
        haste: Haste,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let (place, live) = (self.place.clone(), self.live.clone());
        let thread = std::thread::Builder::new().name("keep".to_owned());
        thread.spawn(move || done(place.write(&live, haste))).map(drop)
    }

    /// Once when it begins to fail, once when it works again: a full disk is no reason to fill the log, too.
    fn tell(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => {
                self.registry.count(Event::ConfigKept);
                if self.failing {
                    tracing::info!("the config is on disk again");
                }
                self.failing = false;
            }
            Err(error) => {
                self.registry.count(Event::ConfigNotKept);
                if !self.failing {
                    tracing::warn!(
                        file = %self.place.path.display(),
                        %error,
                        "cannot keep the config on disk: traffic goes on, but after a restart the sidecar needs the \
                         control plane; make room there, and it is written again"
                    );
                }
                self.failing = true;
            }
        }
    }
}

impl Drop for Keeper {
    /// Who restarts a sidecar wants it as it was, not as it was a second before.
    fn drop(&mut self) {
        if !self.unwritten && !self.changes.has_changed().unwrap_or(false) {
            return;
        }
        let (done, written) = mpsc::channel();
        let started = self.start_write(Haste::Ending, move |result| drop(done.send(result)));
        let written = started.and_then(|()| match written.recv_timeout(LAST_WRITE_MAX) {
            Ok(written) => written,
            Err(_) => Err(io::Error::from(ErrorKind::TimedOut)),
        });
        self.tell(written);
    }
}

#[cfg(test)]
mod tests;
