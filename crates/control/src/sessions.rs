//! The ADS streams that are open: what each is about, what each sidecar was told and has answered.
//!
//! A change of the mesh is looked up among the topics that streams are about, and told to those streams alone: what an
//! endpoint's change costs grows with its callers, not with the mesh. `status` reads what became of it, and a drain
//! waits until every sidecar that was told of it has said so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::join_all;
use meshwork_core::compile::Audience;
use meshwork_core::mesh::{Changed, Topic, Topics};
use meshwork_core::model::SpiffeId;
use meshwork_xds::session::server::Told;
use tokio::sync::{Notify, watch};

use crate::caller::CertificateEnd;
use crate::lock::lock;
use crate::metrics::Push;
use crate::view::View;

/// Changes that a stream remembers one by one until its task takes them: the turns of the loop in which it did not come
/// to it. Above it the stream compares all that it is about, which is always right and costs a little more.
const CHANGES_MAX: usize = 16;

/// A program that takes its config from here without a sidecar of ours, by `node.user_agent_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    Grpc,
    Envoy,
}

impl Foreign {
    pub(crate) fn of(agent: &str) -> Option<Self> {
        // gRPC's libraries call themselves `gRPC C-core linux`, `gRPC Go`, `gRPC Java`.
        match agent {
            "envoy" => Some(Self::Envoy),
            _ if agent.starts_with("gRPC ") => Some(Self::Grpc),
            _ => None,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Envoy => "envoy",
        }
    }

    pub(crate) fn audience(self) -> Audience {
        match self {
            Self::Grpc => Audience::Grpc,
            Self::Envoy => Audience::Envoy,
        }
    }
}

#[derive(Default)]
pub(crate) struct Sessions {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    last: u64,
    open: BTreeMap<u64, Arc<Stream>>,
    /// Streams by what they are about.
    about: HashMap<Topic, BTreeSet<u64>>,
}

/// One stream. Its task writes, `status` reads.
pub(crate) struct Stream {
    pub(crate) id: SpiffeId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) certificate_end: CertificateEnd,
    session: Arc<Mutex<dyn Told>>,
    /// Every view up to this one that concerns the stream was told to its client and, as far as endpoints go, confirmed.
    settled: watch::Sender<u64>,
    news: Mutex<News>,
    /// For the stream's task: there is news.
    told: Notify,
}

/// What has changed and may concern a stream.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) what: What,
    /// The newest view that concerned it.
    pub(crate) view: u64,
    /// Those views on their way; as many as are told one by one.
    pub(crate) pushes: Vec<Arc<Push>>,
}

#[derive(Default)]
pub(crate) enum What {
    #[default]
    Nothing,
    These(Vec<Arc<Changed>>),
    /// All that it is about may differ.
    Anything,
}

impl What {
    fn add(&mut self, changed: &Arc<Changed>) {
        match self {
            Self::Nothing => *self = Self::These(vec![Arc::clone(changed)]),
            Self::These(changes) if changes.len() < CHANGES_MAX => changes.push(Arc::clone(changed)),
            Self::These(_) => *self = Self::Anything,
            Self::Anything => {}
        }
    }
}

/// A stream's place among the open ones; leaving it takes the stream out.
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    number: u64,
    about: BTreeSet<Topic>,
    pub(crate) stream: Arc<Stream>,
}

impl Sessions {
    pub(crate) fn open(
        self: &Arc<Self>,
        id: SpiffeId,
        remote: Option<SocketAddr>,
        certificate_end: CertificateEnd,
        session: Arc<Mutex<dyn Told>>,
        view: u64,
    ) -> Place {
        let stream = Arc::new(Stream {
            id,
            remote,
            certificate_end,
            session,
            // What it will be told first is at least this view.
            settled: watch::Sender::new(view),
            news: Mutex::default(),
            told: Notify::new(),
        });
        let mut streams = lock(&self.streams);
        streams.last += 1;
        let number = streams.last;
        streams.open.insert(number, Arc::clone(&stream));
        Place { sessions: Arc::clone(self), number, about: BTreeSet::new(), stream }
    }

