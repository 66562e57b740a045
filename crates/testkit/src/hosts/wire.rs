//! A wire that is slow and loses frames: a program that passes frames between two interfaces, each after its delay.
//!
//! `tc netem` does the same where the kernel has it, which many do not: this does it on every one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::held::Held;

/// Dropped, nothing passes any more.
pub(super) struct Wire(Child);

impl Wire {
    /// Between these two interfaces of the fabric.
    pub(super) fn start(fabric: &Held, ends: [&str; 2], delay: Duration, lost_per_mille: u32) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("wire.py")]).args(ends);
        command.args([delay.as_secs_f64().to_string(), lost_per_mille.to_string()]);
        let mut program = fabric.inside(&command).stdout(Stdio::piped()).spawn().expect("sh is everywhere");
        let mut line = String::new();
        let said = BufReader::new(program.stdout.take().expect("it is piped")).read_line(&mut line);
        let wire = Self(program);
        assert!(said.is_ok() && line == "ready\n", "the wire between {ends:?} could not be set up");
        wire
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
