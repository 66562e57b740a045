//! The path of a query: what is ours or kept is answered at once; for the rest somebody has to be asked, so it is
//! waited for beside others, as many as there may be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_core::dns::cache::Cache;
use meshwork_core::dns::relay::Relayed;
use meshwork_core::dns::{Code, Query, Received, Transport, receive, reply};
use meshwork_core::names::{Answer, Asker, Ours, Question, ZONE, resolve};

use super::Dns;
use super::flights::{Flights, Landed, Turn};
use super::host::{Host, Look};
use super::tables::Tables;
use super::upstream::Upstream;
use crate::clock::Clock;
use crate::live::Live;
use crate::seldom::Seldom;
use crate::telemetry::{Event, Gauge, Registry};

/// Queries that wait for somebody at a time. Each may hold a socket; a program that starts looks up tens of names.
const WAITING_MAX: usize = 256;

/// Answers what one host's programs look up.
pub(super) struct Answerer {
    namespace: String,
    live: Arc<Live>,
    pub(super) registry: Arc<Registry>,
    pub(super) clock: Clock,
    host: Host,
    tables: Tables,
    upstream: Upstream,
    flights: Flights,
    cache: Mutex<Cache>,
    waiting: Arc<AtomicUsize>,
    limit_told: Seldom,
    eviction_told: Seldom,
    failure_told: Seldom,
    loop_told: Seldom,
}

/// What becomes of a message.
pub(super) enum Begun {
    /// It is no query.
    Ignored,
    Answered(Vec<u8>),
    /// [`Answerer::finish`] has the answer, later.
    Waiting(Waiting),
}

/// A query for whose answer somebody has to be asked.
pub(super) struct Waiting {
    query: Query,
    transport: Transport,
    need: Need,
    _place: Place,
}

enum Need {
    /// Its names.
    Namespace(String),
    Resolver,
}

impl Answerer {
    pub(super) fn new(dns: Dns, host: Host) -> Self {
        let Dns { namespace, resolv_conf: _, mark, live, registry, clock } = dns;
        Self {
            namespace,
            tables: Tables::new(live.clone(), clock),
            live,
            upstream: Upstream::new(mark, registry.clone()),
            registry,
            clock,
            host,
            flights: Flights::default(),
            cache: Mutex::default(),
            waiting: Arc::default(),
            limit_told: Seldom::default(),
            eviction_told: Seldom::default(),
            failure_told: Seldom::default(),
            loop_told: Seldom::default(),
        }
    }

    /// Never waits.
    pub(super) fn begin(&self, message: &[u8], transport: Transport) -> Begun {
        let query = match receive(message) {
            Received::Query(query) => query,
            Received::Answered(reply) => {
                self.registry.count(Event::DnsRefused);
                return Begun::Answered(reply);
            }
            Received::Ignored => {
                self.registry.count(Event::DnsIgnored);
                return Begun::Ignored;
            }
        };
        if self.upstream.is_own(&query) {
            return Begun::Answered(self.came_back(&query));
        }
        let need = match self.resolve(&query) {
            Answer::Ours(ours) => return Begun::Answered(self.ours(&query, ours, transport)),
            Answer::AskNamespace(namespace) => Need::Namespace(namespace),
            Answer::Forward => match self.kept(&query, transport) {
                Some(reply) => return Begun::Answered(reply),
                None => Need::Resolver,
            },
        };
        match self.place() {
            Some(place) => Begun::Waiting(Waiting { query, transport, need, _place: place }),
            None => Begun::Answered(self.failed(&query, Code::ServFail)),
        }
    }

