//! What goes wrong in the demo on purpose, one trouble after the other, and what came of each for the customers.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::Role;
use super::mesh::{Mesh, Plan, Run};
use super::watch::Watch;
use crate::BoxError;

/// How long each trouble lasts at least, so that there is something to see.
const LOOK: Duration = Duration::from_secs(2);

/// How long what must follow may take: an ejection, an instance's first request, a sidecar's return.
const FOLLOWS_MAX: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(50);

/// Customers while something went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Meanwhile {
    pub(super) requests: u64,
    pub(super) failed: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Trouble {
    pub(super) killed: Killed,
    pub(super) ejected: Ejected,
    pub(super) rolled: Rolled,
    pub(super) control: ControlAway,
    pub(super) rotated: Rotated,
}

/// An instance that ended from one moment to the next.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Killed {
    instance: String,
    /// Tries that its callers' sidecars made elsewhere.
    retries: u64,
    meanwhile: Meanwhile,
}

/// An instance that answered wrongly.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ejected {
    instance: String,
    /// Of its wrong answers, until it was left out everywhere that it is called from.
    wrong_answers: u64,
    seconds_until_out: f64,
    /// From its recovery to its next request.
    seconds_until_back: f64,
    meanwhile: Meanwhile,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Rolled {
    service: &'static str,
    instances: usize,
    meanwhile: Meanwhile,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ControlAway {
    seconds: f64,
    /// Sidecars that came back to it.
    sidecars: usize,
    meanwhile: Meanwhile,
}

/// The mesh's root, which everybody's certificate hangs from.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rotated {
    /// Until nobody trusts the old one any more.
    seconds: f64,
    meanwhile: Meanwhile,
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed", self.requests, self.failed)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, ejected, rolled, control, rotated } = self;
        let Killed { instance, retries, meanwhile } = killed;
        writeln!(
            f,
            "Killed {instance} (kill -9): {meanwhile}; {retries} were sent again, to another instance."
        )?;
        let Ejected { instance, wrong_answers, seconds_until_out, seconds_until_back, meanwhile } = ejected;
        writeln!(
            f,
            "{instance} answered wrongly: left out after {seconds_until_out:.1} s and {wrong_answers} such answers, \
             back {seconds_until_back:.1} s after it was well: {meanwhile}."
        )?;
        let Rolled { service, instances, meanwhile } = rolled;
        writeln!(f, "Replaced all {instances} instances of {service} by new ones: {meanwhile}.")?;
        let ControlAway { seconds, sidecars, meanwhile } = control;
        writeln!(
            f,
            "Control plane killed and back after {seconds:.1} s, {sidecars} sidecars with it: {meanwhile}."
        )?;
        let Rotated { seconds, meanwhile } = rotated;
        write!(f, "Replaced the mesh's root within {seconds:.1} s: {meanwhile}.")
    }
}

/// What customers see from now on.
pub(super) struct Since<'w> {
    watch: &'w Watch,
    before: Meanwhile,
}

impl<'w> Since<'w> {
    async fn now(mesh: &Mesh, watch: &'w Watch) -> Self {
        watch.look(mesh).await;
        let report = watch.report();
        Self { watch, before: Meanwhile { requests: report.requests, failed: report.failed } }
    }

    async fn until_now(&self, mesh: &Mesh) -> Meanwhile {
        self.watch.look(mesh).await;
        let report = self.watch.report();
        Meanwhile {
            requests: report.requests - self.before.requests,
            failed: report.failed - self.before.failed,
        }
    }
}

fn of(mesh: &Mesh, role: Role) -> Vec<Rc<Run>> {
    mesh.runs().into_iter().filter(|run| run.role == role).collect()
}

