//! The supervisor behind `meshwork run`: two children, a sidecar and a command.
//!
//! `state.rs` decides, this file waits and acts. It does nothing else, so that there is little in it that could
//! fail: no traffic passes through here. It holds the sidecar's listeners, so a sidecar that died is started again on
//! the same sockets; and both children die with it (`descriptors.rs`).
//!
//! Supervisor and sidecar talk by lines over a socket pair, whose far end is named in `MESHWORK_SUPERVISOR_FD`:
//! upwards `ready` (with the mesh's virtual ranges) and `drained`, downwards `command-gone`.

pub(crate) mod orphans;
mod state;

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep_until;

use self::state::{Action, Ended, Event, Forwarded, State, Timer};
use crate::capture::hold::Hold;
use crate::descriptors;
use crate::launch::{self, Launch};
use crate::listeners::{LISTEN_FDS, Listeners};
use crate::service_manager::{self, Manager};

/// The variable that names the sidecar's end of the control pipe.
pub(crate) const SUPERVISOR_FD: &str = "MESHWORK_SUPERVISOR_FD";

/// Set for a sidecar that is started while the command runs.
pub(crate) const COMMAND_RUNS: &str = "MESHWORK_COMMAND_RUNS";

pub(crate) const READY: &str = "ready";
pub(crate) const DRAINED: &str = "drained";
pub(crate) const COMMAND_GONE: &str = "command-gone";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    #[error("cannot start the sidecar ({exe}): {source}")]
    Sidecar { exe: PathBuf, source: io::Error },
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Our own binary, and `proxy …`.
    pub(crate) exe: PathBuf,
    pub(crate) sidecar_args: Vec<OsString>,
    pub(crate) sidecar_env: Vec<(&'static str, String)>,
    /// Kept open here, whatever becomes of the sidecar.
    pub(crate) listeners: Listeners,
    /// What the sidecar gives inbound requests once it drains.
    pub(crate) drain: Duration,
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// What the command's process must become first, if anything.
    pub(crate) launch: Option<Launch>,
    /// What the command does is captured by this; it goes with the plan.
    pub(crate) hold: Option<Hold>,
    pub(crate) command_env: Vec<(&'static str, String)>,
    /// Variables that the command must not inherit.
    pub(crate) command_unset: Vec<OsString>,
}

/// Runs both children to their end; returns the exit code. What `signals` have heard before is heard now.
pub(crate) async fn supervise(plan: &Plan, mut signals: Signals) -> Result<u8, SupervisorError> {
    let mut somebody_ended = signal(SignalKind::child()).map_err(SupervisorError::Signals)?;
    let manager = Manager::found();
    let mut children =
        Children { plan, manager: &manager, sidecar: None, command: None, timer: None, spawn_failed: None };
    let mut alive = pin!(manager.keep_alive());
    let (mut state, mut actions) = State::start(plan.drain);
    loop {
        for action in actions {
            if let Some(code) = children.act(action).await? {
                return Ok(code);
            }
        }
        let event = loop {
            tokio::select! {
                event = children.next() => break event,
                event = signals.next() => break event,
                _ = somebody_ended.recv() => children.forget_orphans(),
                never = &mut alive => match never {},
            }
        };
        tracing::debug!(?event, "supervisor");
        actions = state.on(event);
    }
}

struct Children<'p> {
    plan: &'p Plan,
    /// Told when the command runs, and when the end begins.
    manager: &'p Manager,
    sidecar: Option<Sidecar>,
    command: Option<Child>,
    timer: Option<(Timer, tokio::time::Instant)>,
    /// The command could not be started: told as its end.
    spawn_failed: Option<Ended>,
}

struct Sidecar {
    child: Child,
    started: Instant,
    /// `None` once it has closed its end.
    lines: Option<Lines<BufReader<OwnedReadHalf>>>,
    pipe: OwnedWriteHalf,
    /// Where the mesh's services stand, once it is ready.
    virtual_ranges: Vec<IpNet>,
}

