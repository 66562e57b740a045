//! The other proxies, each with the configuration of `bench/peers`: mutual TLS 1.3 between the two, kept-alive
//! connections everywhere, one worker, no access log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing as _, Result};
use crate::namespaces::{Namespace, SERVER};
use crate::processes::Process;
use crate::template::fill;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    Envoy,
    /// The same behind rules of the kernel.
    EnvoyCaptured,
}

/// Which of the two proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Outbound,
    Inbound,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What all peers need.
pub(crate) struct Ground {
    pub(crate) folder: PathBuf,
    pub(crate) certificates: PathBuf,
    pub(crate) envoy: PathBuf,
}

impl Peer {
    pub(crate) fn start(self, side: Side, namespace: &Namespace, ground: &Ground) -> Result<Process> {
        let config = ground.folder.join(self.config_name(side));
        let text = fill(
            self.template(side),
            &[
                ("folder", &ground.folder.display()),
                ("certificates", &ground.certificates.display()),
                ("server", &SERVER),
            ],
        );
        fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        Process::start(side.name(), namespace, &mut self.command(&config, &ground.envoy), &ground.folder)
    }

    fn command(self, config: &Path, envoy: &Path) -> Command {
        match self {
            Self::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-c").arg(config);
                command
            }
            Self::Haproxy => {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(config);
                command
            }
            Self::Envoy | Self::EnvoyCaptured => {
                let mut command = Command::new(envoy);
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
                command.arg("--config-path").arg(config);
                command
            }
        }
    }

    fn config_name(self, side: Side) -> String {
        match self {
            Self::Nginx => format!("nginx-{}.conf", side.name()),
            Self::Haproxy => format!("haproxy-{}.cfg", side.name()),
            Self::Envoy => format!("envoy-{}.yaml", side.name()),
            Self::EnvoyCaptured => format!("envoy-captured-{}.yaml", side.name()),
        }
    }

    fn template(self, side: Side) -> &'static str {
        match (self, side) {
            (Self::Nginx, Side::Outbound) => include_str!("../peers/nginx-outbound.conf"),
            (Self::Nginx, Side::Inbound) => include_str!("../peers/nginx-inbound.conf"),
            (Self::Haproxy, Side::Outbound) => include_str!("../peers/haproxy-outbound.cfg"),
            (Self::Haproxy, Side::Inbound) => include_str!("../peers/haproxy-inbound.cfg"),
            (Self::Envoy, Side::Outbound) => include_str!("../peers/envoy-outbound.yaml"),
            (Self::Envoy, Side::Inbound) => include_str!("../peers/envoy-inbound.yaml"),
            (Self::EnvoyCaptured, Side::Outbound) => include_str!("../peers/envoy-captured-outbound.yaml"),
            (Self::EnvoyCaptured, Side::Inbound) => include_str!("../peers/envoy-captured-inbound.yaml"),
        }
    }
}