    /// Tells the streams that a view may concern. The view is there for all to read by then, and their tasks do the rest.
    pub(crate) fn tell(&self, view: &View, push: &Arc<Push>) {
        let streams = lock(&self.streams);
        match view.changed.topics() {
            Topics::All => streams.open.values().for_each(|stream| stream.tell(view, push)),
            Topics::Some(topics) => {
                let about = topics.iter().filter_map(|topic| streams.about.get(topic));
                let concerned: BTreeSet<&u64> = about.flatten().collect();
                concerned
                    .iter()
                    .filter_map(|number| streams.open.get(number))
                    .for_each(|stream| stream.tell(view, push));
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).open.values().cloned().collect()
    }

    /// Waits until every stream that is open now has confirmed what of `view`, and of those before, concerns it, or is
    /// gone. `view` has been told.
    pub(crate) async fn settled(&self, view: u64) {
        let waits: Vec<_> = self.all().iter().filter_map(|stream| stream.unsettled(view)).collect();
        join_all(waits.into_iter().map(|(mut settled, owed)| async move {
            // An error is a stream that ended: it will not send anybody anywhere by old endpoints for long.
            let _ = settled.wait_for(|reached| *reached >= owed).await;
        }))
        .await;
    }
}

impl Place {
    /// What the stream is about from now on. Of a view that is published afterwards it is told; one that was before has to
    /// be compared by whoever calls this.
    pub(crate) fn is_about(&mut self, topics: BTreeSet<Topic>) {
        let mut streams = lock(&self.sessions.streams);
        for gone in self.about.difference(&topics) {
            streams.leave(gone, self.number);
        }
        for new in topics.difference(&self.about) {
            streams.about.entry(new.clone()).or_default().insert(self.number);
        }
        drop(streams);
        self.about = topics;
    }
}

impl Streams {
    fn leave(&mut self, topic: &Topic, number: u64) {
        let Some(numbers) = self.about.get_mut(topic) else { return };
        numbers.remove(&number);
        if numbers.is_empty() {
            self.about.remove(topic);
        }
    }
}

impl Stream {
    /// The session, for the moment of one message or one look.
    pub(crate) fn session(&self) -> MutexGuard<'_, dyn Told + 'static> {
        lock(&self.session)
    }

    /// Set for programs that take part in nothing but their own config.
    pub(crate) fn foreign(&self) -> Option<Foreign> {
        self.session().client().and_then(|client| Foreign::of(&client.agent))
    }

    /// Whether its client has yet to confirm endpoints that it was told of.
    pub(crate) fn is_behind(&self) -> bool {
        self.unsettled(u64::MAX).is_some()
    }

    fn tell(&self, view: &View, push: &Arc<Push>) {
        let mut news = lock(&self.news);
        news.what.add(&view.changed);
        news.view = view.number;
        if news.pushes.len() < CHANGES_MAX {
            push.concerns_somebody();
            news.pushes.push(Arc::clone(push));
        }
        drop(news);
        self.told.notify_one();
    }

    /// All that it is about has to be compared: something changed while it was not yet known to be about that.
    pub(crate) fn compare_all(&self) {
        lock(&self.news).what = What::Anything;
        self.told.notify_one();
    }

    /// Waits until there is news, and takes it.
    pub(crate) async fn news(&self) -> News {
        loop {
            if let Some(news) = self.take_news() {
                return news;
            }
            self.told.notified().await;
        }
    }

    fn take_news(&self) -> Option<News> {
        let mut news = lock(&self.news);
        match std::mem::take(&mut news.what) {
            What::Nothing => None,
            what @ (What::These(_) | What::Anything) => {
                Some(News { what, view: news.view, pushes: std::mem::take(&mut news.pushes) })
            }
        }
    }

    /// Up to which view there is something to confirm, if `view` is told and not confirmed yet.
    fn unsettled(&self, view: u64) -> Option<(watch::Receiver<u64>, u64)> {
        let owed = lock(&self.news).view.min(view);
        let settled = self.settled.subscribe();
        let reached = *settled.borrow();
        (reached < owed).then_some((settled, owed))
    }