/// `kill -9`, sidecar and all; then another one in its place.
pub(super) async fn kill_one(
    mesh: &Mesh,
    watch: &Watch,
    say: &impl Fn(&str),
    replacement: Plan,
) -> Result<Killed, BoxError> {
    let victim = of(mesh, Role::Catalog).pop().ok_or("there is no catalog to kill")?;
    let instance = victim.instance.clone();
    let since = Since::now(mesh, watch).await;
    let retries = watch.total_of(mesh, Role::Cart, RETRIES).await;
    say(&format!("Killing {instance} while it serves: kill -9, its sidecar too. Nobody could say goodbye."));
    mesh.kill(&victim).await?;
    sleep(LOOK).await;
    let retries = watch.total_of(mesh, Role::Cart, RETRIES).await.saturating_sub(retries);
    let meanwhile = since.until_now(mesh).await;
    say(&format!(
        "{meanwhile}; {retries} were sent again by cart's sidecars. Starting {} instead.",
        replacement.instance
    ));
    mesh.start(replacement).await?;
    Ok(Killed { instance, retries, meanwhile })
}

const RETRIES: &[&str] = &["meshwork_retries_total"];

/// An instance answers wrongly until it is left out, is well again, and taken back.
pub(super) async fn spoil_one(mesh: &Mesh, watch: &Watch, say: &impl Fn(&str)) -> Result<Ejected, BoxError> {
    let spoilt = of(mesh, Role::Catalog).into_iter().next().ok_or("there is no catalog to spoil")?;
    let instance = spoilt.instance.clone();
    let since = Since::now(mesh, watch).await;
    let wrong_before = watch.asked_of(&spoilt).await.failed;
    say(&format!("Now {instance} is broken: it runs, is reachable, and answers 502 to everything."));
    spoilt.spoil();
    let start = Instant::now();
    let out = wait_until_left_out(mesh, watch, &spoilt, wrong_before).await?;
    let seconds_until_out = (out - start).as_secs_f64();
    let wrong_answers = watch.asked_of(&spoilt).await.failed - wrong_before;
    say(&format!(
        "Left out by its callers' sidecars after {seconds_until_out:.1} s and {wrong_answers} wrong answers, each sent again elsewhere."
    ));
    spoilt.mend();
    let start = Instant::now();
    let asked = watch.asked_of(&spoilt).await;
    follows(&format!("{instance} is not asked again"), async || {
        let now = watch.asked_of(&spoilt).await;
        now.requests - now.failed > asked.requests - asked.failed
    })
    .await?;
    let seconds_until_back = start.elapsed().as_secs_f64();
    let meanwhile = since.until_now(mesh).await;
    say(&format!(
        "It is well again, and asked again {seconds_until_back:.1} s later, slowly at first: {meanwhile}."
    ));
    Ok(Ejected { instance, wrong_answers, seconds_until_out, seconds_until_back, meanwhile })
}

/// While the others of its service have answered so many and it has had none, an instance is left out: in turn it would have
/// had a third of them.
const OTHERS_MIN: u64 = 60;

/// When it had its last request. Counted by requests, as customers slow down on a machine that is busy elsewhere; and from
/// its first wrong answer, without which it may not even know yet that it is to be broken.
async fn wait_until_left_out(
    mesh: &Mesh,
    watch: &Watch,
    run: &Rc<Run>,
    wrong_before: u64,
) -> Result<Instant, BoxError> {
    let others = async || {
        let mut asked = 0;
        for other in of(mesh, run.role).iter().filter(|other| !Rc::ptr_eq(other, run)) {
            asked += watch.asked_of(other).await.requests;
        }
        asked
    };
    let deadline = Instant::now() + FOLLOWS_MAX;
    let (mut seen, mut last, mut since) = (0, Instant::now(), 0);
    loop {
        let now = watch.asked_of(run).await;
        if now.requests != seen || now.failed == wrong_before {
            (seen, last, since) = (now.requests, Instant::now(), others().await);
        } else if others().await >= since + OTHERS_MIN {
            return Ok(last);
        }
        if Instant::now() > deadline {
            return Err(format!("{} is still asked after {} s", run.instance, FOLLOWS_MAX.as_secs()).into());
        }
        sleep(POLL).await;
    }
}

