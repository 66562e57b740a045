//! `meshwork login` and `logout`: which control plane the operators' commands mean, this machine's or one far away.
//!
//! A login is a file that its owner alone may read: the login token, and where the control plane is. The token names the
//! root that the control plane must prove, so that nothing is asked of a stranger. What the token is worth is the control
//! plane's to say; commands are in `operate.rs`, the way there is in `client.rs`.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use meshwork_identity::{InvalidLogin, LoginToken, private_file};
use serde::{Deserialize, Serialize};

use crate::cli::{LoginArgs, LogoutArgs, Reach};
use crate::client::Client;
use crate::output::{self, cell};
use crate::{BoxError, state_dir, token};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error(
        "no login token: give one with --token-file; an admin makes it with `meshwork login-token create`"
    )]
    NoToken,
    #[error("no place for the login: neither XDG_CONFIG_HOME nor HOME is set; name a file with --login")]
    NoHome,
    #[error("you are not logged in: there is no {}; run `meshwork login --token-file F`", .0.display())]
    Absent(PathBuf),
    #[error("cannot read the login {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the login {}: {source}; name another file with --login", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("others may read the login {}: keep it for yourself (chmod 600), and ask for a new token", .0.display())]
    Open(PathBuf),
    #[error("the login {} is damaged ({detail}); log in again", .path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "both this machine's control plane (--state-dir, MESHWORK_STATE_DIR) and another one (--control, --login, or \
         their variables) are named: leave one out"
    )]
    Both,
    #[error(transparent)]
    Token(#[from] InvalidLogin),
}

/// Where a control plane is: `mesh.example.com:4190`, `10.0.0.5:4190`, `[fd00::5]:4190`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlAddress(String);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no HOST:PORT, for example mesh.example.com:4190")]
pub(crate) struct InvalidAddress(String);

impl FromStr for ControlAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let parts = text.rsplit_once(':');
        let is_good = |(host, port): (&str, &str)| {
            let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b'@';
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let is_host =
                !host.is_empty() && host.bytes().all(printable) && (bracketed || !host.contains(':'));
            is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        match parts.is_some_and(is_good) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    control: String,
    token: String,
}

pub(crate) async fn login(args: &LoginArgs) -> Result<(), BoxError> {
    let text = token::read(args.token.as_deref(), args.token_file.as_deref())?.ok_or(LoginError::NoToken)?;
    let parsed: LoginToken = text.parse().map_err(LoginError::Token)?;
    parsed.check_not_expired(SystemTime::now()).map_err(LoginError::Token)?;
    let control = args.control.as_ref().map_or_else(|| parsed.address.clone(), ControlAddress::to_string);
    let answer = Client::remote(&control, &parsed)?.get("/api/v1/login").await?;
    let path = place(args.login.as_deref())?;
    keep(&path, &Kept { control: control.clone(), token: text })?;
    Ok(output::print(args.output.output, &answer, |answer| {
        let [mesh, who, expires] = ["meshId", "who", "expires"].map(|field| cell(&answer[field]));
        format!("mesh {mesh} at {control} knows you as {who} until {expires}; kept in {}", path.display())
    })?)
}

/// Forgets the token; it stays good until somebody deletes it or it expires.
pub(crate) fn logout(args: &LogoutArgs) -> Result<(), BoxError> {
    let path = place(args.login.as_deref())?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(output::print_text(&format!("{} is gone", path.display()))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LoginError::Absent(path).into()),
        Err(source) => Err(LoginError::Write { path, source }.into()),
    }
}

/// The control plane that a command means.
pub(crate) fn client(reach: &Reach) -> Result<Client, BoxError> {
    let default = place(None).ok().filter(|path| path.exists());
    let named = Named {
        state_dir: reach.state.state_dir.as_deref(),
        is_control_named: reach.control.is_some(),
        login: reach.login.as_deref(),
    };
    let path = match way(&named, default.as_deref())? {
        Way::Here => return Ok(Client::local(&state_dir::control(named.state_dir)?)),
        Way::Login(Some(path)) => path.to_owned(),
        Way::Login(None) => place(None)?,
    };
    let Kept { control, token } = read(&path)?;
    let token: LoginToken = token.parse().map_err(LoginError::Token)?;
    token.check_not_expired(SystemTime::now()).map_err(LoginError::Token)?;
    let control = reach.control.as_ref().map_or(control, ControlAddress::to_string);
    Ok(Client::remote(&control, &token)?)
}