    /// Asks who has to be asked. Bounded in time.
    pub(super) async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting { query, transport, need, _place } = waiting;
        if let Need::Namespace(namespace) = need {
            self.tables.wait(&namespace).await;
            match self.resolve(&query) {
                Answer::Ours(ours) => return self.ours(&query, ours, transport),
                // Nobody says what is there. Of the mesh's own zone nobody else knows either.
                Answer::AskNamespace(_) if is_in_zone(&query) => return self.failed(&query, Code::ServFail),
                Answer::AskNamespace(_) | Answer::Forward => {}
            }
        }
        self.forward(&query, transport).await
    }

    fn resolve(&self, query: &Query) -> Answer {
        let snapshot = self.live.snapshot();
        let virtual_ranges = snapshot.settings.as_ref().map_or(&[][..], |settings| &settings.virtual_ranges);
        let asker =
            Asker { namespace: &self.namespace, ipv6: self.host.ipv6(self.clock.now()), virtual_ranges };
        let name = query.name();
        let question = Question { name: &name, kind: query.kind() };
        let answer = resolve(question, &asker, &snapshot.names);
        if let Answer::Ours(_) = answer {
            self.tables.used(question, &asker);
        }
        answer
    }

    fn ours(&self, query: &Query, mut ours: Ours, transport: Transport) -> Vec<u8> {
        self.registry.count(match &ours {
            Ours::Records(_) => Event::DnsOurs,
            Ours::NoData | Ours::NoName => Event::DnsOursAbsent,
        });
        if let Ours::Records(records) = &mut ours {
            // Many clients take the first one; the ID is as good a die as any.
            let first = usize::from(query.id) % records.len().max(1);
            records.rotate_left(first);
        }
        reply::ours(query, &ours, query.room(transport))
    }

    fn kept(&self, query: &Query, transport: Transport) -> Option<Vec<u8>> {
        let now = self.clock.now();
        let mut cache = self.cache();
        if self.host.look(now) == Look::Changed {
            cache.clear();
        }
        let reply = cache.answer(query, query.room(transport), now)?;
        self.registry.count(Event::DnsKept);
        Some(reply)
    }

    /// Asks a resolver, or waits for who asks it the same already.
    async fn forward(&self, query: &Query, transport: Transport) -> Vec<u8> {
        let landed = loop {
            match self.flights.join(query.key()) {
                Turn::Lead(lead) => {
                    // Since it was looked for, an answer may have come for somebody else.
                    if let Some(reply) = self.kept(query, transport) {
                        return reply;
                    }
                    let landed = self.ask(query).await;
                    lead.land(landed.clone());
                    break landed;
                }
                Turn::Follow(follower) => {
                    if let Some(landed) = follower.landed().await {
                        landed.iter().for_each(|_| self.registry.count(Event::DnsShared));
                        break landed;
                    }
                }
            }
        };
        match landed {
            Ok(relayed) => relayed.answer(query, 0, query.room(transport)),
            Err(code) => self.failed(query, code),
        }
    }

    async fn ask(&self, query: &Query) -> Landed {
        let servers = self.host.servers();
        match self.upstream.ask(query, &servers).await {
            Ok((relayed, server)) => {
                self.host.prefer(server);
                self.registry.count(Event::DnsForwarded);
                self.keep(query, relayed.clone());
                Ok(Arc::new(relayed))
            }
            Err(code) => {
                if self.failure_told.is_due(self.clock.now()) {
                    let servers = servers.all();
                    tracing::warn!(?servers, name = query.name(), "no resolver of this host answers a query");
                }
                Err(code)
            }
        }
    }

    fn keep(&self, query: &Query, relayed: Relayed) {
        let now = self.clock.now();
        let mut cache = self.cache();
        let gone = cache.keep(query, relayed, now);
        self.registry.set(Gauge::DnsCacheEntries, i64::try_from(cache.len()).unwrap_or(i64::MAX));
        self.registry.set(Gauge::DnsCacheBytes, i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
        drop(cache);
        (0..gone).for_each(|_| self.registry.count(Event::LimitDnsCache));
        if gone > 0 && self.eviction_told.is_due(now) {
            tracing::warn!("as many answers of the host's resolvers are kept as may be: the oldest go");
        }
    }

    /// We asked that ourselves: whatever redirects the application's queries does not let ours pass.
    fn came_back(&self, query: &Query) -> Vec<u8> {
        if self.loop_told.is_due(self.clock.now()) {
            tracing::error!(
                name = query.name(),
                "a query to the host's resolvers came back here; the rules of the capture, or resolv.conf, lead the \
                 sidecar to itself"
            );
        }
        self.failed(query, Code::ServFail)
    }

    fn failed(&self, query: &Query, code: Code) -> Vec<u8> {
        self.registry.count(Event::DnsFailed);
        reply::failure(query, code)
    }

    fn place(&self) -> Option<Place> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.waiting.clone());
        if before < WAITING_MAX {
            return Some(place);
        }
        self.registry.count(Event::LimitDnsQueries);
        if self.limit_told.is_due(self.clock.now()) {
            tracing::warn!(
                max = WAITING_MAX,
                "as many look-ups wait for an answer as may: another one fails"
            );
        }
        None
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A panic left a cache of whole answers.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_in_zone(query: &Query) -> bool {
    query.name().rsplit('.').next() == Some(ZONE)
}

/// One of those that may wait.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
