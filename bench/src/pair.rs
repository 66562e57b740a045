//! A topology that runs: both proxies, and how long the outbound one took until it answered.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing as _, Result, fail};
use crate::mesh::Mesh;
use crate::namespaces::Namespaces;
use crate::peers::{Ground, Peer, Side};
use crate::process_files;
use crate::processes::Process;
use crate::target::Target;
use crate::wire::{Capture, Handshake};

pub(crate) struct Pair {
    // Dropped in this order: callers first, so that nobody calls into the void.
    outbound: Process,
    inbound: Process,
    _control: Option<Process>,
    /// From the outbound proxy's start to its first 200.
    pub(crate) start: Duration,
    /// What was seen on the wire between the two meanwhile; ours only.
    pub(crate) handshake: Option<Handshake>,
}

/// How long a proxy may take until its first 200.
const START_WAIT: Duration = Duration::from_secs(20);

/// A proxy that does not answer yet is asked again after so long: fine enough for a start of tens of milliseconds.
const ASK_AGAIN: Duration = Duration::from_micros(500);

/// What any of our requests takes at most.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

impl Pair {
    pub(crate) fn of_peer(
        peer: Peer,
        namespaces: &Namespaces,
        ground: &Ground,
        target: &Target,
    ) -> Result<Self> {
        let mut inbound = peer.start(Side::Inbound, &namespaces.server, ground)?;
        let start_outbound = || peer.start(Side::Outbound, &namespaces.client, ground);
        // Once unmeasured: then the other side is certainly there, and files are in the kernel's memory.
        let (first, _) = first_answer(start_outbound, &mut inbound, namespaces, target)?;
        drop(first);
        let (outbound, start) = first_answer(start_outbound, &mut inbound, namespaces, target)?;
        Ok(Self { outbound, inbound, _control: None, start, handshake: None })
    }

    pub(crate) fn of_mesh(mesh: &Mesh, namespaces: &Namespaces, target: Target) -> Result<Self> {
        let control = mesh.start_control(namespaces)?;
        let mut inbound = mesh.start_sidecar(Side::Inbound, &namespaces.server)?;
        mesh.wait_ready(&mut inbound, &namespaces.server)?;
        mesh.find_virtual_address(&namespaces.client)?;
        let target = &mesh.target(target);
        let start_outbound = || mesh.start_sidecar(Side::Outbound, &namespaces.client);
        let (first, _) = first_answer(start_outbound, &mut inbound, namespaces, target)?;
        drop(first);
        let capture = Capture::start(&namespaces.client)?;
        let (outbound, start) = first_answer(start_outbound, &mut inbound, namespaces, target)?;
        let handshake = Some(capture.finish()?);
        Ok(Self { outbound, inbound, _control: Some(control), start, handshake })
    }

    /// CPU seconds of both proxies so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        process_files::cpu_seconds(&[self.outbound.id(), self.inbound.id()])
    }

    /// Resident MiB of the larger of the two.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let outbound = process_files::resident_mib(self.outbound.id())?;
        let inbound = process_files::resident_mib(self.inbound.id())?;
        Ok(outbound.max(inbound))
    }

    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.outbound.check_alive()?;
        self.inbound.check_alive()
    }
}

/// Starts the outbound proxy and asks until the backend's answer comes through both.
fn first_answer(
    start_outbound: impl FnOnce() -> Result<Process>,
    inbound: &mut Process,
    namespaces: &Namespaces,
    target: &Target,
) -> Result<(Process, Duration)> {
    let begun = Instant::now();
    let mut outbound = start_outbound()?;
    let deadline = begun + START_WAIT;
    let answered = namespaces.client.inside(|| {
        let mut last = String::new();
        while Instant::now() < deadline {
            match status(target) {
                Ok(line) if line.contains(" 200 ") => return Ok(begun.elapsed()),
                Ok(line) => last = line,
                Err(failure) => last = failure.to_string(),
            }
            thread::sleep(ASK_AGAIN);
        }
        fail(format!("no 200 from {} within {START_WAIT:?}; last: {last}", target.address))
    });
    outbound.check_alive()?;
    inbound.check_alive()?;
    Ok((outbound, answered?))
}

/// The first line of an answer.
fn status(target: &Target) -> Result<String> {
    let doing = || format!("asking {}", target.address);
    let mut stream = TcpStream::connect(target.address).doing(doing)?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).doing(doing)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        target.of_path("/128"),
        target.host
    );
    stream.write_all(request.as_bytes()).doing(doing)?;
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    while !text.contains(&b'\n') {
        match stream.read(&mut buffer).doing(doing)? {
            0 => break,
            read => text.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}