impl Children<'_> {
    /// Does one action; the exit code if it was the last.
    async fn act(&mut self, action: Action) -> Result<Option<u8>, SupervisorError> {
        match action {
            Action::StartSidecar => self.sidecar = Some(start_sidecar(self.plan, self.command.is_some())?),
            Action::StartCommand => self.start_command(),
            Action::DrainSidecar => {
                self.manager.stopping();
                send(self.sidecar.as_ref().map(|sidecar| &sidecar.child), Signal::TERM);
            }
            Action::KillSidecar => {
                if let Some(mut sidecar) = self.sidecar.take() {
                    // Fails only if it is gone already, which is what was wanted.
                    let _ = sidecar.child.kill().await;
                }
            }
            Action::TellSidecarCommandGone => self.tell_command_gone(),
            Action::TerminateCommand => {
                tracing::info!(drain_step = 4, "draining: the command is told to end");
                send(self.command.as_ref(), Signal::TERM);
            }
            Action::ForwardToCommand(forwarded) => send(self.command.as_ref(), to_signal(forwarded)),
            Action::SetTimer(Timer::Restart, after) => {
                tracing::warn!(?after, "the sidecar died: starting another one on the same sockets");
                self.timer = Some((Timer::Restart, tokio::time::Instant::now() + after));
            }
            Action::SetTimer(timer, after) => self.timer = Some((timer, tokio::time::Instant::now() + after)),
            Action::End(code) => return Ok(Some(code)),
        }
        Ok(None)
    }

    /// The next thing that happens to a child, or the timer.
    async fn next(&mut self) -> Event {
        if let Some(ended) = self.spawn_failed.take() {
            return Event::CommandEnded(ended);
        }
        let timer = self.timer;
        let event = tokio::select! {
            event = sidecar_event(&mut self.sidecar) => event,
            ended = ended(self.command.as_mut()) => Event::CommandEnded(ended),
            timer = ring(timer) => Event::TimerRang(timer),
        };
        match event {
            Event::SidecarEnded { how, .. } => {
                tracing::debug!(?how, "the sidecar ended");
                self.sidecar = None;
            }
            Event::CommandEnded(how) => {
                tracing::info!(drain_step = 5, code = how.code(), "the command is gone");
                self.command = None;
            }
            Event::TimerRang(_) => self.timer = None,
            Event::SidecarReady | Event::SidecarDrained | Event::Terminate | Event::Forward(_) => {}
        }
        event
    }

    fn start_command(&mut self) {
        let ranges = self.sidecar.as_ref().map(|sidecar| &sidecar.virtual_ranges[..]).unwrap_or_default();
        if let Some(Err(error)) = self.plan.hold.as_ref().map(|hold| hold.lead(ranges)) {
            eprintln!("meshwork: {error}");
            self.spawn_failed = Some(Ended::Exit(1));
            return;
        }
        let Plan { exe, program, args, launch, .. } = self.plan;
        let mut command = match launch {
            Some(launch) => {
                let mut command = Command::new(exe);
                command.args(launch.args(Some((program, args))));
                command
            }
            None => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
        };
        for name in &self.plan.command_unset {
            command.env_remove(name);
        }
        command.envs(self.plan.command_env.iter().map(|(name, value)| (name, value)));
        descriptors::prepare(&mut command, Vec::new());
        match command.spawn() {
            Ok(child) => {
                self.command = Some(child);
                self.manager.ready("the sidecar is ready, and the command runs");
            }
            Err(error) => self.spawn_failed = Some(Ended::Exit(launch::cannot_start(program, &error))),
        }
    }

    fn forget_orphans(&self) {
        let sidecar = self.sidecar.as_ref().and_then(|sidecar| sidecar.child.id());
        orphans::forget(&[sidecar, self.command.as_ref().and_then(Child::id)]);
    }

    fn tell_command_gone(&mut self) {
        if let Some(sidecar) = &self.sidecar {
            // A dozen bytes into an empty socket: they fit. If the sidecar is gone, its end is the next event.
            let _ = sidecar.pipe.try_write(format!("{COMMAND_GONE}\n").as_bytes());
        }
    }
}

