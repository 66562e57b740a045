//! One measurement: fresh proxies, warm-up, load; CPU and counters read right before and after.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::captured;
use crate::failure::{Failure, Result, fail};
use crate::load::Load;
use crate::mesh::Mesh;
use crate::namespaces::Namespaces;
use crate::pair::Pair;
use crate::peers::Ground;
use crate::process_files;
use crate::scrape;
use crate::settings::Settings;
use crate::strangers;
use crate::target::{Outcome, Place};
use crate::topology::{Between, Kind, Topology};
use crate::wire::{Handshake, TLS13, X25519MLKEM768};

/// Before memory is read as idle: what a start leaves behind has been given back by then.
const SETTLE: Duration = Duration::from_millis(500);

/// Long enough that connections are open, paths are hot and windows have grown.
const WARM_UP: Duration = Duration::from_secs(1);

/// One round's numbers of a topology under a load.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) outcome: Outcome,
    /// Of both proxies, for 10,000 requests.
    pub(crate) cpu_seconds_per_10k: f64,
    /// Client and application beside the proxies, and the kernel's own threads.
    pub(crate) total_cpu_seconds_per_10k: f64,
    /// `None`: there is no proxy.
    pub(crate) idle_mib: Option<f64>,
    /// With the load's connections still open; only our own generator leaves them open.
    pub(crate) loaded_mib: Option<f64>,
    pub(crate) start: Option<Duration>,
}

pub(crate) struct Bench {
    pub(crate) namespaces: Namespaces,
    pub(crate) ground: Ground,
    meshwork: PathBuf,
    pub(crate) span: Duration,
    meshes: BTreeMap<&'static str, Mesh>,
    /// What was seen when strangers were turned away, once for each of our topologies.
    pub(crate) refusals: BTreeMap<&'static str, Vec<String>>,
}

impl Bench {
    pub(crate) fn new(settings: &Settings, namespaces: Namespaces, ground: Ground) -> Result<Self> {
        let mut meshes = BTreeMap::new();
        for topology in &settings.topologies {
            if let Kind::Meshwork(between, entry) = topology.kind() {
                let folder = ground.folder.join(topology.name());
                meshes.insert(topology.name(), Mesh::new(between, entry, settings.meshwork.clone(), folder)?);
            }
        }
        let span = Duration::from_secs(u64::from(settings.seconds));
        let meshwork = settings.meshwork.clone();
        Ok(Self { namespaces, ground, meshwork, span, meshes, refusals: BTreeMap::new() })
    }

    pub(crate) fn measure(&mut self, topology: Topology, load: Load) -> Result<Sample> {
        if !topology.is_captured() {
            return self.measure_pair(topology, load);
        }
        captured::apply(&self.meshwork, &self.namespaces)?;
        let sample = self.measure_pair(topology, load)?;
        captured::remove(&self.meshwork, &self.namespaces)?;
        Ok(sample)
    }

    fn measure_pair(&mut self, topology: Topology, load: Load) -> Result<Sample> {
        let named = |failure: Failure| Failure(format!("{topology} at {load}: {failure}"));
        let Some(mut pair) = self.start(topology).map_err(named)? else {
            return self.direct(load).map_err(named);
        };
        thread::sleep(SETTLE);
        let idle_mib = pair.resident_mib()?;
        let counted = matches!(topology.kind(), Kind::Meshwork(..));
        if let Some(handshake) = pair.handshake {
            check_handshake(handshake).map_err(named)?;
            if !topology.is_captured() {
                // A stranger's own connection would be led to the sidecar as well. Behind the rules stands the same listener.
                self.check_strangers(topology, handshake.port).map_err(named)?;
            }
        }
        self.run(load, topology, WARM_UP, &mut || Ok(())).map_err(named)?;
        let before = if counted { Some(self.counts()?) } else { None };
        let cpu = || Ok((pair.cpu_seconds()?, process_files::total_cpu_seconds()?));
        let cpu_before = cpu()?;
        let (mut loaded_mib, mut cpu_after) = (None, None);
        let outcome = self.run(load, topology, self.span, &mut || {
            cpu_after = Some(cpu()?);
            loaded_mib = Some(pair.resident_mib()?);
            Ok(())
        });
        let outcome = outcome.map_err(named)?;
        let cpu_after = cpu_after.map_or_else(cpu, Ok)?;
        if let Some(before) = before {
            let after = self.counts()?;
            for (side, before, after) in [("outbound", &before.0, &after.0), ("inbound", &before.1, &after.1)]
            {
                scrape::check(side, before, after, outcome.answered, outcome.cut_off_max).map_err(named)?;
            }
            check_between(topology, load, &after.0).map_err(named)?;
        }
        pair.check_alive()?;
        let per_10k = |seconds: f64| seconds / outcome.answered as f64 * 10_000.0;
        let cpu_seconds_per_10k = per_10k(cpu_after.0 - cpu_before.0);
        let total_cpu_seconds_per_10k = per_10k(cpu_after.1 - cpu_before.1);
        let (idle_mib, start) = (Some(idle_mib), Some(pair.start));
        Ok(Sample { outcome, cpu_seconds_per_10k, total_cpu_seconds_per_10k, idle_mib, loaded_mib, start })
    }

