//! What the supervisor does next: events in, actions out. Pure; `mod.rs` waits and acts.
//!
//! Two children: the sidecar and the command. The sidecar comes first and goes last, and whatever happens to it in
//! between the command lives on: a dead sidecar is started again on the same sockets. SIGTERM lets the sidecar
//! drain before the command hears of it, so that no caller meets a command that is already leaving.

use std::time::Duration;

/// How long the sidecar may take for the acks and last words, beyond what it gives inbound requests, before the command
/// is signalled all the same. It has bounds of its own (5 s and 3 s); this one is for a stuck sidecar.
pub(super) const DRAIN_SPARE: Duration = Duration::from_secs(10);

/// How long the sidecar may take to end once the command is gone: to withdraw (5 s at most), tell its callers (2 s and
/// 3 s for last words) and close.
pub(super) const FINISH_MAX: Duration = Duration::from_secs(11);

/// Waits before the next start of a sidecar that keeps dying. The first costs nothing: back within a second is
/// the promise. The last repeats: a sidecar that can't start must not eat the machine.
const RESTART_AFTER: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// A sidecar that was up this long starts with a clean record when it dies.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    SidecarReady,
    /// It has withdrawn its workload and finished what was inbound.
    SidecarDrained,
    SidecarEnded {
        how: Ended,
        uptime: Duration,
    },
    CommandEnded(Ended),
    /// SIGTERM or SIGINT.
    Terminate,
    /// A signal that concerns the command only.
    Forward(Forwarded),
    TimerRang(Timer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    StartSidecar,
    StartCommand,
    DrainSidecar,
    KillSidecar,
    TellSidecarCommandGone,
    TerminateCommand,
    ForwardToCommand(Forwarded),
    /// Replaces the timer that was set.
    SetTimer(Timer, Duration),
    End(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    Restart,
    DrainMax,
    FinishMax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    Hangup,
    Quit,
    User1,
    User2,
    WindowChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exit(u8),
    Signal(u8),
}

impl Ended {
    /// As a shell tells it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The sidecar has not been ready yet; there is no command.
    Joining,
    /// The command runs.
    Serving,
    /// SIGTERM came: the sidecar drains, the command knows nothing yet.
    Draining,
    /// The command was told to end.
    Ending,
    /// The command is gone; the sidecar ends.
    Finishing { code: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecar {
    Up,
    Down,
}

#[derive(Debug)]
pub(super) struct State {
    /// What the sidecar gives inbound requests.
    drain: Duration,
    stage: Stage,
    sidecar: Sidecar,
    /// Deaths in a row, each soon after its start.
    deaths: usize,
}

impl State {
    pub(super) fn start(drain: Duration) -> (Self, Vec<Action>) {
        let state = Self { drain, stage: Stage::Joining, sidecar: Sidecar::Up, deaths: 0 };
        (state, vec![Action::StartSidecar])
    }

    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::SidecarReady => self.sidecar_ready(),
            Event::SidecarDrained => self.drained(),
            Event::SidecarEnded { how, uptime } => self.sidecar_ended(how, uptime),
            Event::CommandEnded(how) => self.command_ended(how),
            Event::Terminate => self.terminate(),
            Event::Forward(signal) => match self.stage {
                Stage::Serving | Stage::Draining | Stage::Ending => vec![Action::ForwardToCommand(signal)],
                Stage::Joining | Stage::Finishing { .. } => vec![],
            },
            Event::TimerRang(timer) => self.timer_rang(timer),
        }
    }

    fn sidecar_ready(&mut self) -> Vec<Action> {
        match self.stage {
            Stage::Joining => {
                self.stage = Stage::Serving;
                vec![Action::StartCommand]
            }
            // Back after its death: the command never left.
            Stage::Serving | Stage::Draining | Stage::Ending | Stage::Finishing { .. } => vec![],
        }
    }

    fn drained(&mut self) -> Vec<Action> {
        match self.stage {
            Stage::Draining => self.end_command(),
            // An operator's drain order, or the command is being ended anyway.
            Stage::Joining | Stage::Serving | Stage::Ending | Stage::Finishing { .. } => vec![],
        }
    }

    fn sidecar_ended(&mut self, how: Ended, uptime: Duration) -> Vec<Action> {
        self.sidecar = Sidecar::Down;
        match (self.stage, how) {
            // It has said on standard error what is wrong; another start would meet the same.
            (Stage::Joining, Ended::Exit(_)) => vec![Action::End(1)],
            (Stage::Joining, Ended::Signal(_)) | (Stage::Serving, _) => vec![self.restart_later(uptime)],
            // Nothing left to wait for before the command.
            (Stage::Draining, _) => self.end_command(),
            (Stage::Ending, _) => vec![],
            (Stage::Finishing { code }, _) => vec![Action::End(code)],
        }
    }

    fn restart_later(&mut self, uptime: Duration) -> Action {
        if uptime >= SETTLED_AFTER {
            self.deaths = 0;
        }
        let after = RESTART_AFTER[self.deaths.min(RESTART_AFTER.len() - 1)];
        self.deaths = self.deaths.saturating_add(1);
        Action::SetTimer(Timer::Restart, after)
    }

    fn command_ended(&mut self, how: Ended) -> Vec<Action> {
        let code = how.code();
        self.stage = Stage::Finishing { code };
        match self.sidecar {
            Sidecar::Up => {
                vec![Action::TellSidecarCommandGone, Action::SetTimer(Timer::FinishMax, FINISH_MAX)]
            }
            Sidecar::Down => vec![Action::End(code)],
        }
    }

    fn terminate(&mut self) -> Vec<Action> {
        match (self.stage, self.sidecar) {
            (Stage::Joining, Sidecar::Up) => {
                self.stage = Stage::Finishing { code: Ended::Signal(15).code() };
                vec![Action::DrainSidecar, Action::SetTimer(Timer::FinishMax, FINISH_MAX)]
            }
            (Stage::Joining, Sidecar::Down) => vec![Action::End(Ended::Signal(15).code())],
            (Stage::Serving, Sidecar::Up) => {
                self.stage = Stage::Draining;
                vec![Action::DrainSidecar, Action::SetTimer(Timer::DrainMax, self.drain + DRAIN_SPARE)]
            }
            // Nobody to drain; or the second signal, which does not wait; or the third, passed on.
            (Stage::Serving, Sidecar::Down) | (Stage::Draining | Stage::Ending, _) => self.end_command(),
            (Stage::Finishing { code }, _) => vec![Action::KillSidecar, Action::End(code)],
        }
    }

    fn end_command(&mut self) -> Vec<Action> {
        self.stage = Stage::Ending;
        vec![Action::TerminateCommand]
    }

    fn timer_rang(&mut self, timer: Timer) -> Vec<Action> {
        match (timer, self.stage) {
            (Timer::Restart, Stage::Joining | Stage::Serving) => {
                self.sidecar = Sidecar::Up;
                vec![Action::StartSidecar]
            }
            (Timer::DrainMax, Stage::Draining) => self.end_command(),
            (Timer::FinishMax, Stage::Finishing { code }) => vec![Action::KillSidecar, Action::End(code)],
            // Overtaken by what happened since.
            (Timer::Restart | Timer::DrainMax | Timer::FinishMax, _) => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;
    use Event::*;

    const KILLED: Event = SidecarEnded { how: Ended::Signal(9), uptime: Duration::ZERO };

    /// After `before`, `event` leads to `expect`.
    const DRAIN: Duration = Duration::from_secs(30);

    #[track_caller]
    fn check(before: &[Event], event: Event, expect: &[Action]) {
        let (mut state, actions) = State::start(DRAIN);
        assert_eq!(actions, [StartSidecar]);
        for event in before {
            state.on(*event);
        }
        assert_eq!(state.on(event), expect);
    }

    #[test]
    fn the_command_starts_once_when_the_sidecar_is_ready() {
        check(&[], SidecarReady, &[StartCommand]);
        check(&[SidecarReady, KILLED, TimerRang(Timer::Restart)], SidecarReady, &[]);
    }

    #[test]
    fn a_sidecar_that_cannot_join_ends_the_run() {
        check(&[], SidecarEnded { how: Ended::Exit(1), uptime: Duration::ZERO }, &[End(1)]);
    }

    #[test]
    fn a_dead_sidecar_is_back_at_once_then_ever_later() {
        let restart = |ms| SetTimer(Timer::Restart, Duration::from_millis(ms));
        let (mut state, _) = State::start(DRAIN);
        state.on(SidecarReady);
        for ms in [0, 100, 500, 1_000, 2_000, 5_000, 5_000] {
            assert_eq!(state.on(KILLED), [restart(ms)]);
            assert_eq!(state.on(TimerRang(Timer::Restart)), [StartSidecar]);
        }
        let settled = SidecarEnded { how: Ended::Exit(101), uptime: SETTLED_AFTER };
        assert_eq!(state.on(settled), [restart(0)]);
    }

    #[test]
    fn sigterm_drains_the_sidecar_before_the_command_hears_of_it() {
        check(&[SidecarReady], Terminate, &[DrainSidecar, SetTimer(Timer::DrainMax, DRAIN + DRAIN_SPARE)]);
        check(&[SidecarReady, Terminate], SidecarDrained, &[TerminateCommand]);
        check(&[SidecarReady, Terminate], TimerRang(Timer::DrainMax), &[TerminateCommand]);
        check(&[SidecarReady, Terminate, SidecarDrained], TimerRang(Timer::DrainMax), &[]);
    }

    #[test]
    fn a_second_sigterm_does_not_wait() {
        check(&[SidecarReady, Terminate], Terminate, &[TerminateCommand]);
        check(&[SidecarReady, Terminate, Terminate], Terminate, &[TerminateCommand]);
        let gone = CommandEnded(Ended::Exit(0));
        check(&[SidecarReady, Terminate, Terminate, gone], Terminate, &[KillSidecar, End(0)]);
    }

    #[test]
    fn a_sidecar_that_dies_while_draining_is_not_waited_for() {
        check(&[SidecarReady, Terminate], KILLED, &[TerminateCommand]);
        check(&[SidecarReady, KILLED], Terminate, &[TerminateCommand]);
        check(&[SidecarReady, KILLED, Terminate], TimerRang(Timer::Restart), &[]);
        check(&[SidecarReady, Terminate, SidecarDrained], KILLED, &[]);
    }

    #[test]
    fn sigterm_before_the_command_started_ends_the_run() {
        check(&[], Terminate, &[DrainSidecar, SetTimer(Timer::FinishMax, FINISH_MAX)]);
        check(&[Terminate], SidecarReady, &[]);
        check(&[Terminate], SidecarEnded { how: Ended::Exit(0), uptime: Duration::ZERO }, &[End(143)]);
        check(&[KILLED], Terminate, &[End(143)]);
    }

    #[test]
    fn the_run_ends_with_the_commands_code() {
        let finish = [TellSidecarCommandGone, SetTimer(Timer::FinishMax, FINISH_MAX)];
        check(&[SidecarReady], CommandEnded(Ended::Exit(3)), &finish);
        let code = |ended, expect| {
            let gone = SidecarEnded { how: Ended::Exit(0), uptime: Duration::ZERO };
            check(&[SidecarReady, CommandEnded(ended)], gone, &[End(expect)]);
            check(
                &[SidecarReady, CommandEnded(ended)],
                TimerRang(Timer::FinishMax),
                &[KillSidecar, End(expect)],
            );
            check(&[SidecarReady, KILLED], CommandEnded(ended), &[End(expect)]);
        };
        code(Ended::Exit(0), 0);
        code(Ended::Exit(3), 3);
        code(Ended::Signal(9), 137);
    }

    #[test]
    fn other_signals_are_the_commands_alone() {
        check(&[SidecarReady], Forward(Forwarded::Hangup), &[ForwardToCommand(Forwarded::Hangup)]);
        check(&[], Forward(Forwarded::Hangup), &[]);
        check(&[SidecarReady, CommandEnded(Ended::Exit(0))], Forward(Forwarded::User1), &[]);
    }

    #[test]
    fn an_operators_drain_leaves_the_command_alone() {
        check(&[SidecarReady], SidecarDrained, &[]);
    }
}
