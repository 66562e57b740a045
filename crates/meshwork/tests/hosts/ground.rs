//! What every other test here stands on: hosts reach each other until they are cut, the recorder sees what they say in
//! clear, and nothing of them is left.

use std::fs;
use std::path::Path;
use std::process::Output;

use meshwork_testkit::hosts::{Host, Hosts, Program};

use crate::support::wait_for;

const MARKER: &str = "said-in-clear-77";

/// A server that says the marker to whoever asks, on both families; it listens.
fn server(host: &Host) -> Program {
    let script = format!(
        "import http.server, socket
class Says(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{MARKER}')
class Both(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
server = Both(('', 80), Says)
print('listens', flush=True)
server.serve_forever()"
    );
    let program = host.start("python3", &["-c", &script]);
    wait_for("the server", || program.log().contains("listens").then_some(()));
    program
}

/// Who gets no answer hears so after this long.
fn curl(from: &Host, url: &str, seconds: &str) -> Output {
    from.output("curl", &["-sS", "-m", seconds, url])
}

#[track_caller]
fn reaches(from: &Host, to: &Host) {
    let mut urls = vec![format!("http://{}/", to.ip())];
    urls.extend(to.ip_v6().map(|ip| format!("http://[{ip}]/")));
    for url in urls {
        let output = curl(from, &url, "20");
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(0), MARKER.as_bytes()),
            "{url}: {output:?}"
        );
    }
}

#[test]
fn hosts_reach_each_other_until_they_are_cut_and_the_recorder_sees_all_of_it() {
    let Some(hosts) = Hosts::start() else { return };
    let [one, two, three] = ["one", "two", "three"].map(|name| hosts.add(name));
    let recorder = hosts.record();
    let _servers = [server(&one), server(&two)];
    reaches(&three, &one);
    reaches(&three, &two);

    hosts.cut(&one, &three);
    let output = curl(&three, &format!("http://{}/", one.ip()), "2");
    assert_eq!(output.status.code(), Some(28), "a cut is silent: {output:?}");
    reaches(&three, &two);
    reaches(&two, &one);
    hosts.heal(&one, &three);
    reaches(&three, &one);

    hosts.vanish(&two);
    let output = curl(&three, &format!("http://{}/", two.ip()), "2");
    assert!(!output.status.success(), "{output:?}");
    hosts.reappear(&two);
    reaches(&three, &two);

    let recorded = recorder.stop(&three, &one);
    assert!(recorded.contains(MARKER.as_bytes()));
    assert_eq!(recorded.tls_streams(), 0);
    let clear = recorded.not_tls();
    assert!(clear.iter().any(|what| what.contains("GET / HTTP/1.1")), "{clear:?}");
}

/// By what the kernel tells of processes: a namespace is gone when nobody is in it.
fn somebody_is_in(namespace: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .into_iter()
        .any(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == namespace))
}

#[test]
fn nothing_of_a_host_is_left() {
    let Some(hosts) = Hosts::start() else { return };
    let host = hosts.add("one");
    // It detaches itself from whoever started it, and makes a cgroup of its own.
    let script = format!(
        "mkdir {0}/inner; echo 0 > {0}/inner/cgroup.procs; setsid sleep 1000 > /dev/null 2>&1 & echo $!",
        host.cgroup().display()
    );
    let before = host.left();
    host.runs("sh", &["-c", &format!("{script} > /run/pid")]);
    let after = host.left();
    assert_ne!(before, after, "what runs there is seen");
    assert_eq!(after.processes.len(), 1, "{after:?}");
    let pid = after.processes[0].split(':').next().unwrap().to_owned();
    let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert!(somebody_is_in(&namespace));
    let (cgroup, directory) = (host.cgroup().to_owned(), hosts.path().to_owned());
    drop(host);
    drop(hosts);
    assert!(!cgroup.exists() && !directory.exists());
    assert!(!somebody_is_in(&namespace));
}
