//! A network namespace, mounts and a cgroup that go with the process that made them, however it ends: another process
//! guards them, and clears up once the pipe from its maker is closed.
//!
//! What is started inside is in the cgroup, and so is all that it starts: nothing outlives the guard's last step.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `$1` is the cgroup, `$2` sets up what is inside, `$3` is a directory that goes with it. A cgroup is empty moments after its processes were killed.
const GUARD: &str = r#"
mkdir "$1" || exit 1
(echo 0 > "$1/cgroup.procs" && exec unshare --net --mount --propagation private sh -c "$2" < /dev/null) &
cat > /dev/null
echo 1 > "$1/cgroup.kill"
wait
tries=0
until find "$1" -depth -type d -exec rmdir {} + 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 400 ] || { echo "cannot remove $1" >&2; exit 1; }
    sleep 0.05
done
[ -z "$3" ] || rm -rf "$3""#;

/// `$0` is the cgroup, `$1` a process in the namespaces.
const ENTER: &str =
    r#"echo 0 > "$0/cgroup.procs" && pid=$1 && shift && exec nsenter --target "$pid" --net --mount -- "$@""#;

/// Far above what anything here takes, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Held {
    guard: Child,
    /// Of a process that stays inside.
    pid: u32,
    cgroup: PathBuf,
}

impl Held {
    /// # Panics
    /// If the script fails, or a tool is missing.
    pub(super) fn start(name: &str, setup: &str, directory: Option<&Path>) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let cgroup = own_cgroup().join(format!("mwhost-{}-{number}-{name}", std::process::id()));
        let script = format!("{setup}\necho ready $$\nexec sleep infinity > /dev/null");
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&cgroup)
            .arg(script)
            .arg(directory.unwrap_or_else(|| Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An interrupted terminal ends the test, and the guard has to clear up after it.
            .process_group(0)
            .spawn()
            .expect("sh is everywhere");
        let mut line = String::new();
        let said = BufReader::new(guard.stdout.take().expect("it is piped")).read_line(&mut line);
        let pid = said.ok().and_then(|_| line.strip_prefix("ready ")?.trim().parse().ok());
        // Where it failed nothing is left but the guard, which clears up as this value is dropped.
        let held = Self { guard, pid: pid.unwrap_or(0), cgroup };
        assert!(pid.is_some(), "the host {name} could not be set up (are iproute2 and nftables installed?)");
        held
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The same command, inside: with its arguments and variables, and without what leads to a proxy or configures ours.
    pub(super) fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", ENTER]).arg(&self.cgroup).arg(self.pid.to_string());
        inside.arg(command.get_program()).args(command.get_args());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            if text.starts_with("meshwork_") || text.ends_with("_proxy") {
                inside.env_remove(name);
            }
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(Stdio::null()).process_group(0);
        inside
    }

    /// # Panics
    /// If the program is missing.
    pub(super) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        let output = self.inside(Command::new(program).args(arguments)).output();
        output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
    }

    /// What a program prints that must succeed.
    ///
    /// # Panics
    /// If it fails.
    pub(super) fn runs(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn ip(&self, arguments: &str) {
        self.runs("ip", &arguments.split(' ').collect::<Vec<_>>());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // Where it failed it has said so, and a test that looks for what is left finds it.
        let _ = self.guard.wait();
    }
}

/// The directory of this process's own cgroup, where it may make others.
fn own_cgroup() -> PathBuf {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mounts = read("/proc/self/mountinfo");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup v2 is mounted");
    let fields: Vec<&str> = mount.split(' ').collect();
    let (root, place) = (fields[3], fields[4]);
    let own = read("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Path::new(place).join(own.strip_prefix(root).unwrap_or(own).trim_start_matches('/'))
}

/// Asks until there is an answer: other processes tell of their events only if asked.
#[track_caller]
pub(super) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
