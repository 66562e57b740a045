//! An operator on another machine: a login token, then every command as its role allows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::support::{Mesh, meshwork};

/// Somebody on another machine: no state directory, a home of their own.
struct Remote {
    home: PathBuf,
}

impl Remote {
    fn new(mesh: &Mesh, name: &str) -> Self {
        let home = mesh.path().join("homes").join(name);
        fs::create_dir_all(&home).unwrap();
        Self { home }
    }

    fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = meshwork(args);
        command.env("HOME", &self.home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
        command
    }

    #[track_caller]
    fn done<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        done(&self.command(args).output().unwrap())
    }

    #[track_caller]
    fn refused<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        let output = self.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Logs in with a token that the control plane's own operator made.
    fn log_in(&self, mesh: &Mesh, flags: &[&str]) -> String {
        let token = done(&mesh.operate(["login-token", "create"]).args(flags).output().unwrap());
        let file = self.home.join("token");
        fs::write(&file, &token).unwrap();
        let told = self.done(["login", "--token-file", file.to_str().unwrap()]);
        assert!(told.contains(" knows you as login "), "{told}");
        token.trim().to_owned()
    }

    fn login_file(&self) -> PathBuf {
        self.home.join(".config/meshwork/login.json")
    }
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn service(at: &Path, namespace: &str, name: &str) -> String {
    let file = at.join(format!("{name}.yaml"));
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn an_admin_from_afar_does_what_one_on_the_machine_does() {
    let mesh = Mesh::start();
    let alice = Remote::new(&mesh, "alice");
    let token = alice.log_in(&mesh, &["--role", "admin", "--name", "alice"]);
    let mode = fs::metadata(alice.login_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let file = service(&alice.home, "default", "cart");
    assert!(alice.done(["apply", "-f", &file]).contains("created"));
    assert!(alice.done(["get", "services"]).contains("cart"));
    assert!(alice.done(["describe", "service", "cart"]).contains("cart"));
    let status: Value = serde_json::from_str(&alice.done(["status", "-o", "json"])).unwrap();
    assert_eq!(status["services"][0]["name"], "cart", "{status}");
    let checked = alice.command(["check", "-o", "json"]).output().unwrap();
    let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(checked["checked"][0].as_str().unwrap().starts_with("the control plane of mesh"), "{checked}");
    assert!(alice.done(["ca", "status"]).contains("signs"));
    assert!(alice.done(["token", "create", "--service", "cart"]).starts_with("mw1."));
    let backup = alice.home.join("mesh.backup");
    assert!(alice.done(["backup", backup.to_str().unwrap()]).contains("written"));
    assert!(alice.done(["login-token", "list"]).contains("alice"));
    assert!(alice.done(["delete", "service", "cart"]).contains("deleted"));

    // What is written far away stands in the log there, with a name.
    let audit = fs::read_to_string(mesh.path().join("control/audit.log")).unwrap();
    assert!(audit.contains("login alice (admin) from 127.0.0.1:"), "{audit}");
    assert!(!audit.contains(&token), "a token is in the audit log");

    assert!(alice.done(["login-token", "delete", "alice"]).contains("worth nothing"));
    let refused = alice.refused(["get", "services"]);
    assert!(refused.contains("revoked or has expired"), "{refused}");
    alice.done(["logout"]);
    assert!(!alice.login_file().exists());
    assert!(alice.refused(["logout"]).contains("not logged in"));
}

#[test]
fn a_role_ends_where_it_says() {
    let mesh = Mesh::start();
    let shop = Remote::new(&mesh, "shop");
    shop.log_in(&mesh, &["--role", "edit", "--namespace", "shop", "--name", "shop-ci"]);
    let file = service(&shop.home, "shop", "cart");
    shop.done(["apply", "-f", &file]);
    assert!(shop.done(["get", "services", "-n", "shop"]).contains("cart"));
    let refused = shop.refused(["get", "services"]);
    assert!(refused.contains("name that one (--namespace shop)"), "{refused}");
    let refused = shop.refused(["token", "create", "--service", "cart", "-n", "shop"]);
    assert!(
        refused.contains("login shop-ci (edit in shop)") && refused.contains("takes the role admin"),
        "{refused}"
    );

    let viewer = Remote::new(&mesh, "viewer");
    viewer.log_in(&mesh, &["--role", "view"]);
    assert!(viewer.done(["get", "services", "-A"]).contains("cart"));
    for args in [vec!["apply", "-f", &file], vec!["delete", "service", "cart", "-n", "shop"]] {
        assert!(viewer.refused(args).contains("takes the role edit"));
    }
    let backup = viewer.home.join("mesh.backup");
    assert!(viewer.refused(["backup", backup.to_str().unwrap()]).contains("takes the role admin"));
    assert!(!backup.exists());
}

#[test]
fn nothing_is_asked_of_a_stranger() {
    let (mesh, other) = (Mesh::start(), Mesh::start());
    let alice = Remote::new(&mesh, "alice");
    alice.log_in(&mesh, &["--role", "admin", "--name", "alice"]);
    let strange = format!("127.0.0.1:{}", other.port);
    let refused = alice.refused(["get", "services", "--control", &strange]);
    assert!(refused.contains("is not the control plane that made the login token"), "{refused}");
    // Its own address, said once more.
    let own = format!("localhost:{}", mesh.port);
    alice.done(["get", "services", "--control", &own]);
    // It had no way to hear the token: nothing was refused there.
    assert_eq!(other.status()["logins"]["refused"], 0);

    let both =
        alice.command(["get", "services", "--control", &own, "--state-dir", "/nowhere"]).output().unwrap();
    assert!(String::from_utf8_lossy(&both.stderr).contains("leave one out"), "{both:?}");
    let elsewhere = alice.home.join("elsewhere.json");
    let login = elsewhere.to_str().unwrap();
    assert!(alice.refused(["get", "services", "--login", login]).contains("not logged in"));
    fs::rename(alice.login_file(), &elsewhere).unwrap();
    alice.done(["get", "services", "--login", login]);
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(alice.refused(["get", "services", "--login", login]).contains("others may read"));
}
