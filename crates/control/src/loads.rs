//! LRS, by which programs without a sidecar report the load of the services that they call
//! (`envoy.service.load_stats.v3.LoadReportingService`): one task a stream, which drives the session of `meshwork_xds`.
//!
//! What was reported is kept in memory as long as its stream lasts, for `status`; nothing is decided by it. Who
//! reports proves by its certificate who it is, and speaks for itself alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwork_core::model::SpiffeId;
use meshwork_xds::load_reporting::LoadReportingService;
use meshwork_xds::session::LoadSession;
use meshwork_xds::session::load::SERVICES_MAX;
use meshwork_xds::wire::{LoadStatsRequest, LoadStatsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::{RemoteAddress, workload};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::sessions::Foreign;

/// Services of all streams together, each with a client's counts: some 16 MiB, which are a thousand clients that call 64
/// services each.
const REPORTED_MAX: usize = 65_536;

/// Answers that wait for a client to read them: there is one, and perhaps the reason why the stream ends.
const ANSWERS_WAITING_MAX: usize = 2;

/// The streams of reports that are open.
#[derive(Default)]
pub(crate) struct Loads(Mutex<Streams>);

#[derive(Default)]
struct Streams {
    last: u64,
    open: BTreeMap<u64, Reporter>,
    /// Services of all of them.
    services: usize,
}

/// One program, and what it has reported.
pub(crate) struct Reporter {
    pub(crate) id: SpiffeId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) program: Option<Foreign>,
    pub(crate) session: LoadSession,
}

/// A stream's place among the open ones; leaving it forgets what was reported.
struct Place {
    loads: Arc<Loads>,
    number: u64,
}

impl Loads {
    fn open(self: &Arc<Self>, id: SpiffeId, remote: Option<SocketAddr>) -> Place {
        let mut streams = lock(&self.0);
        streams.last += 1;
        let number = streams.last;
        let session = LoadSession::default();
        streams.open.insert(number, Reporter { id, remote, program: None, session });
        Place { loads: Arc::clone(self), number }
    }

    /// Looks at each that reports.
    pub(crate) fn each<T>(&self, look: impl FnMut(&Reporter) -> Option<T>) -> Vec<T> {
        lock(&self.0).open.values().filter_map(look).collect()
    }
}

impl Place {
    fn take(
        &self,
        request: LoadStatsRequest,
        every: Duration,
        metrics: &Metrics,
    ) -> Result<Option<LoadStatsResponse>, Status> {
        let streams = &mut *lock(&self.loads.0);
        let Some(reporter) = streams.open.get_mut(&self.number) else { return Ok(None) };
        let (before, left_out) = (reporter.session.services().len(), reporter.session.left_out());
        let room = REPORTED_MAX.saturating_sub(streams.services);
        let answer = reporter.session.request(request, every, room);
        streams.services = streams.services + reporter.session.services().len() - before;
        if left_out == 0 && reporter.session.left_out() > 0 {
            metrics.limits_reached.count("load_reports");
            let (id, services) = (&reporter.id, reporter.session.left_out());
            tracing::warn!(
                %id, services,
                "load reports are left out: a client may report {SERVICES_MAX} services, all together {REPORTED_MAX}"
            );
        }
        let answer = answer.map_err(|violation| Status::invalid_argument(violation.to_string()))?;
        if let (None, Some(client)) = (reporter.program, reporter.session.client()) {
            let agent = &client.agent;
            reporter.program = Some(Foreign::of(agent).ok_or_else(|| {
                Status::unimplemented(format!(
                    "load reports are taken of gRPC and Envoy, and node.user_agent_name is {agent:?}; sidecars tell a \
                     summary with their session"
                ))
            })?);
        }
        Ok(answer)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = lock(&self.loads.0);
        let gone = streams.open.remove(&self.number);
        streams.services -= gone.map_or(0, |reporter| reporter.session.services().len());
    }
}

