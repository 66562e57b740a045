//! The `meshwork` binary: reads the command line and runs one command.
//!
//! | file | what |
//! |---|---|
//! | `cli.rs`, `cli/`, `settings.rs` | commands and flags; what their texts mean |
//! | `run.rs`, `supervisor/`, `environment.rs` | a command with a sidecar beside it |
//! | `cgroup/` | the cgroup in which a captured command runs |
//! | `launch.rs`, `user.rs`, `resolver.rs` | what the command's own process does before it is the command |
//! | `proxy.rs`, `listeners.rs`, `descriptors.rs` | the sidecar's process: its sockets, bound or inherited |
//! | `service_manager.rs` | systemd: readiness, watchdog, sockets that it holds |
//! | `control.rs` | the control plane's process |
//! | `capture/` | an application's connections led to its sidecar by rules of the kernel |
//! | `operate.rs`, `documents.rs`, `client.rs`, `show.rs`, `output.rs` | what operators ask of a running control plane |
//! | `login.rs` | which control plane they mean: this machine's, or one that they logged in to |
//! | `backup.rs` | a copy of the control plane's store, and back |
//! | `identity.rs` | certificates and bootstrap files for programs without a sidecar |
//! | `check/` | what is wrong with this machine and the mesh, each with its cure |
//! | `demo/` | a small shop under load in a mesh of its own |
//! | `state_dir.rs`, `token.rs`, `log.rs`, `version.rs` | what several commands need |

mod backup;
mod capture;
mod cgroup;
mod check;
mod cli;
mod client;
mod control;
mod demo;
mod descriptors;
mod documents;
mod environment;
mod identity;
mod launch;
mod listeners;
mod log;
mod login;
mod operate;
mod output;
mod proxy;
mod resolver;
mod run;
mod service_manager;
mod settings;
mod show;
mod start_pages;
mod state_dir;
mod supervisor;
mod token;
mod user;
mod version;
mod watch;

use std::error::Error;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{BootstrapCommand, CaCommand, Cli, Command, LoginTokenCommand, TokenCommand};
use crate::log::LogLevel;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type BoxError = Box<dyn Error>;

fn main() -> ExitCode {
    let cli = Cli::parse(); // ends with 2 if the usage is wrong
    if let Command::Launch(args) = &cli.command {
        return launch::run(args); // before there are threads, or a log
    }
    if needs_descriptors(&cli.command) {
        raise_descriptor_limit();
    }
    if let Command::Proxy(_) = cli.command {
        keep_to_small_pages();
    }
    let started = log::start(&cli.log).map_err(BoxError::from).and_then(|level| {
        // One thread: commands wait more than they compute; `control` and `proxy` bring their own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(perform(cli, level))
    });
    started.unwrap_or_else(|error| {
        eprintln!("meshwork: {}", sentence(&*error));
        ExitCode::FAILURE
    })
}

async fn perform(cli: Cli, level: LogLevel) -> Result<ExitCode, BoxError> {
    match cli.command {
        Command::Control(args) => control::run(args).await?,
        Command::Token(TokenCommand::Create(args)) => operate::create_token(&args).await?,
        Command::Login(args) => login::login(&args).await?,
        Command::Logout(args) => login::logout(&args)?,
        Command::LoginToken(LoginTokenCommand::Create(args)) => operate::create_login(&args).await?,
        Command::LoginToken(LoginTokenCommand::List(args)) => operate::logins(&args).await?,
        Command::LoginToken(LoginTokenCommand::Delete(args)) => operate::delete_login(&args).await?,
        Command::Identity(args) => identity::write(&args).await?,
        Command::Bootstrap(BootstrapCommand::Grpc(args)) => identity::bootstrap_grpc(&args)?,
        Command::Bootstrap(BootstrapCommand::Envoy(args)) => identity::bootstrap_envoy(&args)?,
        Command::Backup(args) => backup::backup(&args).await?,
        Command::Restore(args) => backup::restore(&args)?,
        Command::Ca(CaCommand::Rotate(args)) => operate::rotate_root(&args).await?,
        Command::Ca(CaCommand::Status(args)) => operate::authority(&args).await?,
        Command::Proxy(args) => proxy::run(args, level).await?,
        Command::Run(args) => return run::run(args, &cli.log).await,
        Command::Capture(command) => capture::run(&command)?,
        Command::Apply(args) => operate::apply(&args).await?,
        Command::Get(args) => operate::get(&args).await?,
        Command::Delete(args) => operate::delete(&args).await?,
        Command::Drain(args) => operate::drain(&args).await?,
        Command::Describe(args) => operate::describe(&args).await?,
        Command::Status(args) => operate::status(&args).await?,
        Command::Check(args) => return check::run(args).await,
        Command::AcceptStore(args) => operate::accept_store(&args).await?,
        Command::Demo(args) => return demo::run(args).await,
        Command::DemoApp(args) => demo::app(args).await?,
        Command::Launch(args) => return Ok(launch::run(&args)),
        Command::Version(args) => version::print(&args)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "meshwork", &mut script);
            output::print_text(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The error and what caused it, in one line, unless the error itself shows lines of a file.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Who holds a socket for each connection of others. `run` does not, and its command must inherit the limit
/// that was set for it: programs that use select(2) rely on a low one.
fn needs_descriptors(command: &Command) -> bool {
    matches!(command, Command::Control(_) | Command::Proxy(_) | Command::DemoApp(_))
}

/// To the hard limit: a proxied connection takes two descriptors, and the usual soft limit is 1,024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        // Works without, with fewer connections.
        eprintln!("meshwork: cannot raise the limit of open files to {:?}: {error}", limit.maximum);
    }
}

/// Where the kernel gives huge pages to everybody, a sidecar would hold 2 MiB for each few kilobytes that it uses: its
/// memory is spread over many small blocks. Whoever starts other programs must not do this, as they inherit it.
fn keep_to_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // Works without, with more memory.
        eprintln!("meshwork: cannot do without huge pages: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_and_its_causes_are_one_sentence() {
        let error = Outer(std::io::Error::other("no room"));
        assert_eq!(sentence(&error), "cannot start: no room");
    }
}