/// What flags and variables name.
struct Named<'n> {
    state_dir: Option<&'n Path>,
    is_control_named: bool,
    login: Option<&'n Path>,
}

#[derive(Debug, PartialEq)]
enum Way<'n> {
    /// The socket of this machine's control plane.
    Here,
    /// This login, or the one in its usual place.
    Login(Option<&'n Path>),
}

/// Who named something means it; else whoever logged in means that, everybody else the control plane of this machine.
/// Two that contradict each other are refused: a write to the wrong mesh is worse than none.
fn way<'n>(named: &Named<'n>, default: Option<&'n Path>) -> Result<Way<'n>, LoginError> {
    let Named { state_dir, is_control_named, login } = *named;
    match (state_dir, is_control_named || login.is_some()) {
        (Some(_), true) => Err(LoginError::Both),
        (Some(_), false) => Ok(Way::Here),
        (None, true) => Ok(Way::Login(login)),
        (None, false) => Ok(default.map_or(Way::Here, |path| Way::Login(Some(path)))),
    }
}

/// `login.json` below `$XDG_CONFIG_HOME/meshwork` or `~/.config/meshwork`.
fn place(given: Option<&Path>) -> Result<PathBuf, LoginError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    Ok(config.ok_or(LoginError::NoHome)?.join("meshwork/login.json"))
}

fn keep(path: &Path, kept: &Kept) -> Result<(), LoginError> {
    let failed = |source| LoginError::Write { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    // Two texts always encode.
    let text = serde_json::to_vec(kept).unwrap_or_default();
    private_file::replace(&path, |file| file.write_all(&text)).map_err(failed)
}

fn read(path: &Path) -> Result<Kept, LoginError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoginError::Absent(path.to_owned()),
        _ => LoginError::Read { path: path.to_owned(), source },
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(LoginError::Open(path.to_owned()));
    }
    let text = fs::read(path).map_err(failed)?;
    // serde's words may hold a piece of the file, which holds a secret.
    let damaged =
        |_| LoginError::Damaged { path: path.to_owned(), detail: "not what was written".to_owned() };
    serde_json::from_slice(&text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_names_a_control_plane_means_it() {
        let [state, file, usual] = ["/state", "/login", "/usual/login.json"].map(Path::new);
        let named = |state_dir, is_control_named, login| Named { state_dir, is_control_named, login };
        let check =
            |named: Named<'static>, default, expect| assert_eq!(way(&named, default).unwrap(), expect);
        check(named(None, false, None), None, Way::Here);
        check(named(None, false, None), Some(usual), Way::Login(Some(usual)));
        check(named(Some(state), false, None), Some(usual), Way::Here);
        check(named(None, false, Some(file)), Some(usual), Way::Login(Some(file)));
        check(named(None, true, None), None, Way::Login(None));
        for both in [named(Some(state), true, None), named(Some(state), false, Some(file))] {
            assert!(matches!(way(&both, None), Err(LoginError::Both)));
        }
    }

    #[test]
    fn a_login_is_kept_for_its_owner_and_refused_once_others_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meshwork/login.json");
        assert!(matches!(read(&path), Err(LoginError::Absent(_))));
        keep(&path, &Kept { control: "a:1".to_owned(), token: "ml1.x".to_owned() }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().token, "ml1.x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(LoginError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, r#"{"control": "a:1", "tokem": "ml1.secret"}"#).unwrap();
        let damaged = read(&path).err().unwrap().to_string();
        assert!(damaged.contains("log in again") && !damaged.contains("secret"), "{damaged}");
    }

    #[test]
    fn a_control_plane_has_a_host_and_a_port() {
        for good in ["mesh.example.com:4190", "10.0.0.5:4190", "[fd00::5]:4190"] {
            assert_eq!(good.parse::<ControlAddress>().unwrap().to_string(), good);
        }
        for bad in ["mesh.example.com", ":4190", "host:0", "fd00::5:4190", "http://a:1", "a b:1", "a:70000"] {
            assert!(bad.parse::<ControlAddress>().is_err(), "{bad}");
        }
    }
}
