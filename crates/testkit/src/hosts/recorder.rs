//! Keeps all that crosses the bridge (tcpdump), and is asked for a marker and for what was not TLS.
//!
//! It proves itself: at the end a word is sent in clear, and awaited in the record. As packets are written in order, all
//! before it are there by then.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::held::{Held, wait_for};
use super::host::Host;
use super::packets::{CONTROL_PORT, Packets, read};

/// Sent in clear as a record ends.
const CONTROL: &str = "recorded-in-clear-0b2f";

/// What the kernel keeps for tcpdump, in KiB, while it waits for a processor: seconds of what tests send.
const BUFFER_KIB: &str = "65536";

pub struct Recorder {
    tcpdump: Child,
    file: PathBuf,
}

/// What crossed.
pub struct Recorded {
    bytes: Vec<u8>,
    packets: Packets,
}

impl Recorder {
    pub(super) fn start(fabric: &Held, file: PathBuf) -> Self {
        let log = file.with_extension("log");
        let mut command = Command::new("tcpdump");
        command.args(["-i", "br0", "-n", "-U", "--immediate-mode", "-Z", "root", "-B", BUFFER_KIB, "-w"]);
        let said = fs::File::create(&log).expect("a file for what tcpdump says");
        let tcpdump = fabric.inside(command.arg(&file)).stderr(Stdio::from(said)).spawn();
        let recorder = Self { tcpdump: tcpdump.expect("sh is everywhere"), file };
        wait_for("tcpdump (is it installed?) to listen", || {
            fs::read_to_string(&log).ok().filter(|said| said.contains("listening on"))
        });
        recorder
    }

    /// The end: a word in clear between these two, which must be able to talk, and what crossed until then.
    ///
    /// # Panics
    /// If nothing is recorded.
    pub fn stop(mut self, from: &Host, to: &Host) -> Recorded {
        let script = format!(
            "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'{CONTROL}', ('{}', {CONTROL_PORT}))",
            to.ip()
        );
        from.runs("python3", &["-c", &script]);
        let bytes = wait_for("what is sent in clear to be recorded", || {
            fs::read(&self.file).ok().filter(|bytes| find(bytes, CONTROL.as_bytes()))
        });
        let _ = kill_process(Pid::from_child(&self.tcpdump), Signal::TERM);
        let _ = self.tcpdump.wait();
        let packets = read(&bytes);
        Recorded { bytes, packets }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Recorded {
    /// Whether this was seen by whoever looks at the wires: in a packet, or across packets of a connection.
    pub fn contains(&self, marker: &[u8]) -> bool {
        find(&self.bytes, marker) || self.packets.streams().any(|stream| find(stream, marker))
    }

    /// How many packets crossed.
    pub fn count(&self) -> usize {
        self.packets.count
    }

    /// How many directions of TCP connections carried something that is TLS from its first byte to its last.
    pub fn tls_streams(&self) -> usize {
        self.packets.tls_streams()
    }

    /// What crossed and is neither TLS nor what hosts need to find each other (ARP, neighbours, who is in which group).
    pub fn not_tls(&self) -> Vec<String> {
        self.packets.not_tls()
    }
}

fn find(bytes: &[u8], word: &[u8]) -> bool {
    // By its first byte, as records are of many megabytes.
    let first = word[0];
    bytes.windows(word.len()).any(|window| window[0] == first && window == word)
}
