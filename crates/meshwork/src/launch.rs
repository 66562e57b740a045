//! `meshwork launch`: the last steps before the command, in the command's own process. The supervisor starts it, nobody else.
//!
//! What a process is (its user, its mounts, its cgroup) can only be changed by itself without touching its parent, and
//! between fork and exec nothing may be done that allocates. So our own binary is started in the command's place, changes
//! what has to be changed, and becomes the command: same process ID, same descriptors, same variables.
//!
//! The order matters: what needs root comes before the user; the wish to die with the supervisor comes after, as the
//! kernel forgets it when a process becomes somebody else.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;

use nix::errno::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::capture::probe::Probe;
use crate::cli::LaunchArgs;
use crate::resolver::{Resolver, ResolverError};
use crate::user::Identity;

/// What a shell says of a command that it can't find, or may not start.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("cannot join the cgroup {}: {source}", .path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    #[error("cannot run the command as another user: {0}; does this container let root change users?")]
    User(Errno),
    #[error("cannot tie the command to its supervisor: {0}")]
    Supervisor(rustix::io::Errno),
    #[error("the supervisor is gone")]
    Orphan,
}

/// What to become before the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Launch {
    /// The supervisor's process ID: the command ends with it.
    supervisor: i32,
    /// Joined before anything else: sockets that were opened before are not captured.
    cgroup: Option<PathBuf>,
    resolver: Option<Resolver>,
    user: Option<Identity>,
    /// Instead of a command.
    probe: Option<Probe>,
}

impl Launch {
    /// For a command of this process.
    pub(crate) fn new(cgroup: Option<PathBuf>, resolver: Option<Resolver>, user: Option<Identity>) -> Self {
        Self { supervisor: getpid().as_raw_nonzero().get(), cgroup, resolver, user, probe: None }
    }

    /// Only tries whether what is in the cgroup, or else in this network namespace, is captured.
    pub(crate) fn probe(cgroup: Option<PathBuf>, probe: Probe) -> Self {
        Self { probe: Some(probe), ..Self::new(cgroup, None, None) }
    }

    /// How the supervisor starts it, for a program and its arguments: our own arguments.
    pub(crate) fn args(&self, command: Option<(&OsString, &[OsString])>) -> Vec<OsString> {
        // Numbers and paths: nothing in it that JSON could not hold.
        let text = serde_json::to_string(self).unwrap_or_default();
        let mut all = vec!["launch".into(), text.into()];
        if let Some((program, args)) = command {
            all.extend(["--".into(), program.clone()]);
            all.extend(args.iter().cloned());
        }
        all
    }

    fn prepare(&self) -> Result<(), LaunchError> {
        if let Some(cgroup) = &self.cgroup {
            let joined = fs::write(cgroup.join("cgroup.procs"), "0"); // whoever writes this
            joined.map_err(|source| LaunchError::Cgroup { path: cgroup.clone(), source })?;
        }
        if let Some(resolver) = &self.resolver {
            resolver.impose()?;
        }
        if let Some(user) = &self.user {
            user.assume().map_err(LaunchError::User)?;
        }
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(LaunchError::Supervisor)?;
        // It may have died before the line above: then nobody will send the signal.
        match getppid() {
            Some(parent) if parent.as_raw_nonzero().get() == self.supervisor => Ok(()),
            _ => Err(LaunchError::Orphan),
        }
    }
}

impl FromStr for Launch {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Becomes the command, or says why not.
pub(crate) fn run(args: &LaunchArgs) -> ExitCode {
    if let Err(error) = args.launch.prepare() {
        eprintln!("meshwork: {error}");
        return ExitCode::FAILURE;
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return probe(args.launch.probe.as_ref());
    };
    let error = Command::new(program).args(arguments).exec();
    ExitCode::from(cannot_start(program, &error))
}

fn probe(probe: Option<&Probe>) -> ExitCode {
    let tried = probe.map_or_else(|| Err(io::ErrorKind::InvalidInput.into()), Probe::connect);
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshwork: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says why the command can't be started; the code is a shell's.
pub(crate) fn cannot_start(program: &OsStr, error: &io::Error) -> u8 {
    let found = error.kind() != io::ErrorKind::NotFound && is_somewhere(program);
    let reason = if found { error.to_string() } else { "there is no such program".to_owned() };
    eprintln!("meshwork: cannot start {}: {reason}; give the command's path after `--`", program.display());
    if found { NOT_EXECUTABLE } else { NOT_FOUND }
}

/// For whom a folder of `PATH` is closed, the kernel says that the program is, wherever it would have been.
fn is_somewhere(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_read_as_it_was_written() {
        let launch = Launch::new(None, None, None);
        let args = launch.args(Some((&"env".into(), &["-i".into(), "--".into()])));
        let args: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(args[1].parse::<Launch>().unwrap(), launch);
        assert_eq!((args[0], &args[2..]), ("launch", &["--", "env", "-i", "--"][..]));
        assert!("{}".parse::<Launch>().is_err());
    }

    #[test]
    fn whoever_is_not_the_supervisors_child_becomes_nothing() {
        let error = Launch::new(None, None, None).prepare().unwrap_err();
        assert!(matches!(error, LaunchError::Orphan), "{error}");
    }
}
