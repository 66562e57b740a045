//! The mesh of one test: a control plane with its store, and the sidecars that were started with it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use meshwork_control::Settings;
use meshwork_proxy::{HTTP2_DEFAULT, StartError};
use serde_json::Value;
use tempfile::TempDir;

use crate::control::{Running, operator_socket};
use crate::{Operator, Sidecar, Workload};

/// A control plane and sidecars. Dropped, the sidecars end, and the control plane with the test's runtime.
pub struct Mesh {
    /// Before everything else, so that sidecars end before what they stand on.
    sidecars: BTreeMap<String, Sidecar>,
    control: Option<Running>,
    operator: Operator,
    settings: Settings,
    program: Option<PathBuf>,
    http2: bool,
    _state: TempDir,
}

/// What a mesh is to be started with.
pub struct Builder {
    workloads: Vec<Workload>,
    http2: bool,
    adjust: Box<dyn FnOnce(&mut Settings) + Send>,
    program: Option<PathBuf>,
}

impl Mesh {
    pub fn builder() -> Builder {
        Builder { workloads: Vec::new(), http2: HTTP2_DEFAULT, adjust: Box::new(|_| {}), program: None }
    }

    /// Starts one more workload, whose sidecar is the caller's to end; returns once it is ready, and registered
    /// if it serves something.
    ///
    /// # Panics
    /// If it can't join.
    pub async fn join(&self, workload: Workload) -> Sidecar {
        let service = workload.service.clone();
        self.try_join(workload).await.unwrap_or_else(|error| panic!("{service} cannot join: {error}"))
    }

    pub async fn try_join(&self, workload: Workload) -> Result<Sidecar, StartError> {
        Sidecar::join(workload.or_http2(self.http2), &self.operator).await
    }

    /// The same with its state in that directory.
    ///
    /// # Panics
    /// If it can't join.
    pub async fn join_in(&self, workload: Workload, state: TempDir) -> Sidecar {
        let service = workload.service.clone();
        let joined = Sidecar::join_in(workload.or_http2(self.http2), &self.operator, state).await;
        joined.unwrap_or_else(|error| panic!("{service} cannot join: {error}"))
    }

    /// Starts a workload that was in the mesh before, without a token: from what [`Sidecar::stop`] left.
    ///
    /// # Panics
    /// If it can't start.
    pub async fn come_back(&self, workload: Workload, state: TempDir) -> Sidecar {
        let service = workload.service.clone();
        let back = Sidecar::come_back(workload.or_http2(self.http2), state).await;
        back.unwrap_or_else(|error| panic!("{service} cannot come back: {error}"))
    }

    /// The sidecar that was started with the mesh: by its service, or `namespace/service` outside of `default`.
    ///
    /// # Panics
    /// If there is none.
    pub fn sidecar(&self, name: &str) -> &Sidecar {
        self.sidecars.get(name).unwrap_or_else(|| panic!("no {name} was started with the mesh"))
    }

    /// The same, to be ended by the caller.
    ///
    /// # Panics
    /// If there is none.
    pub fn take(&mut self, name: &str) -> Sidecar {
        self.sidecars.remove(name).unwrap_or_else(|| panic!("no {name} was started with the mesh"))
    }

    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Applies documents that must be taken, and waits until whoever asks the control plane is told of them; what
    /// sidecars asked before reaches them a moment later. The answer.
    ///
    /// # Panics
    /// If they are refused.
    pub async fn apply(&self, yaml: &str) -> Value {
        let (status, answer) = self.operator.apply(yaml).await;
        assert_eq!(status, 200, "{answer:#}");
        self.status().await; // is of everything that was written before
        answer
    }

    /// One call of the operators' API: status and JSON.
    pub async fn api(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.operator.send(method, path, body).await
    }

    /// `GET /api/v1/status`.
    ///
    /// # Panics
    /// If there is none.
    pub async fn status(&self) -> Value {
        let (status, answer) = self.api("GET", "/api/v1/status", "").await;
        assert_eq!(status, 200, "{answer:#}");
        answer
    }

    /// Where sidecars reach the control plane.
    pub fn control_address(&self) -> SocketAddr {
        self.settings.listen
    }

    /// Where the control plane keeps all that outlives it; to be copied or replaced only while it is stopped.
    pub fn store_file(&self) -> PathBuf {
        self.settings.state_dir.join("mesh.redb")
    }

    /// The control plane ends, in order; sidecars go on.
    ///
    /// # Panics
    /// If it was stopped before.
    pub async fn stop_control(&mut self) {
        self.control.take().expect("it runs").stop().await;
    }

    /// It is gone in the middle of whatever it does (`kill -9`).
    ///
    /// # Panics
    /// If it does not run, or not in a process of its own.
    pub fn kill_control(&mut self) {
        self.control.take().expect("it runs").kill();
    }

    /// Starts it again, with its state and at its address.
    ///
    /// # Panics
    /// If it can't be started.
    pub async fn start_control(&mut self) {
        assert!(self.control.is_none(), "it runs already");
        self.control = Some(Running::start(self.settings.clone(), self.program.as_deref()).await);
    }

    /// Ends everything in order.
    pub async fn stop(mut self) {
        for sidecar in std::mem::take(&mut self.sidecars).into_values() {
            sidecar.stop().await;
        }
        if self.control.is_some() {
            self.stop_control().await;
        }
    }
}

impl Builder {
    /// A workload that is there from the start; they join one after the other.
    pub fn with(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// Whether its sidecars speak HTTP/2 with each other, those apart that are told otherwise.
    pub fn http2(mut self, http2: bool) -> Self {
        self.http2 = http2;
        self
    }

    /// Other settings for the control plane.
    pub fn control(mut self, adjust: impl FnOnce(&mut Settings) + Send + 'static) -> Self {
        self.adjust = Box::new(adjust);
        self
    }

    /// The control plane has a process of its own, which can be killed: of this crate's program `control-process`.
    pub fn control_apart(mut self, program: &str) -> Self {
        self.program = Some(program.into());
        self
    }

    /// # Panics
    /// If the control plane can't start, or a workload can't join.
    pub async fn start(self) -> Mesh {
        let state = tempfile::tempdir().expect("a directory for the control plane's state");
        let mut settings = Settings::new(state.path().join("control"));
        settings.listen = SocketAddr::new(own_address(), 0);
        (self.adjust)(&mut settings);
        let control = Running::start(settings.clone(), self.program.as_deref()).await;
        settings.listen = control.address();
        let operator = Operator::new(operator_socket(&settings.state_dir));
        let mut mesh = Mesh {
            sidecars: BTreeMap::new(),
            control: Some(control),
            operator,
            settings,
            program: self.program,
            http2: self.http2,
            _state: state,
        };
        for workload in self.workloads {
            let name = match workload.namespace.as_str() {
                "default" => workload.service.clone(),
                namespace => format!("{namespace}/{}", workload.service),
            };
            let sidecar = mesh.join(workload).await;
            let before = mesh.sidecars.insert(name, sidecar);
            assert!(before.is_none(), "one sidecar a name; others join later");
        }
        mesh
    }
}

/// A loopback address that no other test of this machine uses: a port that was given up there for a while, as
/// when the control plane restarts, is still free.
pub(crate) fn own_address() -> IpAddr {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let count = LAST.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let third = 64 | (count % 64) as u8;
    Ipv4Addr::new(127, third, high, low.clamp(1, 254)).into()
}
