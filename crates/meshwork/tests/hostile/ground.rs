//! The mesh under attack: a control plane, web that calls, cart that is called, and what each end of it proves itself with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_core::model::SpiffeId;
use meshwork_identity::{Enrolled, JoinToken, client_config, control_client_config};
use rustls::ClientConfig;
use serde_json::Value;

use crate::support::{Mesh, Run};
use crate::tls;
use crate::wire::Door;

/// What sidecars speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Http1,
    Http2,
}

pub(crate) struct Ground {
    pub(crate) web: Run,
    pub(crate) cart: Run,
    /// After the sidecars, so that they end before what they stand on.
    pub(crate) mesh: Mesh,
}

impl Ground {
    /// cart is the application on that port.
    pub(crate) fn start(between: Between, app_port: u16) -> Self {
        let mesh = Mesh::start();
        let spec = format!("80:{app_port}/http");
        let flags: &[&str] = match between {
            Between::Http1 => &["--no-http2"],
            Between::Http2 => &[],
        };
        let idle = ["sleep", "infinity"];
        let cart = mesh.start_run("cart", "cart", &[flags, &["--port", &spec]].concat(), idle);
        let web = mesh.start_run("web", "web", flags, idle);
        let ground = Self { web, cart, mesh };
        ground.web.eventually("http://cart/ready");
        ground
    }

    /// web's HTTP proxy port, as a program beside it comes.
    pub(crate) fn outbound(&self) -> Door {
        Door { address: self.web.outbound.parse().unwrap(), tls: None }
    }

    /// cart's port of the mesh, with web's certificate.
    pub(crate) fn inbound(&self, alpn: &[u8]) -> Door {
        Door { address: self.inbound_address(), tls: Some(self.as_web(alpn)) }
    }

    pub(crate) fn inbound_address(&self) -> SocketAddr {
        let told = std::fs::read(self.mesh.state_dir("cart").join("run.json")).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        told["inbound"]["80"].as_str().unwrap().parse().unwrap()
    }

    /// What the sidecar of that name proves itself with.
    pub(crate) fn enrolled(&self, name: &str) -> Enrolled {
        Enrolled::load(&self.mesh.state_dir(name)).unwrap().expect("it has joined")
    }

    /// The control plane's door for sidecars, with that one's certificate.
    pub(crate) fn control_as(&self, name: &str) -> Door {
        let own = self.enrolled(name);
        let tls = control_client_config(&own.identity, &own.bundle, &[b"h2"]).unwrap();
        Door { address: self.control_address(), tls: Some(tls) }
    }

    /// The same without one.
    pub(crate) fn control_as_stranger(&self) -> Door {
        Door { address: self.control_address(), tls: Some(tls::anonymous(b"h2")) }
    }

    pub(crate) fn control_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.mesh.port).into()
    }

    /// A join token for a service, with flags of `meshwork token create`.
    pub(crate) fn token(&self, service: &str, flags: &[&str]) -> JoinToken {
        let create = ["token", "create", "--service", service].into_iter().chain(flags.iter().copied());
        let output = self.mesh.operate(create).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// Both planes do what they are for: somebody joins, and is carried.
    #[track_caller]
    pub(crate) fn still_works(&self) {
        let late = self.mesh.start_run("late", "late", &[], ["sleep", "infinity"]);
        late.eventually("http://cart/ready");
        self.web.eventually("http://cart/ready");
    }

    fn as_web(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let web = self.enrolled("web");
        let cart = SpiffeId::new(web.bundle.trust_domain(), "default", "cart").unwrap();
        client_config(&web.identity, &web.bundle, &[cart].into(), &[alpn]).unwrap()
    }
}
