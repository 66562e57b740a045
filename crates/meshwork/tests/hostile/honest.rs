//! An honest client beside an attack: it sees no failure, and its slowest answers are about as quick as without.
//!
//! Machines are shared, and tests run beside each other: quiet and attacked stretches take turns, and one pair of which the
//! attacked one is within bounds is enough. What an attack really costs, it costs in each of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wait_for;
use crate::wire::Wire;

/// The 99th percentile may grow so much,
const GROWTH_MAX: u32 = 3;

/// or be below this, which is what a machine whose cores are all busy costs.
const UNNOTICED: Duration = Duration::from_millis(100);

/// Pairs of stretches.
const PAIRS_MAX: usize = 10;

const ATTACKERS: usize = 2;

/// One attack of this binary at a time, or each would be told the others' cost.
static TURN: Mutex<()> = Mutex::new(());

/// Asks again and again while `blow` is struck by others.
///
/// # Panics
/// If a single answer is not good, or every attacked stretch is too slow.
#[track_caller]
pub(crate) fn unharmed(
    what: &str,
    samples: usize,
    blows_min: usize,
    ask: impl FnMut() -> Result<(), String>,
    blow: impl Fn(usize) + Sync,
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    unharmed_now(what, samples, blows_min, ask, blow);
}

/// The same of an attack that costs others nothing, and waits for nobody.
#[track_caller]
pub(crate) fn unharmed_now(
    what: &str,
    samples: usize,
    blows_min: usize,
    mut ask: impl FnMut() -> Result<(), String>,
    blow: impl Fn(usize) + Sync,
) {
    let mut seen = Vec::new();
    for _ in 0..PAIRS_MAX {
        let quiet = slowest(what, samples, &mut ask, || true);
        let (over, blows) = (AtomicBool::new(false), AtomicUsize::new(0));
        let attacked = thread::scope(|scope| {
            for _ in 0..ATTACKERS {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        blow(blows.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
            let _at_the_end = Flag(&over);
            wait_for("the first blow", || (blows.load(Ordering::Relaxed) > 0).then_some(()));
            slowest(what, samples, &mut ask, || blows.load(Ordering::Relaxed) >= blows_min)
        });
        seen.push((quiet, attacked, blows.into_inner()));
        if attacked <= (quiet * GROWTH_MAX).max(UNNOTICED) {
            println!("{what}: 100 % good, p99 {quiet:?} without and {attacked:?} with it: {seen:?}");
            return;
        }
    }
    panic!("{what}: p99 without, with it, and blows: {seen:?}");
}

/// Set also when an assertion fails, or its attackers would never end.
struct Flag<'f>(&'f AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The 99th percentile of so many answers, and of more until it is enough.
#[track_caller]
fn slowest(
    what: &str,
    samples: usize,
    ask: &mut impl FnMut() -> Result<(), String>,
    is_enough: impl Fn() -> bool,
) -> Duration {
    let mut took = Vec::new();
    while took.len() < samples || !is_enough() {
        let begun = Instant::now();
        if let Err(failure) = ask() {
            panic!("{what}: an honest client failed: {failure}");
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took[(took.len() * 99).div_ceil(100) - 1]
}

/// One request after the other on one connection to a sidecar's proxy, each answered `ok`.
pub(crate) fn caller(proxy: SocketAddr) -> impl FnMut() -> Result<(), String> {
    let mut wire = Wire::clear(proxy);
    move || {
        let request = "GET http://cart/honest HTTP/1.1\r\nHost: cart\r\n\r\n";
        wire.send(request).map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let piece = wire.piece();
            answer.extend_from_slice(&piece);
            let is_whole =
                answer.windows(4).any(|window| window == b"\r\n\r\n") && !answer.starts_with(b"HTTP/1.1 200");
            if piece.is_empty() || is_whole {
                return Err(format!("{:?}", String::from_utf8_lossy(&answer)));
            }
        }
        Ok(())
    }
}