    fn direct(&self, load: Load) -> Result<Sample> {
        self.run(load, Topology::Direct, WARM_UP, &mut || Ok(()))?;
        let before = process_files::total_cpu_seconds()?;
        let outcome = self.run(load, Topology::Direct, self.span, &mut || Ok(()))?;
        let total = process_files::total_cpu_seconds()? - before;
        let total_cpu_seconds_per_10k = total / outcome.answered as f64 * 10_000.0;
        let (cpu_seconds_per_10k, none) = (0.0, None);
        Ok(Sample {
            outcome,
            cpu_seconds_per_10k,
            total_cpu_seconds_per_10k,
            idle_mib: none,
            loaded_mib: none,
            start: None,
        })
    }

    /// `None`: nothing stands between.
    fn start(&self, topology: Topology) -> Result<Option<Pair>> {
        let target = topology.target(Load::H1Small.door());
        match topology.kind() {
            Kind::Direct => Ok(None),
            Kind::Peer(peer) => Pair::of_peer(peer, &self.namespaces, &self.ground, &target).map(Some),
            Kind::Meshwork(..) => Pair::of_mesh(self.mesh(topology)?, &self.namespaces, target).map(Some),
        }
    }

    pub(crate) fn has_mesh(&self, topology: Topology) -> bool {
        self.meshes.contains_key(topology.name())
    }

    fn mesh(&self, topology: Topology) -> Result<&Mesh> {
        self.meshes.get(topology.name()).ok_or_else(|| Failure(format!("{topology} was not prepared")))
    }

    fn run(
        &self,
        load: Load,
        topology: Topology,
        span: Duration,
        at_end: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Outcome> {
        let place = Place { client: &self.namespaces.client, folder: &self.ground.folder };
        let target = topology.target(load.door());
        let target = match topology.kind() {
            Kind::Meshwork(..) => self.mesh(topology)?.target(target),
            Kind::Direct | Kind::Peer(_) => target,
        };
        load.run(&place, &target, span, at_end)
    }

    fn counts(&self) -> Result<(scrape::Counts, scrape::Counts)> {
        Ok((scrape::settled(&self.namespaces.client)?, scrape::settled(&self.namespaces.server)?))
    }

    fn check_strangers(&mut self, topology: Topology, port: u16) -> Result<()> {
        if self.refusals.contains_key(topology.name()) {
            return Ok(());
        }
        let mesh = self.mesh(topology)?;
        mesh.declare_impostor(&self.namespaces.client, port)?;
        let target = topology.target(Load::H1Small.door());
        let seen = strangers::check(mesh, &self.namespaces, port, &target)?;
        self.refusals.insert(topology.name(), seen);
        Ok(())
    }
}

/// One connection carries 256 requests at once over HTTP/2, and one over HTTP/1: the count tells which it was.
const HTTP2_CONNECTIONS_MAX: i64 = 8;

/// That the two sidecars spoke with each other what the row says.
fn check_between(topology: Topology, load: Load, outbound: &scrape::Counts) -> Result<()> {
    let opened = outbound.of("meshwork_connections_total", &[("kind", "upstream")]);
    let saturated = match load {
        Load::H1Small | Load::H1Large => true,
        // Some of these have answers so quickly that few connections carry them.
        Load::Rate | Load::H2Small | Load::Grpc | Load::Connections | Load::Connects => false,
    };
    let as_said = match topology.kind() {
        Kind::Meshwork(Between::Http2, _) => opened <= HTTP2_CONNECTIONS_MAX,
        Kind::Meshwork(Between::Http1, _) => !saturated || opened > HTTP2_CONNECTIONS_MAX,
        Kind::Direct | Kind::Peer(_) => true,
    };
    if as_said {
        return Ok(());
    }
    fail(format!("{opened} connections were opened between the sidecars: that is not what they should speak"))
}

/// What every connection between our sidecars must be.
fn check_handshake(handshake: Handshake) -> Result<()> {
    let Handshake { version, group, readable, .. } = handshake;
    if version != TLS13 || group != X25519MLKEM768 {
        return fail(format!(
            "the sidecars agreed on version {version:#06x} and group {group:#06x}, not on TLS 1.3 with X25519MLKEM768"
        ));
    }
    if readable {
        return fail("a request or an answer can be read on the wire between the sidecars");
    }
    Ok(())
}
