//! How far the sidecar is: what the side thread's tasks report, and what readiness, the admin port and the
//! supervisor look at.

use std::sync::Arc;

use tokio::sync::watch;

/// One view of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub start: Start,
    pub config: Config,
    pub registration: Registration,
    pub life: Life,
    /// Why the certificate is not renewed though it should have been by now.
    pub unrenewed: Option<String>,
    /// An operator's wish, with the reason.
    pub drain_order: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Start {
    /// No certificate yet.
    #[default]
    Enrolling,
    Enrolled,
    /// The side thread has ended with this sentence: there is no certificate, so there is no mesh.
    Failed(String),
}

/// Whether the workload takes requests, as far as it is up to this sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    #[default]
    Serving,
    /// From the moment that it was told to go.
    Draining,
}

/// The stream over which config comes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Config {
    /// Nothing was received yet; says why.
    #[default]
    None,
    Missing(String),
    /// Received, and the stream is open.
    Current,
    /// Received, but the stream is down: the last good config is in use.
    Stale(String),
    /// Received, and what the control plane has now is refused: it is another mesh's, or its store is an older copy
    /// of what was received. The last good config is in use until somebody mends that.
    Kept(String),
    /// Nothing was received, and the control plane is another mesh's.
    Refused(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Registration {
    #[default]
    NotYet,
    /// Registered only once the application is well; says what it lacks.
    WaitingForApplication(String),
    /// The stream is down; says why. It is tried again.
    Connecting(String),
    Registered,
    /// Somebody must mend what the sentence says. It is tried again, seldom.
    Refused(String),
    Draining,
    /// Nobody of the mesh sends here any more.
    Withdrawn,
}

impl Status {
    /// `Ok` once traffic can be carried: certificate and config are there. Else what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if self.life == Life::Draining {
            return Err("it is draining".to_owned());
        }
        match &self.start {
            Start::Enrolling => return Err("it has no certificate yet".to_owned()),
            Start::Failed(reason) => return Err(reason.clone()),
            Start::Enrolled => {}
        }
        match &self.config {
            Config::Current | Config::Stale(_) | Config::Kept(_) => {}
            Config::None => return Err("it has no config yet".to_owned()),
            Config::Missing(reason) | Config::Refused(reason) => return Err(reason.clone()),
        }
        match &self.registration {
            Registration::Refused(reason) => Err(reason.clone()),
            Registration::Draining | Registration::Withdrawn => Err("it is draining".to_owned()),
            Registration::NotYet
            | Registration::WaitingForApplication(_)
            | Registration::Connecting(_)
            | Registration::Registered => Ok(()),
        }
    }
}

impl Status {
    /// What somebody must mend before this sidecar can be a part of the mesh.
    pub fn failed(&self) -> Option<&str> {
        if let Start::Failed(reason) = &self.start {
            return Some(reason);
        }
        if let Config::Refused(reason) = &self.config {
            return Some(reason);
        }
        match &self.registration {
            Registration::Refused(reason) => Some(reason),
            Registration::NotYet
            | Registration::WaitingForApplication(_)
            | Registration::Connecting(_)
            | Registration::Registered
            | Registration::Draining
            | Registration::Withdrawn => None,
        }
    }
}

/// Where each task writes its own part.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusBoard(Arc<watch::Sender<Status>>);

impl StatusBoard {
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    pub(crate) fn set_start(&self, start: Start) {
        self.update(|status| &mut status.start, start);
    }

    /// `true`: that is new, and worth a line in the log.
    pub(crate) fn set_config(&self, config: Config) -> bool {
        self.update(|status| &mut status.config, config)
    }

    /// If nothing is known of the control plane yet.
    pub(crate) fn take_config_from_disk(&self) {
        self.0.send_if_modified(|status| {
            let waiting = status.config == Config::None;
            if waiting {
                let reason = "it is from disk, the control plane has not answered yet";
                status.config = Config::Stale(reason.to_owned());
            }
            waiting
        });
    }

    /// `true`: that is new, and worth a line in the log.
    pub(crate) fn set_registration(&self, registration: Registration) -> bool {
        self.update(|status| &mut status.registration, registration)
    }

    pub(crate) fn set_unrenewed(&self, reason: Option<String>) {
        self.update(|status| &mut status.unrenewed, reason);
    }

    pub(crate) fn set_draining(&self) {
        self.update(|status| &mut status.life, Life::Draining);
    }

    pub(crate) fn set_drain_order(&self, reason: String) {
        self.update(|status| &mut status.drain_order, Some(reason));
    }

    fn update<T: PartialEq>(&self, part: impl Fn(&mut Status) -> &mut T, value: T) -> bool {
        self.0.send_if_modified(|status| {
            let part = part(status);
            let differs = *part != value;
            *part = value;
            differs
        })
    }
}