fn start_sidecar(plan: &Plan, command_runs: bool) -> Result<Sidecar, SupervisorError> {
    let failed = |source| SupervisorError::Sidecar { exe: plan.exe.clone(), source };
    let (near, far) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    near.set_nonblocking(true).map_err(failed)?;
    let (read, pipe) = UnixStream::from_std(near).map_err(failed)?.into_split();
    let (listen_fds, mut inherit) = plan.listeners.to_inherit();
    inherit.push(far.as_raw_fd());

    let mut command = Command::new(&plan.exe);
    command.args(&plan.sidecar_args);
    command.envs(plan.sidecar_env.iter().map(|(name, value)| (name, value)));
    // The service manager hears of the supervisor, and of nobody else.
    for name in service_manager::VARIABLES {
        command.env_remove(name);
    }
    command.env(LISTEN_FDS, listen_fds);
    command.env(SUPERVISOR_FD, far.as_raw_fd().to_string());
    if command_runs {
        command.env(COMMAND_RUNS, "1");
    }
    command.stdin(Stdio::null());
    // Ctrl-C in a terminal goes to the whole foreground group; the sidecar is to hear of it from us, in order.
    command.process_group(0);
    descriptors::prepare(&mut command, inherit);
    let child = command.spawn().map_err(failed)?;
    drop(far);
    tracing::debug!(pid = child.id(), "sidecar started");
    Ok(Sidecar {
        child,
        started: Instant::now(),
        lines: Some(BufReader::new(read).lines()),
        pipe,
        virtual_ranges: Vec::new(),
    })
}

async fn sidecar_event(sidecar: &mut Option<Sidecar>) -> Event {
    let Some(sidecar) = sidecar else { return pending().await };
    loop {
        let line = tokio::select! {
            // What it said before it ended comes first.
            biased;
            line = next_line(&mut sidecar.lines) => line,
            how = ended(Some(&mut sidecar.child)) => {
                return Event::SidecarEnded { how, uptime: sidecar.started.elapsed() };
            }
        };
        match line.as_deref() {
            Some(line) if line.split(' ').next() == Some(READY) => {
                let ranges = line.split([' ', ',']).skip(1);
                sidecar.virtual_ranges = ranges.filter_map(|range| range.parse().ok()).collect();
                return Event::SidecarReady;
            }
            Some(DRAINED) => return Event::SidecarDrained,
            Some(other) => tracing::warn!(line = other, "the sidecar said something that is no word of ours"),
            None => sidecar.lines = None,
        }
    }
}

/// `None` once, when the other end is closed.
async fn next_line(lines: &mut Option<Lines<BufReader<OwnedReadHalf>>>) -> Option<String> {
    match lines {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => pending().await,
    }
}

async fn ended(child: Option<&mut Child>) -> Ended {
    let Some(child) = child else { return pending().await };
    match child.wait().await {
        Ok(status) => how(status),
        // Only if somebody else reaped our child; nothing is known of its end then.
        Err(_) => Ended::Exit(1),
    }
}

fn how(status: ExitStatus) -> Ended {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(byte(code)),
        (None, signal) => Ended::Signal(byte(signal.unwrap_or_default())),
    }
}

async fn ring(timer: Option<(Timer, tokio::time::Instant)>) -> Timer {
    let Some((timer, at)) = timer else { return pending().await };
    sleep_until(at).await;
    timer
}

/// Signals a child that has not been reaped, so its PID is still its own.
fn send(child: Option<&Child>, signal: Signal) {
    let pid = child.and_then(Child::id).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        // A child that has just ended can't hear; its end is the next event.
        let _ = kill_process(pid, signal);
    }
}

fn to_signal(forwarded: Forwarded) -> Signal {
    match forwarded {
        Forwarded::Hangup => Signal::HUP,
        Forwarded::Quit => Signal::QUIT,
        Forwarded::User1 => Signal::USR1,
        Forwarded::User2 => Signal::USR2,
        Forwarded::WindowChange => Signal::WINCH,
    }
}

/// Those that are for the command, or end it. From their making on none of them ends this process by itself.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    user2: tokio::signal::unix::Signal,
    window_change: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn watch() -> Result<Self, SupervisorError> {
        Self::try_watch().map_err(SupervisorError::Signals)
    }

    fn try_watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            window_change: signal(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Terminate,
            _ = self.hangup.recv() => Event::Forward(Forwarded::Hangup),
            _ = self.quit.recv() => Event::Forward(Forwarded::Quit),
            _ = self.user1.recv() => Event::Forward(Forwarded::User1),
            _ = self.user2.recv() => Event::Forward(Forwarded::User2),
            _ = self.window_change.recv() => Event::Forward(Forwarded::WindowChange),
        }
    }
}
