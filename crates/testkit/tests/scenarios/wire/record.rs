//! Writes down what processes of an earlier version say: `make record-wire FROM=<commit>`, at each release.
//!
//! A control plane and three sidecars of that version's binary, with a machine in the middle of all of them (`middle.rs`):
//! they join, are renewed, keep their leases, call each other in every way, refuse a resource and are drained.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use meshwork_identity::{Authority, JoinToken};
use meshwork_testkit::{App, Client, bind, eventually};
use meshwork_xds::proto::control_message::Message as Down;
use meshwork_xds::proto::sidecar_message::Message as Up;
use meshwork_xds::proto::{BackendSummary, Certificate, ControlMessage, EnrollRequest, SidecarMessage};
use meshwork_xds::wire::DeltaDiscoveryRequest;
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::frames::calls;
use super::middle::{Heard, Middle, Spoiled};
use super::recording::{By, Conversation, Recording, Said, replace};
use super::{
    ACCOUNTS, ADS, CALLS, ENROL, EXCHANGES, HELLO, ODD, PEERS, RENEW, RETRIES, SESSION, SPOILED,
    SPOILED_FROM, file, recorded,
};

/// The binary to record; unset, nothing is.
const PROGRAM: &str = "MESHWORK_RECORD_WIRE";

/// Whose it is, for the recording's first line.
const COMMIT: &str = "MESHWORK_RECORD_COMMIT";

/// Twenty seconds: long enough to be taken by everybody, short enough to see a renewal.
const CONFIG: &str = "apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  leafTtl: 20s
";

/// A process of the earlier version. Dropped, it is killed.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Earlier {
    program: PathBuf,
    dir: TempDir,
}