/// New instances of payments; once each has served, an old one drains.
pub(super) async fn roll_payments(
    mesh: &Mesh,
    watch: &Watch,
    say: &impl Fn(&str),
    plan: impl Fn(&str) -> Plan,
) -> Result<Rolled, BoxError> {
    let since = Since::now(mesh, watch).await;
    let old = of(mesh, Role::Payments);
    say(
        "Replacing payments, which speaks gRPC, one by one: a new instance serves, then an old one drains and ends.",
    );
    for (number, run) in old.iter().enumerate() {
        let new = mesh.start(plan(&format!("payments-{}", old.len() + number + 1))).await?;
        let served = async || watch.asked_of(&new).await.requests > 0;
        follows(&format!("{} got no request", new.instance), served).await?;
        watch.look(mesh).await;
        mesh.drain(run).await?;
    }
    let meanwhile = since.until_now(mesh).await;
    say(&format!("All of payments is new: {meanwhile}."));
    Ok(Rolled { service: Role::Payments.service(), instances: old.len(), meanwhile })
}

/// `kill -9`, and back a while later on the same state.
pub(super) async fn lose_control(
    mesh: &Mesh,
    watch: &Watch,
    say: &impl Fn(&str),
) -> Result<ControlAway, BoxError> {
    let since = Since::now(mesh, watch).await;
    say("Killing the control plane: kill -9. The sidecars go on with what they know.");
    let gone = Instant::now();
    mesh.kill_control().await?;
    sleep(LOOK).await;
    let meanwhile = since.until_now(mesh).await;
    say(&format!("{meanwhile} without it. Starting it again."));
    mesh.start_control().await?;
    let seconds = gone.elapsed().as_secs_f64();
    let sidecars = mesh.runs().len();
    follows("not all sidecars are back with the control plane", async || {
        mesh.connected().await.is_ok_and(|connected| connected >= sidecars)
    })
    .await?;
    let meanwhile = since.until_now(mesh).await;
    say(&format!("All {sidecars} sidecars are back with it, and nothing was withdrawn: {meanwhile}."));
    Ok(ControlAway { seconds, sidecars, meanwhile })
}

/// A replacement of the root that goes on while other things happen.
pub(super) struct Rotating<'w> {
    since: Since<'w>,
    began: Instant,
    old: Vec<String>,
}

impl<'w> Rotating<'w> {
    pub(super) async fn begin(mesh: &Mesh, watch: &'w Watch, say: &impl Fn(&str)) -> Result<Self, BoxError> {
        let since = Since::now(mesh, watch).await;
        let old = mesh.roots().await?;
        mesh.rotate_root().await?;
        say(
            "Replacing the mesh's root while all goes on: first everybody trusts the new one too, then it signs, then the old one goes.",
        );
        Ok(Self { since, began: Instant::now(), old })
    }

    pub(super) async fn finish(self, mesh: &Mesh, say: &impl Fn(&str)) -> Result<Rotated, BoxError> {
        let Self { since, began, old } = self;
        follows("the old root is still trusted", async || {
            mesh.roots().await.is_ok_and(|roots| roots.len() == 1 && roots != old)
        })
        .await?;
        let seconds = began.elapsed().as_secs_f64();
        let meanwhile = since.until_now(mesh).await;
        say(&format!(
            "The old root is retired after {seconds:.1} s, every certificate is of the new one: {meanwhile}."
        ));
        Ok(Rotated { seconds, meanwhile })
    }
}

pub(super) async fn follows(otherwise: &str, holds: impl AsyncFn() -> bool) -> Result<(), BoxError> {
    let followed = async {
        while !holds().await {
            sleep(POLL).await;
        }
    };
    let followed = timeout(FOLLOWS_MAX, followed).await;
    followed.map_err(|_| format!("{otherwise} after {} s", FOLLOWS_MAX.as_secs()).into())
}

#[cfg(test)]
pub(super) fn example() -> Trouble {
    let meanwhile = Meanwhile { requests: 200, failed: 0 };
    let (killed, spoilt) = ("catalog-6".to_owned(), "catalog-4".to_owned());
    Trouble {
        killed: Killed { instance: killed, retries: 3, meanwhile },
        ejected: Ejected {
            instance: spoilt,
            wrong_answers: 10,
            seconds_until_out: 0.3,
            seconds_until_back: 5.0,
            meanwhile,
        },
        rolled: Rolled { service: "payments", instances: 2, meanwhile },
        control: ControlAway { seconds: 2.5, sidecars: 11, meanwhile },
        rotated: Rotated { seconds: 25.0, meanwhile },
    }
}
