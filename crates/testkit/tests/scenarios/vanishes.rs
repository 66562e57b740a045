//! A machine vanishes without a farewell: no FIN, no RST, nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshwork_testkit::{Answer, App, Client, Machine, Mesh, eventually, get, post, workload};
use tokio::task::JoinSet;

/// Short, so that the test is: a sidecar renews once a second at most.
const LEASE: Duration = Duration::from_secs(4);

/// Callers that GET, and callers that POST.
const CALLERS: usize = 3;

/// What was sent and is not acknowledged is given up after 5 s (`TCP_USER_TIMEOUT`), and a connection without an answer to
/// a PING after 10; the rest is for a machine that builds beside this.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Calls in a row that only those make who know that the machine is gone.
const IN_A_ROW: usize = 60;

const URL: &str = "http://cart/";

/// How a call ended, and how long it took.
struct Ended {
    answer: Result<Answer, String>,
    took: Duration,
}

impl Ended {
    fn is_good(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.status == 200 && answer.cause().is_none())
    }
}

async fn call(mut client: Client, idempotent: bool, stop: Arc<AtomicBool>) -> Vec<Ended> {
    let mut all = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let request = if idempotent { get(URL) } else { post(URL, "once") };
        let answer = client.send(request).await;
        all.push(Ended { answer, took: begin.elapsed() });
    }
    all
}

#[tokio::test]
async fn idempotent_calls_see_nothing_of_it_and_others_an_answer_in_time() {
    let Some(machine) = Machine::start() else { return };
    let near_address = machine.near();
    let (near, far) = (App::http("near").await, machine.inside(App::http("far")).await);
    let mesh = Mesh::builder()
        .http2(super::HTTP2)
        .control(move |settings| {
            settings.listen = (near_address, 0).into();
            settings.lease = LEASE;
        })
        .with(workload("cart").serving(80, &near))
        .with(workload("web"))
        .start()
        .await;
    let gone = machine.inside(mesh.join(workload("cart").serving(80, &far).at(machine.far()))).await;
    let web = mesh.sidecar("web");
    for app in ["near", "far"] {
        eventually(app, async || web.get(URL).await.header("x-app") == Some(app)).await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let (mut getting, mut posting) = (JoinSet::new(), JoinSet::new());
    for _ in 0..CALLERS {
        getting.spawn(call(web.client(), true, stop.clone()));
        posting.spawn(call(web.client(), false, stop.clone()));
    }
    let before = far.count();
    eventually("the far one serves", async || far.count() > before + 20).await;
    machine.vanish();
    eventually("its lease has lapsed", async || {
        let status = mesh.status().await;
        let cart = status["services"].as_array().unwrap().iter().find(|service| service["name"] == "cart");
        cart.is_some_and(|cart| cart["unhealthy"] == 1 && cart["healthy"] == 1)
    })
    .await;
    // Out of rotation: nobody waits for it any more.
    eventually("nobody calls it any more", async || {
        for _ in 0..IN_A_ROW {
            let begin = Instant::now();
            let answer = web.post(URL, "once").await;
            if answer.status != 200 || begin.elapsed() > Duration::from_secs(1) {
                return false;
            }
        }
        true
    })
    .await;
    stop.store(true, Ordering::Relaxed);

    for ended in getting.join_all().await.into_iter().flatten() {
        assert!(ended.is_good(), "after {:?}: {:?}", ended.took, ended.answer);
        assert!(ended.took < ANSWER_MAX, "{:?}", ended.took);
    }
    let posted: Vec<Ended> = posting.join_all().await.into_iter().flatten().collect();
    let failed: Vec<&Ended> = posted.iter().filter(|ended| !ended.is_good()).collect();
    assert!(!failed.is_empty(), "{} calls, and none was under way to it", posted.len());
    for ended in failed {
        let answer = ended.answer.as_ref().expect("the mesh itself answers");
        assert_eq!((answer.status, answer.cause()), (502, Some("upstream_reset")), "{answer:?}");
        assert!(ended.took < ANSWER_MAX, "{:?}", ended.took);
    }
    drop(gone);
    mesh.stop().await;
}