/// The gRPC service.
pub(crate) struct LoadService {
    loads: Arc<Loads>,
    every: Duration,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    tasks: TaskTracker,
}

impl LoadService {
    pub(crate) fn new(
        loads: &Arc<Loads>,
        every: Duration,
        metrics: &Arc<Metrics>,
        drain: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (loads, metrics) = (Arc::clone(loads), Arc::clone(metrics));
        Self { loads, every, metrics, drain: drain.clone(), tasks: tasks.clone() }
    }
}

type Answers = mpsc::Sender<Result<LoadStatsResponse, Status>>;

#[tonic::async_trait]
impl LoadReportingService for LoadService {
    type StreamLoadStatsStream = ReceiverStream<Result<LoadStatsResponse, Status>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let id = workload(&request)?;
        let remote = request.extensions().get().map(|RemoteAddress(address)| *address);
        let place = self.loads.open(id.clone(), remote);
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        let (every, drain) = (self.every, self.drain.clone());
        let metrics = Arc::clone(&self.metrics);
        let reports = request.into_inner();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = follow(&place, reports, every, &metrics, &answers) => if let Err(status) = ended {
                    // A client that was killed looks like this. Whoever sent what can't be taken is told so.
                    tracing::debug!(%id, %status, "a stream of load reports broke off");
                    let _ = answers.try_send(Err(status));
                },
                () = drain.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Takes reports until there are no more.
async fn follow(
    place: &Place,
    mut reports: Streaming<LoadStatsRequest>,
    every: Duration,
    metrics: &Metrics,
    answers: &Answers,
) -> Result<(), Status> {
    while let Some(report) = reports.message().await? {
        if let Some(answer) = place.take(report, every, metrics)?
            && answers.send(Ok(answer)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meshwork_xds::wire::{core::Node, endpoint::ClusterStats};

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn place(loads: &Arc<Loads>) -> Place {
        loads.open(SpiffeId::new("mesh.local", "default", "web").unwrap(), None)
    }

    fn report(agent: &str, names: std::ops::Range<usize>) -> LoadStatsRequest {
        let stats =
            |name| ClusterStats { cluster_name: format!("default/s{name}:80"), ..ClusterStats::default() };
        LoadStatsRequest {
            node: Some(Node { user_agent_name: agent.to_owned(), ..Node::default() }),
            cluster_stats: names.map(stats).collect(),
        }
    }

    fn kept(loads: &Loads) -> usize {
        loads.each(|reporter| Some(reporter.session.services().len())).into_iter().sum()
    }

    #[test]
    fn all_streams_share_a_bound_and_who_leaves_makes_room() {
        let (loads, metrics) = (Arc::<Loads>::default(), Metrics::default());
        let places: Vec<Place> = (0..REPORTED_MAX / SERVICES_MAX).map(|_| place(&loads)).collect();
        for place in &places {
            assert!(place.take(report("envoy", 0..SERVICES_MAX), EVERY, &metrics).unwrap().is_some());
        }
        let late = place(&loads);
        late.take(report("envoy", 0..1), EVERY, &metrics).unwrap();
        assert_eq!(kept(&loads), REPORTED_MAX);
        assert!(metrics.render().contains(r#"limits_reached_total{kind="load_reports"} 1"#));
        drop(places);
        assert_eq!(kept(&loads), 0);
        late.take(report("envoy", 0..1), EVERY, &metrics).unwrap();
        assert_eq!(kept(&loads), 1);
        drop(late);
        assert_eq!(lock(&loads.0).services, 0);
    }

    #[test]
    fn who_is_no_known_program_is_told_what_to_do() {
        let (loads, metrics) = (Arc::<Loads>::default(), Metrics::default());
        let refused = place(&loads).take(report("meshwork", 0..1), EVERY, &metrics).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented);
        assert!(refused.message().contains("summary with their session"), "{refused}");
    }
}
