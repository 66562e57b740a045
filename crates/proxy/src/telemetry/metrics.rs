//! Counting. A request costs one look-up in its worker's table and three additions.
//!
//! Labels are interned when a destination or a peer becomes known, so that a request carries a number.
//! Every table has a limit; what does not fit is counted under `other`, and that is counted too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plaintext::Plaintext;
use meshwork_core::cause::Cause;
use meshwork_core::grpc;
use meshwork_http::StatusCode;
use tokio::runtime::Handle;

/// Label sets (direction, peer, route) that are told apart: a sidecar calls and is called by tens of
/// services; 4,096 is a gateway's share. Past it they are one: `other`.
const LABELS_MAX: usize = 4_096;

/// Series a worker: label sets times statuses that occur.
const SERIES_MAX: usize = 16_384;

/// Upper bounds of the latency buckets, microseconds. OpenTelemetry's advice starts at 5 ms; a mesh
/// is judged below that, so five steps come before.
pub(crate) const BUCKETS_MICROS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// What a request's metrics are told apart by, beside method class, statuses and cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// The other side: the service that is called (`default/cart`), or who calls (`default/web`).
    pub peer: String,
    /// The rule that matched (`default/split#0`); empty: none.
    pub route: String,
}

/// An interned label set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(u32);

impl LabelId {
    /// Where everything goes that found no room.
    pub(crate) const OTHER_INBOUND: Self = Self(0);
    pub(crate) const OTHER_OUTBOUND: Self = Self(1);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MethodClass {
    /// GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// PUT, DELETE: may be repeated.
    Idempotent,
    /// POST, PATCH and everything unknown.
    Other,
}

impl MethodClass {
    /// RFC 9110, 9.2.
    pub(crate) fn of(method: &str) -> Self {
        match method {
            "GET" | "HEAD" | "OPTIONS" | "TRACE" => Self::Safe,
            "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Other,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Idempotent => "idempotent",
            Self::Other => "other",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey {
    pub(crate) labels: LabelId,
    pub(crate) method: MethodClass,
    /// `None`: the client left before there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// `None`: the application answered.
    pub(crate) cause: Option<Cause>,
    /// `None`: no gRPC call.
    pub(crate) grpc: Option<grpc::Told>,
}

#[derive(Default)]
pub(crate) struct Histogram {
    /// One more than bounds: the last has none.
    pub(crate) buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    pub(crate) sum_nanos: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        let bucket = BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct Series {
    pub(crate) requests: AtomicU64,
    pub(crate) latency: Histogram,
}

/// A worker's series, for whoever adds them up.
type SeriesList = Arc<Mutex<Vec<(SeriesKey, Arc<Series>)>>>;

/// One worker's share. The table is the worker's own; the list is what the side thread reads.
pub(crate) struct Shard {
    table: RefCell<HashMap<SeriesKey, Arc<Series>>>,
    last: RefCell<Option<(SeriesKey, Arc<Series>)>>,
    list: SeriesList,
    registry: Arc<Registry>,
}

impl Shard {
    /// Counts one finished request.
    pub(crate) fn request(&self, key: SeriesKey, duration: Duration) {
        // The same key as last time is the rule, and spares the hash.
        let mut last = self.last.borrow_mut();
        let series = match &*last {
            Some((held, series)) if *held == key => series,
            _ => &last.insert((key, self.series(key))).1,
        };
        series.requests.fetch_add(1, Ordering::Relaxed);
        series.latency.observe(duration);
    }

    fn series(&self, key: SeriesKey) -> Arc<Series> {
        let mut table = self.table.borrow_mut();
        if let Some(series) = table.get(&key) {
            return series.clone();
        }
        let key = if table.len() < SERIES_MAX {
            key
        } else {
            self.registry.count(Event::SeriesOverflow);
            SeriesKey { labels: self.registry.other(key.labels), ..key }
        };
        let new = || {
            let series = Arc::new(Series::default());
            lock(&self.list).push((key, series.clone()));
            series
        };
        table.entry(key).or_insert_with(new).clone()
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $metric:literal, $label:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// (metric, label value; empty: the metric has no label).
            pub(crate) const fn name(self) -> (&'static str, &'static str) {
                match self { $(Self::$variant => ($metric, $label),)* }
            }
        }
    };
}

words! {
    /// What is counted beside requests. Metric names end in `_total` when printed.
    Event {
        AcceptedInbound = "meshwork_connections", "inbound";
        AcceptedOutbound = "meshwork_connections", "outbound";
        ConnectedUpstream = "meshwork_connections", "upstream";
        HandshakeFull = "meshwork_tls_handshakes", "full";
        HandshakeResumed = "meshwork_tls_handshakes", "resumed";
        HandshakePlaintext = "meshwork_tls_handshakes", "plaintext_refused";
        HandshakeRefusedPeer = "meshwork_tls_handshakes", "peer_refused";
        HandshakeFailed = "meshwork_tls_handshakes", "failed";
        HandshakeTimeout = "meshwork_tls_handshakes", "timeout";
        Http2Protocol = "meshwork_http2_faults", "protocol";
        Http2Refused = "meshwork_http2_faults", "request_refused";
        Http2Silent = "meshwork_http2_faults", "silent";
        ConnectFailed = "meshwork_connect_failures", "";
        Ejected5xx = "meshwork_ejections", "consecutive_5xx";
        EjectedGatewayErrors = "meshwork_ejections", "consecutive_gateway_errors";
        EjectedConnectFailures = "meshwork_ejections", "consecutive_connect_failures";
        EjectedSuccessRate = "meshwork_ejections", "success_rate";
        EjectionEnded = "meshwork_ejections_ended", "";
        EjectionWithheld = "meshwork_ejections_withheld", "";
        EjectionsIgnored = "meshwork_ejections_ignored", "";
        RetryUnreached = "meshwork_retries", "unreached";
        RetryNotProcessed = "meshwork_retries", "not_processed";
        RetryReset = "meshwork_retries", "reset";
        RetryStatus = "meshwork_retries", "status";
        RetryRule = "meshwork_retries", "rule";
        RetryBudgetExhausted = "meshwork_retry_budget_exhausted", "";
        LimitConnections = "meshwork_limits_reached", "connections";
        LimitPendingRequests = "meshwork_limits_reached", "pending_requests";
        LimitRequests = "meshwork_limits_reached", "requests";
        LimitEndpointConnections = "meshwork_limits_reached", "endpoint_connections";
        LimitEndpointRequests = "meshwork_limits_reached", "endpoint_requests";
        LimitMemory = "meshwork_limits_reached", "memory";
        LimitDescriptors = "meshwork_limits_reached", "descriptors";
        LimitClients = "meshwork_limits_reached", "clients";
        LimitSilent = "meshwork_limits_reached", "silent";
        LimitDnsQueries = "meshwork_limits_reached", "dns_queries";
        LimitDnsConnections = "meshwork_limits_reached", "dns_connections";
        LimitDnsCache = "meshwork_limits_reached", "dns_cache";
        IdleClientClosed = "meshwork_idle_clients_closed", "";
        PassthroughConnection = "meshwork_passthrough", "connection";
        PassthroughRequest = "meshwork_passthrough", "request";
        DeniedConnection = "meshwork_denied", "connection";
        DeniedRequest = "meshwork_denied", "request";
        CapturedAddress = "meshwork_captured_connections", "address";
        CapturedHttp = "meshwork_captured_connections", "http";
        CapturedServerName = "meshwork_captured_connections", "server_name";
        CapturedUnclaimed = "meshwork_captured_connections", "unclaimed";
        CapturedRefused = "meshwork_captured_connections", "refused";
        PlaintextCarried = "meshwork_plaintext_connections", "";
        OpaqueInbound = "meshwork_opaque_connections", "inbound";
        OpaqueOutbound = "meshwork_opaque_connections", "outbound";
        DnsOurs = "meshwork_dns_queries", "ours";
        DnsOursAbsent = "meshwork_dns_queries", "ours_absent";
        DnsKept = "meshwork_dns_queries", "kept";
        DnsForwarded = "meshwork_dns_queries", "forwarded";
        DnsShared = "meshwork_dns_queries", "shared";
        DnsFailed = "meshwork_dns_queries", "failed";
        DnsRefused = "meshwork_dns_queries", "refused";
        DnsIgnored = "meshwork_dns_queries", "ignored";
        DnsResolverRefused = "meshwork_dns_resolver_failures", "refused";
        DnsResolverUnreachable = "meshwork_dns_resolver_failures", "unreachable";
        DnsResolverTimeout = "meshwork_dns_resolver_failures", "timeout";
        DnsResolverForeign = "meshwork_dns_resolver_failures", "foreign";
        Panic = "meshwork_panics", "";
        AcceptError = "meshwork_accept_errors", "";
        LabelOverflow = "meshwork_label_overflow", "labels";
        SeriesOverflow = "meshwork_label_overflow", "series";
        AccessLogDropped = "meshwork_access_log_dropped", "";
        Nack = "meshwork_config_nacks", "";
        ConfigKept = "meshwork_config_writes", "done";
        ConfigNotKept = "meshwork_config_writes", "failed";
        CertificateRenewed = "meshwork_certificate_renewals", "renewed";
        CertificateRenewalFailed = "meshwork_certificate_renewals", "failed";
        ControlConnected = "meshwork_control_connections", "connected";
        ControlLost = "meshwork_control_connections", "lost";
        FirstAnswerTimeout = "meshwork_first_answer_timeouts", "";
    }
}

words! {
    /// Present values.
    Gauge {
        OpenInbound = "meshwork_open_connections", "inbound";
        OpenOutbound = "meshwork_open_connections", "outbound";
        EjectedEndpoints = "meshwork_ejected_endpoints", "";
        MemoryUsed = "meshwork_memory_bytes", "used";
        MemoryMax = "meshwork_memory_bytes", "max";
        CertificateExpiry = "meshwork_certificate_expiry_timestamp_seconds", "";
        ConfigVersion = "meshwork_config_version", "";
        KeptOtherMesh = "meshwork_config_kept", "other_mesh";
        KeptOlderStore = "meshwork_config_kept", "older_store";
        DnsCacheEntries = "meshwork_dns_cache", "entries";
        DnsCacheBytes = "meshwork_dns_cache", "bytes";
        Subscriptions = "meshwork_subscriptions", "";
        Healthy = "meshwork_application_healthy", "";
        Ready = "meshwork_ready", "";
    }
}

/// The metric's label for [`Event`] and [`Gauge`] words.
pub(crate) const WORD_LABEL: &str = "kind";

/// Everything that is counted in this sidecar.
pub struct Registry {
    /// The workload's own service, `default/cart`.
    pub(crate) service: String,
    /// Who came in clear.
    pub(crate) plaintext: Plaintext,
    interned: Mutex<Interned>,
    pub(crate) shards: Mutex<Vec<SeriesList>>,
    events: [AtomicU64; Event::ALL.len()],
    gauges: [AtomicI64; Gauge::ALL.len()],
    /// Open connections that each worker was given, in the workers' order.
    workers: Mutex<Vec<Arc<AtomicUsize>>>,
    /// The workers', and the side thread's.
    runtimes: Mutex<Vec<Handle>>,
}

pub(crate) struct Ends {
    pub(crate) direction: &'static str,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) route: String,
}

#[derive(Default)]
struct Interned {
    ids: HashMap<(Direction, Labels), LabelId>,
    all: Vec<(Direction, Labels)>,
}

impl Registry {
    pub fn new(service: String) -> Arc<Self> {
        let registry = Self {
            service,
            plaintext: Plaintext::default(),
            interned: Mutex::default(),
            shards: Mutex::default(),
            events: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicI64::new(0)),
            workers: Mutex::default(),
            runtimes: Mutex::default(),
        };
        let other = Labels { peer: "other".to_owned(), route: "other".to_owned() };
        let inbound = registry.intern(Direction::Inbound, &other);
        let outbound = registry.intern(Direction::Outbound, &other);
        debug_assert_eq!((inbound, outbound), (LabelId::OTHER_INBOUND, LabelId::OTHER_OUTBOUND));
        Arc::new(registry)
    }

    pub(crate) fn shard(self: &Arc<Self>) -> Shard {
        let list = Arc::new(Mutex::new(Vec::new()));
        lock(&self.shards).push(list.clone());
        Shard { table: RefCell::default(), last: RefCell::default(), list, registry: self.clone() }
    }

    pub fn inbound(&self, labels: &Labels) -> LabelId {
        self.intern(Direction::Inbound, labels)
    }

    pub fn outbound(&self, labels: &Labels) -> LabelId {
        self.intern(Direction::Outbound, labels)
    }

    fn intern(&self, direction: Direction, labels: &Labels) -> LabelId {
        let mut interned = lock(&self.interned);
        let key = (direction, labels.clone());
        if let Some(id) = interned.ids.get(&key) {
            return *id;
        }
        if interned.all.len() >= LABELS_MAX {
            self.count(Event::LabelOverflow);
            return match direction {
                Direction::Inbound => LabelId::OTHER_INBOUND,
                Direction::Outbound => LabelId::OTHER_OUTBOUND,
            };
        }
        let id = LabelId(interned.all.len() as u32);
        interned.all.push(key.clone());
        interned.ids.insert(key, id);
        id
    }

    fn other(&self, id: LabelId) -> LabelId {
        match self.labels(id).0 {
            Direction::Inbound => LabelId::OTHER_INBOUND,
            Direction::Outbound => LabelId::OTHER_OUTBOUND,
        }
    }

    pub(crate) fn labels(&self, id: LabelId) -> (Direction, Labels) {
        lock(&self.interned).all[id.0 as usize].clone()
    }

    /// Who calls whom, in words.
    pub(crate) fn ends(&self, id: LabelId) -> Ends {
        let (direction, Labels { peer, route }) = self.labels(id);
        let own = self.service.clone();
        match direction {
            Direction::Inbound => Ends { direction: "inbound", source: peer, destination: own, route },
            Direction::Outbound => Ends { direction: "outbound", source: own, destination: peer, route },
        }
    }

    pub fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counted(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    /// By kind; those only that were.
    pub(crate) fn limits_reached(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let (metric, _) = Event::LimitRequests.name();
        let of_limits = Event::ALL.iter().filter(move |event| event.name().0 == metric);
        of_limits.map(|event| (event.name().1, self.counted(*event))).filter(|(_, times)| *times > 0)
    }

    pub fn set(&self, gauge: Gauge, value: i64) {
        self.gauges[gauge as usize].store(value, Ordering::Relaxed);
    }

    pub fn add(&self, gauge: Gauge, change: i64) {
        self.gauges[gauge as usize].fetch_add(change, Ordering::Relaxed);
    }

    /// A further worker, and where its open connections are counted.
    pub(crate) fn add_worker(&self, open: Arc<AtomicUsize>) {
        lock(&self.workers).push(open);
    }

    /// Accepted connections that each worker has open now.
    pub fn worker_connections(&self) -> Vec<usize> {
        lock(&self.workers).iter().map(|open| open.load(Ordering::Relaxed)).collect()
    }

    /// Whoever calls this does so on one more runtime of the sidecar.
    pub(crate) fn add_this_runtime(&self) {
        lock(&self.runtimes).push(Handle::current());
    }

    /// Tasks that have not ended, of all runtimes.
    pub(crate) fn tasks(&self) -> usize {
        lock(&self.runtimes).iter().map(|runtime| runtime.metrics().num_alive_tasks()).sum()
    }

    pub fn value(&self, gauge: Gauge) -> i64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves whole entries behind, never half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