    pub(crate) fn settle(&self, view: u64) {
        self.settled.send_if_modified(|settled| {
            let newer = view > *settled;
            *settled = view.max(*settled);
            newer
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = lock(&self.sessions.streams);
        streams.open.remove(&self.number);
        self.about.iter().for_each(|topic| streams.leave(topic, self.number));
        drop(streams);
        // Whoever waits for this stream waits no longer.
        self.stream.settle(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::mesh::Mesh;
    use meshwork_core::model::Key;

    use super::*;

    fn open(sessions: &Arc<Sessions>) -> Place {
        let id = SpiffeId::new("mesh.local", "default", "web").unwrap();
        let session = Arc::new(Mutex::new(meshwork_xds::session::ServerSession::new()));
        sessions.open(id, None, CertificateEnd::default(), session, 0)
    }

    fn view(number: u64, services: &[&str]) -> View {
        let old = Mesh::new("m", "mesh.local");
        let mut mesh = old.clone();
        for name in services {
            let record = format!(
                r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}", "namespace": "default"}},
                    "spec": {{"ports": [{{"port": 80}}]}}}}"#
            );
            let key = crate::store::Key::intent("Service", "default", name);
            let record = format!(r#"{{"created": 1, "manifest": {record}}}"#);
            let record = crate::manifest::Record::read(&key, record.as_bytes()).unwrap();
            mesh.put(record.declared(&key).unwrap());
        }
        let changed = Arc::new(Changed::between(&old, &mesh));
        View { number, changed, ..View::default() }
    }

    fn tell(sessions: &Sessions, view: &View) {
        sessions.tell(view, &crate::metrics::Metrics::default().push(tokio::time::Instant::now()));
    }

    fn about(names: &[&str]) -> BTreeSet<Topic> {
        names.iter().map(|name| Topic::Service(Key::new("default", *name))).collect()
    }

    #[tokio::test]
    async fn a_view_is_settled_when_every_stream_that_it_concerns_has_confirmed_it_or_ended() {
        let sessions = Arc::new(Sessions::default());
        sessions.settled(7).await; // nobody to wait for
        let [mut one, mut other, mut stranger] = [open(&sessions), open(&sessions), open(&sessions)];
        one.is_about(about(&["cart"]));
        other.is_about(about(&["cart", "web"]));
        stranger.is_about(about(&["pay"]));
        tell(&sessions, &view(7, &["cart"]));
        let wait = sessions.settled(7);
        tokio::pin!(wait);
        one.stream.settle(8);
        other.stream.settle(6);
        assert!(futures_util::poll!(wait.as_mut()).is_pending());
        drop(other);
        wait.await; // the stranger was not told, and has nothing to confirm
        assert_eq!(sessions.all().len(), 2);
        // What came after a view need not be confirmed for it.
        tell(&sessions, &view(9, &["cart"]));
        sessions.settled(8).await;
        assert!(futures_util::poll!(std::pin::pin!(sessions.settled(9))).is_pending());
    }

    #[tokio::test]
    async fn only_those_are_told_whom_a_view_concerns() {
        let sessions = Arc::new(Sessions::default());
        let [mut one, mut other] = [open(&sessions), open(&sessions)];
        one.is_about(about(&["cart", "web"]));
        other.is_about(about(&["pay"]));
        tell(&sessions, &view(1, &["cart"]));
        tell(&sessions, &view(2, &["cart", "web"]));
        let News { what, view: newest, pushes: _ } = one.stream.news().await;
        assert!(matches!(what, What::These(changes) if changes.len() == 2) && newest == 2);
        assert!(futures_util::poll!(std::pin::pin!(one.stream.news())).is_pending(), "it was taken");
        assert!(futures_util::poll!(std::pin::pin!(other.stream.news())).is_pending());
        // It lost interest, and the other one gained it.
        one.is_about(about(&["web"]));
        other.is_about(about(&["cart"]));
        tell(&sessions, &view(3, &["cart"]));
        assert!(futures_util::poll!(std::pin::pin!(one.stream.news())).is_pending());
        assert_eq!(other.stream.news().await.view, 3);
        drop((one, other));
        assert!(lock(&sessions.streams).about.is_empty(), "nothing is left of streams that ended");
    }

    #[tokio::test]
    async fn who_is_far_behind_compares_everything() {
        let sessions = Arc::new(Sessions::default());
        let mut one = open(&sessions);
        one.is_about(about(&["cart"]));
        (1..=CHANGES_MAX as u64 + 1).for_each(|number| tell(&sessions, &view(number, &["cart"])));
        let News { what, view, pushes: _ } = one.stream.news().await;
        assert!(matches!(what, What::Anything) && view == CHANGES_MAX as u64 + 1);
    }
}
