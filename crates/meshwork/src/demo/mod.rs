//! `meshwork demo`: a small shop under load, in a mesh of its own, on this machine.
//!
//! ```text
//! load -> web -> cart -> catalog  (3, HTTP)
//!                     -> payments (2, gRPC)
//!                     -> stock    (opaque TCP)
//! ```
//! Every box is a real process with its own sidecar. While the load runs, catalog moves to another address, a second
//! version of cart gets a tenth of the requests, and then things go wrong on purpose: no customer is to notice any of it.
//! All that customers cause are GETs and gRPC calls to instances that end in order, so a failure is never one that nobody
//! could have told from a success, and each of them makes the demo fail.
//!
//! | file | what |
//! |---|---|
//! | `story.rs` | what happens, in order, in plain words; the result |
//! | `trouble.rs` | what goes wrong on purpose: killed and broken instances, a control plane that is away; another root |
//! | `mesh.rs`, `process.rs`, `ports.rs` | the processes: started and ended as by hand |
//! | `app/`, `http.rs` | the shop's programs |
//! | `watch.rs`, `scrape.rs`, `view.rs` | the sidecars' metrics, read and shown |

mod app;
mod http;
mod mesh;
mod ports;
mod process;
pub(crate) mod role;
mod scrape;
mod story;
mod trouble;
mod view;
mod watch;

pub(crate) use app::app;

use std::cell::{LazyCell, RefCell};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::mesh::Mesh;
use self::role::Role;
use self::view::{Screen, View};
use self::watch::Watch;
use crate::BoxError;
use crate::capture::ability;
use crate::capture::choice::{self, Capture, Way};
use crate::cli::DemoArgs;

/// Less does not show a share of ten per cent.
const DURATION_MIN: Duration = Duration::from_secs(10);

/// How the shop's programs come to their sidecars, in plain words.
fn way(asked: Capture) -> Result<(Way, String), BoxError> {
    let cgroup = LazyCell::new(|| ability::cgroup().map_err(|error| error.to_string()));
    // A dozen sidecars share this network namespace.
    let one_namespace = || Err("the demo has many sidecars in one network namespace".to_owned());
    let (way, why) = choice::choose(asked, || cgroup.clone(), one_namespace);
    match way {
        Way::Cgroup => {
            cgroup.clone()?;
            Ok((way, "The shop's programs are captured: they call http://cart/ and know of no mesh at all.".to_owned()))
        }
        Way::Explicit => {
            let sentence =
                format!("The shop's programs find the mesh by http_proxy and local ports; they are not captured: {why}.");
            Ok((way, sentence))
        }
        Way::Redirect => {
            Err("the demo has many sidecars in one network namespace, and redirect is for one: give --capture=cgroup".into())
        }
    }
}

pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode, BoxError> {
    let duration = args.duration.duration();
    if duration < DURATION_MIN {
        return Err(format!("--duration is {} s at least: less shows nothing", DURATION_MIN.as_secs()).into());
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let screen =
        if args.no_tty || !std::io::stdout().is_terminal() { Screen::Lines } else { Screen::Picture };
    let view = RefCell::new(View::new(screen));
    let watch = Watch::default();
    let (way, sentence) = way(args.capture)?;
    view.borrow_mut().say(&sentence);
    let mesh = Mesh::new(way)?;

    let told = tokio::select! {
        told = story::tell(&mesh, &watch, &view, duration) => told.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    view.borrow_mut().say("Ending all processes.");
    let ended = mesh.end().await;

    let Some(result) = told? else {
        println!("Interrupted; nothing stays behind.");
        return Ok(ExitCode::from(130));
    };
    ended?;
    if let Some(file) = &args.json {
        let written = std::fs::write(file, format!("{}\n", serde_json::to_string(&result)?));
        written.map_err(|error| format!("cannot write {}: {error}; check --json", file.display()))?;
    }
    println!("\n{result}");
    Ok(if result.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