impl Earlier {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            if text.starts_with("meshwork_") || text.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(self.dir.path()).env("MESHWORK_STATE_DIR", self.state("control"));
        command
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `None`: it failed.
    async fn operate(&self, args: &[&str]) -> Option<String> {
        let mut command = self.command(args);
        let output = spawn_blocking(move || command.stderr(Stdio::null()).output()).await.unwrap().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    async fn apply(&self, document: &str) {
        let file = self.state("document.yaml");
        std::fs::write(&file, document).unwrap();
        self.operate(&["apply", "-f", file.to_str().unwrap()]).await.expect("it is taken");
    }

    async fn control(&self, listen: &str) -> Process {
        let process = Process(self.command(&["control", "--listen", listen]).spawn().unwrap());
        let answers = async || self.operate(&["get", "services"]).await.is_some();
        eventually("the earlier control plane answers", answers).await;
        process
    }

    /// A sidecar that finds the control plane there.
    async fn sidecar(&self, service: &str, control: SocketAddr, outbound: &str, flags: &[&str]) -> Process {
        let token = self.operate(&["token", "create", "--service", service]).await.expect("a token");
        let token = JoinToken { address: control.to_string(), ..token.parse().unwrap() };
        let mut command = self.command(&["proxy", "--service", service, "--address", "127.0.0.1"]);
        command.args(["--outbound-http", outbound, "--admin", &free()]).args(flags);
        command.env("MESHWORK_TOKEN", token.to_string());
        Process(command.env("MESHWORK_STATE_DIR", self.state(service)).spawn().unwrap())
    }

    /// The key of the mesh: its control plane is not running.
    fn authority(&self) -> Authority {
        const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
        let store = Database::open(self.state("control").join("mesh.redb")).unwrap();
        let values = store.begin_read().unwrap().open_table(VALUES).unwrap();
        let value = values.get("identity/authority").unwrap().expect("it has made one");
        Authority::from_pem(std::str::from_utf8(value.value().1).unwrap()).unwrap()
    }
}

/// A port that nobody has at the moment.
fn free() -> String {
    bind([127, 0, 0, 1].into()).local_addr().unwrap().to_string()
}

/// With a binary to record, it is recorded first.
#[tokio::test]
async fn everything_that_is_said_was_recorded() {
    if let Some(program) = std::env::var_os(PROGRAM) {
        let version = std::env::var(COMMIT).unwrap_or_else(|_| "an unnamed version".to_owned());
        let header = format!("# What processes of {version} said to each other (CONTRIBUTING.md, Releases).");
        for (name, recording) in [CALLS, PEERS].into_iter().zip(record(Path::new(&program)).await) {
            std::fs::write(file(name), format!("{header}\n{recording}")).unwrap();
        }
    }
    let (calls, peers) = (recorded(CALLS), recorded(PEERS));
    for account in ACCOUNTS {
        for about in [ENROL, SESSION, ADS] {
            calls.one(account, "control", about);
        }
    }
    assert!(calls.conversations.iter().any(|one| one.about == RENEW));
    for (client, alpn) in [("web", "h2"), ("plain", "http/1.1"), ("web", "meshwork-tcp/1")] {
        peers.one(client, "cart", alpn);
    }
}

/// What is said with the control plane, and between sidecars.
async fn record(program: &Path) -> [Recording; 2] {
    let earlier = Earlier { program: program.to_owned(), dir: tempfile::tempdir().unwrap() };
    let listen = free();
    drop(earlier.control(&listen).await);
    let middle = Middle::new(earlier.authority());
    let _control = earlier.control(&listen).await;
    earlier.apply(CONFIG).await;
    let control = middle.before_control(listen.parse().unwrap()).await;

    let (app, lines) = (App::http("cart").await, App::tcp_echo().await);
    let http = format!("80:{}/http", app.address().port());
    let tcp = format!("90:{}/tcp", lines.address().port());
    let (web, plain, way) = (free(), free(), free());
    let upstream = format!("cart:90={way}");
    let cart = ["--port", &http, "--port", &tcp, "--label", "tier=back"];
    let _cart = earlier.sidecar("cart", control, &free(), &cart).await;
    until(&middle, "cart", "is registered", |down| matches!(down, Down::Welcome(_))).await;
    let _web = earlier.sidecar("web", control, &web, &["--port", &http, "--upstream", &upstream]).await;
    let _plain = earlier.sidecar("plain", control, &plain, &["--port", &http, "--no-http2"]).await;
    for account in ["web", "plain"] {
        until(&middle, account, "is registered", |down| matches!(down, Down::Welcome(_))).await;
    }
    for proxy in [web, plain] {
        requests(&mut Client::new(proxy.parse().unwrap()), &app).await;
    }
    opaque(&way).await;
    changes(&earlier, &middle).await;

    let mut recordings = assemble(&middle.heard());
    let ports = [("http-port", &app), ("tcp-port", &lines)];
    let ports = ports.map(|(name, app)| (name.to_owned(), app.address().port().to_string()));
    recordings.iter_mut().for_each(|recording| recording.facts.extend(ports.clone()));
    recordings
}

/// Waits until that sidecar was told so.
async fn until(middle: &Middle, account: &str, what: &str, wanted: impl Fn(&Down) -> bool) {
    let heard = async || {
        let said = said(middle, account, SESSION, By::Server);
        let told = said.iter().filter_map(|bytes| ControlMessage::decode(&bytes[..]).unwrap().message);
        told.into_iter().any(|down| wanted(&down))
    };
    eventually(&format!("{account} {what}"), heard).await;
}

/// All messages about it so far.
fn said(middle: &Middle, account: &str, about: &str, by: By) -> Vec<Vec<u8>> {
    let heard =
        middle.heard().into_iter().filter(|heard| heard.client == account && heard.server == "control");
    let calls = heard.flat_map(|heard| calls(&heard.said)).filter(|(path, _)| path == about);
    calls.flat_map(|(_, said)| said).filter(|(who, _)| *who == by).map(|(_, bytes)| bytes).collect()
}

/// What the application of a caller asks: `super::EXCHANGES`.
async fn requests(client: &mut Client, app: &App) {
    for exchange in &EXCHANGES {
        app.answers_with(exchange.status);
        let answer = client.send(exchange.request()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (exchange.status, exchange.body.as_bytes()));
    }
    app.answers_with(200);
}

async fn opaque(way: &str) {
    let mut stream = TcpStream::connect(way).await.unwrap();
    stream.write_all(HELLO).await.unwrap();
    let mut echoed = vec![0; HELLO.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, HELLO);
}

/// Leases and certificates are renewed, web tells of what it tried again, refuses a route, and cart is drained.
async fn changes(earlier: &Earlier, middle: &Middle) {
    let told = |account: &str| -> Vec<Up> {
        let said = said(middle, account, SESSION, By::Client);
        said.iter().filter_map(|bytes| SidecarMessage::decode(&bytes[..]).unwrap().message).collect()
    };
    // As `older_sidecar.rs` expects it shown.
    let all = |one: &BackendSummary| (one.requests, one.retries) == (EXCHANGES.len() as u64, RETRIES);
    let tries = |up: &Up| matches!(up, Up::Summary(summary) if summary.backends.iter().any(all));
    eventually("web tells of its tries", async || told("web").iter().any(tries)).await;
    eventually("cart renews its lease", async || told("cart").iter().any(|up| matches!(up, Up::Renewal(_))))
        .await;
    eventually("a certificate is renewed", async || !said(middle, "cart", RENEW, By::Server).is_empty())
        .await;

    let spoiled = Spoiled { account: "web".to_owned(), these: SPOILED_FROM.into(), with: SPOILED.into() };
    middle.spoil(spoiled);
    earlier.apply(ODD).await;
    let refuses = |bytes: &Vec<u8>| DeltaDiscoveryRequest::decode(&bytes[..]).unwrap().error_detail.is_some();
    eventually("web refuses", async || said(middle, "web", ADS, By::Client).iter().any(refuses)).await;

    let Some(Up::Register(register)) = told("cart").into_iter().next() else { panic!("it registers first") };
    earlier.operate(&["drain", &register.workload]).await.expect("it is drained");
    until(middle, "cart", "has taken its leave", |down| matches!(down, Down::Withdrawn(_))).await;
}

fn assemble(heard: &[Heard]) -> [Recording; 2] {
    let (mut with_control, mut between) = (Recording::default(), Recording::default());
    for Heard { client, server, alpn, said } in heard {
        let conversation = |about: &str, said: &Said| {
            let [client, server, about] = [client, server, about].map(ToString::to_string);
            Conversation { client, server, about, said: said.clone() }
        };
        if server != "control" {
            between.conversations.push(conversation(alpn, said));
            continue;
        }
        for (path, said) in calls(said) {
            let mut conversation = conversation(&path, &said);
            match &*path {
                ENROL => enrolled(&mut conversation, &mut with_control),
                SESSION => registered(&conversation, &mut with_control),
                _ => {}
            }
            with_control.conversations.push(conversation);
        }
    }
    [with_control, between]
}

/// Who had no certificate yet is called as the one that he got says; what he proved himself with is nobody's business.
fn enrolled(conversation: &mut Conversation, recording: &mut Recording) {
    let certificate = Certificate::decode(conversation.of(By::Server)[0]).unwrap();
    let secret = EnrollRequest::decode(conversation.of(By::Client)[0]).unwrap().token_secret;
    let blank: String = certificate.service.chars().cycle().take(secret.len()).collect();
    replace(&mut conversation.said[0].1, secret.as_bytes(), blank.as_bytes());
    recording.facts.insert(format!("secret-of-{}", certificate.service), blank);
    recording.facts.insert("mesh-id".to_owned(), certificate.mesh_id);
    conversation.client = certificate.service;
}

fn registered(conversation: &Conversation, recording: &mut Recording) {
    let first = SidecarMessage::decode(conversation.of(By::Client)[0]).unwrap();
    let Some(Up::Register(register)) = first.message else { panic!("it registers first") };
    for port in register.ports {
        let name = format!("{}-{}", conversation.client, port.service_port);
        recording.facts.insert(name, port.address);
    }
    recording.facts.insert(conversation.client.clone(), register.workload);
}
