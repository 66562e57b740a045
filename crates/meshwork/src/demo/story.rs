//! What happens in the demo, in order, and what came of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Role;
use super::app::Report;
use super::mesh::{Mesh, Plan, Run};
use super::trouble::{self, Rotating, Trouble, follows};
use super::view::View;
use super::watch::{Watch, versions_since};
use crate::BoxError;

/// Where the shop's sidecars are reached, and where catalog moves to. All of 127/8 is this machine.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const CATALOGS: usize = 3;
const PAYMENTS: usize = 2;

/// Calls to each instance of payments before their shares are told.
const CALLS_MIN: u64 = 20;

/// Certificates that are renewed every ten seconds, so that the root can be replaced while somebody watches.
const SHORT_LIVES: &str = "apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {leafTtl: 20s}
";

/// How long until a new instance gets its first request, or the first customer comes.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(30);

/// What was measured; with `--json` a script's view of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    requests: u64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Every request between sidecars came from a peer that its certificate named.
    mtls: bool,
    moved: Moved,
    split: Split,
    grpc: Calls,
    #[serde(flatten)]
    trouble: Trouble,
    /// The first failures, if there were any.
    reasons: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Moved {
    service: &'static str,
    from: Vec<String>,
    to: Vec<String>,
    /// Requests that failed from the first new instance to the last old one's end.
    failed: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Split {
    wanted: BTreeMap<&'static str, f64>,
    /// Share of the answers by version since the route was changed.
    observed: BTreeMap<String, f64>,
    requests: u64,
}

/// cart's gRPC calls to payments, as payments' sidecars counted them while there was one cart, and so one connection.
#[derive(Clone, Debug, Default, Serialize)]
struct Calls {
    /// Ended with `grpc-status: 0`.
    ok: u64,
    failed: u64,
    /// By the instance that answered.
    instances: BTreeMap<String, u64>,
}

impl Calls {
    fn shares(&self) -> String {
        let total = self.ok + self.failed;
        let share = |(instance, count): (&String, &u64)| {
            format!("{instance} {:.0} %", 100.0 * *count as f64 / total.max(1) as f64)
        };
        self.instances.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

impl Outcome {
    pub(super) fn is_success(&self) -> bool {
        self.failed == 0 && self.requests > 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests, {} failed; p50 {:.1} ms, p99 {:.1} ms through five services.",
            self.requests, self.failed, self.p50_ms, self.p99_ms
        )?;
        writeln!(f, "Mutual TLS on every way: {}.", if self.mtls { "yes" } else { "NO" })?;
        let Moved { service, from, to, failed } = &self.moved;
        writeln!(
            f,
            "Moved {service} from {} to {}: {failed} requests failed.",
            from.join(", "),
            to.join(", ")
        )?;
        let shares = |(version, share): (&String, &f64)| format!("{version} {:.1} %", 100.0 * share);
        let observed: Vec<_> = self.split.observed.iter().map(shares).collect();
        writeln!(
            f,
            "Asked for v1 90 %, v2 10 %; observed over {} requests: {}.",
            self.split.requests,
            observed.join(", ")
        )?;
        writeln!(
            f,
            "gRPC: {} calls with status 0 and {} others on one connection of cart's, balanced call by call: {}.",
            self.grpc.ok,
            self.grpc.failed,
            self.grpc.shares()
        )?;
        write!(f, "{}", self.trouble)?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\nFailed: {reason}"))
    }
}

/// Tells the whole story; the processes are left for the caller to end.
pub(super) async fn tell(
    mesh: &Mesh,
    watch: &Watch,
    view: &RefCell<View>,
    duration: Duration,
) -> Result<Outcome, BoxError> {
    let say = |sentence: &str| view.borrow_mut().say(sentence);
    say("Starting a control plane.");
    mesh.start_control().await?;
    mesh.apply(SHORT_LIVES).await?;
    say("Starting the shop: web, cart, 3 of catalog, 2 of payments, stock; each with a sidecar of its own.");
    let plan =
        |role, instance: &str| Plan { role, instance: instance.to_owned(), version: "v1", address: HERE };
    let single = [Role::Stock, Role::Cart, Role::Web].map(|role| plan(role, &format!("{}-1", role.word())));
    let payments = (1..=PAYMENTS).map(|n| plan(Role::Payments, &format!("payments-{n}")));
    start_all(mesh, single.into_iter().chain(payments).chain(catalogs(1, HERE)).collect()).await?;
    apply_split(mesh, 100, 0).await?;
    say("Letting customers in: 100 a second, each asks web, which asks cart, which asks the others.");
    let load = mesh.start(plan(Role::Load, "load-1")).await?;

    let acts = async {
        wait_for_customers(mesh, watch).await?;
        let start = Instant::now();
        say("The shop is open. From now on every failed request counts.");
        let at = |twelfth| sleep_until(start + duration * twelfth / 12);
        at(1).await;
        let moved = move_catalog(mesh, watch, &say).await?;
        at(4).await;
        let calls = balanced_calls(mesh, watch).await?;
        say(&format!(
            "cart calls payments by gRPC, on one connection; its calls are balanced one by one, by load: {}.",
            calls.shares()
        ));
        let before = shift_versions(mesh, watch, &say).await?;
        let rotating = Rotating::begin(mesh, watch, &say).await?;
        at(6).await;
        let killed = trouble::kill_one(mesh, watch, &say, catalog(2 * CATALOGS + 1, THERE)).await?;
        let ejected = trouble::spoil_one(mesh, watch, &say).await?;
        at(9).await;
        let rolled = trouble::roll_payments(mesh, watch, &say, |name| plan(Role::Payments, name)).await?;
        at(10).await;
        let rotated = rotating.finish(mesh, &say).await?;
        let control = trouble::lose_control(mesh, watch, &say).await?;
        at(12).await;
        say("Closing: the customers leave first, so that every request gets its answer.");
        Ok::<_, BoxError>((moved, calls, before, Trouble { killed, ejected, rolled, control, rotated }))
    };
    let (moved, calls, before, trouble) = tokio::select! {
        acted = acts => acted?,
        ended = watch.run(mesh, view) => return Err(ended.err().unwrap_or_else(|| "the demo's watch ended".into())),
    };
    watch.look(mesh).await; // the last figures of those that are about to go
    mesh.drain(&load).await?;
    watch.look(mesh).await;
    Ok(outcome(&watch.report(), watch.all_verified(), moved, calls, &before, trouble))
}

fn catalogs(first: usize, address: Ipv4Addr) -> impl Iterator<Item = Plan> {
    (first..first + CATALOGS).map(move |number| catalog(number, address))
}

fn catalog(number: usize, address: Ipv4Addr) -> Plan {
    Plan { role: Role::Catalog, instance: format!("catalog-{number}"), version: "v1", address }
}

async fn start_all(mesh: &Mesh, plans: Vec<Plan>) -> Result<Vec<Rc<Run>>, BoxError> {
    // All at once: each waits mostly for others.
    let started = futures_util::future::join_all(plans.into_iter().map(|plan| mesh.start(plan))).await;
    started.into_iter().collect()
}

async fn wait_for_customers(mesh: &Mesh, watch: &Watch) -> Result<(), BoxError> {
    let first = async {
        while watch.report().requests == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    // `watch` reads the report beside us, and ends everything if the load gives up.
    let came = timeout(FIRST_REQUEST_MAX * 2, first).await;
    came.map_err(|_| format!("no customer came; {} holds no report", mesh.report_file().display()).into())
}

/// New instances at another address; once each has served, the old ones drain.
async fn move_catalog(mesh: &Mesh, watch: &Watch, say: &impl Fn(&str)) -> Result<Moved, BoxError> {
    let before = watch.report().failed;
    let old: Vec<_> = mesh.runs().into_iter().filter(|run| run.role == Role::Catalog).collect();
    say(&format!("Moving catalog from {HERE} to {THERE}: starting {CATALOGS} new instances there."));
    let new = start_all(mesh, catalogs(CATALOGS + 1, THERE).collect()).await?;
    for run in &new {
        let served = async {
            while watch.asked_of(run).await.requests == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let served = timeout(FIRST_REQUEST_MAX, served).await;
        served.map_err(|_| format!("{} got no request within 30 s", run.instance))?;
    }
    say("The new ones serve. Draining the old ones: they take nothing new, finish what runs, and end.");
    for run in &old {
        watch.look(mesh).await;
        mesh.drain(run).await?;
        say(&format!("{} at {} is gone.", run.instance, address(run)));
    }
    let failed = watch.report().failed - before;
    let addresses = |runs: &[Rc<Run>]| runs.iter().map(address).collect();
    Ok(Moved { service: "catalog", from: addresses(&old), to: addresses(&new), failed })
}

/// The calls so far, once every instance has had some: whoever was slow at first gets fewer for a while.
async fn balanced_calls(mesh: &Mesh, watch: &Watch) -> Result<Calls, BoxError> {
    let all_served = async || {
        let calls = count_calls(mesh, watch).await;
        calls.instances.values().all(|served| *served >= CALLS_MIN)
    };
    follows(&format!("not every instance of payments has had {CALLS_MIN} calls"), all_served).await?;
    Ok(count_calls(mesh, watch).await)
}

async fn count_calls(mesh: &Mesh, watch: &Watch) -> Calls {
    let mut calls = Calls::default();
    for run in mesh.runs().iter().filter(|run| run.role == Role::Payments) {
        let asked = watch.asked_of(run).await;
        calls.ok += asked.calls_ok;
        calls.failed += asked.requests - asked.calls_ok;
        calls.instances.insert(run.instance.clone(), asked.requests);
    }
    calls
}

/// A second version of cart, then a tenth of the requests for it. The report at that moment.
async fn shift_versions(mesh: &Mesh, watch: &Watch, say: &impl Fn(&str)) -> Result<Report, BoxError> {
    say("Starting version v2 of cart. The route still sends everything to v1.");
    mesh.start(Plan { role: Role::Cart, instance: "cart-2".to_owned(), version: "v2", address: HERE })
        .await?;
    mesh.wait_for_endpoint("cart-v2").await?;
    apply_split(mesh, 90, 10).await?;
    say("Changed the HTTPRoute: 90 % of cart's requests go to v1, 10 % to v2.");
    // The shares count from the first answer of v2: then the route is known where it matters.
    let seen = async {
        while !watch.report().versions.contains_key("v2") {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(FIRST_REQUEST_MAX, seen).await.map_err(|_| "v2 of cart got no request within 30 s")?;
    Ok(watch.report())
}

/// Two services for cart's versions, and the route between them, as an operator would write it.
async fn apply_split(mesh: &Mesh, v1: u32, v2: u32) -> Result<(), BoxError> {
    let mut yaml = String::new();
    for version in ["v1", "v2"] {
        yaml.push_str(&format!(
            "apiVersion: v1\n\
             kind: Service\n\
             metadata:\n  name: cart-{version}\n  annotations:\n    meshwork.dev/accounts: cart\n\
             spec:\n  selector:\n    app: cart\n    version: {version}\n  ports:\n    - port: 80\n      appProtocol: http\n\
             ---\n"
        ));
    }
    yaml.push_str(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\n\
         kind: HTTPRoute\n\
         metadata:\n  name: cart-versions\n\
         spec:\n  parentRefs:\n    - group: \"\"\n      kind: Service\n      name: cart\n  rules:\n    - backendRefs:\n        \
         - name: cart-v1\n          port: 80\n          weight: {v1}\n        \
         - name: cart-v2\n          port: 80\n          weight: {v2}\n"
    ));
    mesh.apply(&yaml).await?;
    Ok(())
}

fn address(run: &Rc<Run>) -> String {
    run.inbound.get().cloned().unwrap_or_else(|| "an unknown address".to_owned())
}

fn outcome(
    report: &Report,
    mtls: bool,
    moved: Moved,
    grpc: Calls,
    before: &Report,
    trouble: Trouble,
) -> Outcome {
    let since = versions_since(before, report);
    let requests: u64 = since.iter().map(|(_, count)| count).sum();
    let share = |count: u64| if requests == 0 { 0.0 } else { count as f64 / requests as f64 };
    let observed = since.into_iter().map(|(version, count)| (version, share(count))).collect();
    Outcome {
        requests: report.requests,
        failed: report.failed,
        p50_ms: report.p50_ms,
        p99_ms: report.p99_ms,
        mtls,
        moved,
        split: Split { wanted: BTreeMap::from([("v1", 0.9), ("v2", 0.1)]), observed, requests },
        grpc,
        trouble,
        reasons: report.reasons.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_tells_what_was_measured() {
        let versions = |v1, v2| BTreeMap::from([("v1".to_owned(), v1), ("v2".to_owned(), v2)]);
        let before = Report { requests: 1_001, versions: versions(1_000, 1), ..Report::default() };
        let after = Report { requests: 2_001, versions: versions(1_900, 101), ..Report::default() };
        let moved = Moved { service: "catalog", from: vec![], to: vec![], failed: 0 };
        let instances =
            [("payments-1", 60), ("payments-2", 40)].map(|(name, count)| (name.to_owned(), count));
        let calls = Calls { ok: 99, failed: 1, instances: instances.into() };
        let result = outcome(&after, true, moved, calls, &before, trouble::example());
        assert!(result.to_string().contains("gRPC: 99 calls with status 0 and 1 others"), "{result}");
        assert!(result.to_string().contains("payments-1 60 %, payments-2 40 %"), "{result}");
        assert!(result.to_string().contains("left out after 0.3 s and 10 such answers"), "{result}");
        assert!(result.is_success());
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(
            (&json["requests"], &json["failed"], &json["mtls"]),
            (&2_001.into(), &0.into(), &true.into())
        );
        assert_eq!(json["split"]["observed"], serde_json::json!({"v1": 0.9, "v2": 0.1}));
        assert_eq!(json["split"]["requests"], 1_000);
        let failed = Outcome { failed: 1, ..result };
        assert!(!failed.is_success());
    }
}
