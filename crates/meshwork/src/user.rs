//! The user as whom the command runs (`run --user`): who that is on this machine, and how a process becomes it.
//!
//! Looked up once, before a child exists: whoever mistypes a name reads it at once. The launcher only gets numbers, so
//! nothing that it hides from the command (`launch.rs`) is needed any more.

use std::ffi::CString;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("there is no user {0:?} on this machine; give a name or a number that `getent passwd` lists")]
    Unknown(String),
    #[error("cannot look up the user {name:?}: {source}; is the service that knows this machine's users up?")]
    LookUp { name: String, source: Errno },
    #[error("only root may run the command as another user: run meshwork as root, or without --user")]
    NotRoot,
}

/// What the kernel knows of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Identity {
    /// Becomes that user for good. Groups first: whoever is no longer root may not change them.
    pub(crate) fn assume(&self) -> Result<(), Errno> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(self.gid))?;
        setuid(Uid::from_raw(self.uid))
    }
}

/// A user of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) identity: Identity,
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

impl Account {
    /// By name, or by number.
    pub(crate) fn find(text: &str) -> Result<Self, UserError> {
        if !rustix::process::geteuid().is_root() {
            return Err(UserError::NotRoot);
        }
        let failed = |source| UserError::LookUp { name: text.to_owned(), source };
        let found = match text.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(text),
        };
        let user = found.map_err(failed)?.ok_or_else(|| UserError::Unknown(text.to_owned()))?;
        // The name comes from a C string, so there is no NUL in it.
        let name = CString::new(user.name.as_str()).map_err(|_| UserError::Unknown(text.to_owned()))?;
        let groups = getgrouplist(&name, user.gid).map_err(failed)?;
        let identity = Identity {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        };
        Ok(Self { identity, name: user.name, home: user.dir, shell: user.shell })
    }

    /// What programs read to know who they are: root's home is no place for them.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        vec![
            ("HOME", text(&self.home)),
            ("SHELL", text(&self.shell)),
            ("USER", self.name.clone()),
            ("LOGNAME", self.name.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number_or_named_as_unknown() {
        if !rustix::process::geteuid().is_root() {
            assert!(matches!(Account::find("root"), Err(UserError::NotRoot)));
            return;
        }
        let by_name = Account::find("root").unwrap();
        assert_eq!(by_name.identity, Account::find("0").unwrap().identity);
        assert_eq!((by_name.identity.uid, by_name.identity.gid), (0, 0));
        assert!(by_name.identity.groups.contains(&0));
        for unknown in ["no-such-user", "4294967294", "", "root:root"] {
            assert!(matches!(Account::find(unknown), Err(UserError::Unknown(_))), "{unknown}");
        }
    }
}
