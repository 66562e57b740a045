//! A resource's version: a hash of its value, the same in every process, on every machine.
//!
//! Never of encoded bytes (protobuf's maps have no order), and every collection in `resource` is ordered.
//! `#[derive(Hash)]` feeds a hasher of our own, which writes numbers in one byte order and lengths in one
//! width. A toolchain that derives differently changes every version once: then each resource is sent once
//! more, and nothing else happens.

use std::fmt;
use std::hash::Hash as _;

use crate::fnv::Fnv128;
use crate::resource::Resource;

/// Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u128);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

pub fn version(resource: &Resource) -> Version {
    let mut hasher = Fnv128::default();
    resource.hash(&mut hasher);
    Version(hasher.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::model::{AppProtocol, Key};
    use crate::name::PortName;
    use crate::resource::Listener;
    use std::collections::BTreeSet;

    fn listener(name: &str, port: u16, hint: Option<AppProtocol>) -> Resource {
        let target = PortName::new(Key::new("default", "cart"), port);
        Resource::Listener(Listener { name: name.to_owned(), target, hint, address: None })
    }

    #[test]
    fn every_field_counts() {
        let versions = [
            listener("cart:80", 80, None),
            listener("cart:81", 80, None),
            listener("cart:80", 81, None),
            listener("cart:80", 80, Some(AppProtocol::Http)),
        ];
        let versions: BTreeSet<_> = versions.iter().map(version).collect();
        assert_eq!(versions.len(), 4);
    }

    /// The versions of everything in a generated mesh, one a line.
    fn versions_of_a_mesh() -> String {
        let mesh = fixture::random_mesh(42);
        let mut lines = String::new();
        for (resource_type, name, asker) in fixture::all_names(&mesh) {
            if let Some(resource) = fixture::compile(&mesh, resource_type, &name, &asker) {
                lines += &format!("version {resource_type:?} {name} {asker} {}\n", version(&resource));
            }
        }
        lines
    }

    const PRINT: &str = "MESHWORK_TEST_PRINT_VERSIONS";

    /// Scenario 6 of the issue Carry. The mesh is filled in the order of a `HashMap`, which differs from
    /// process to process, so that an order which reaches a version shows.
    #[test]
    #[allow(clippy::disallowed_methods)] // a test may tell by the environment that it is the spawned one
    fn the_same_model_has_the_same_versions_in_every_process() {
        if std::env::var_os(PRINT).is_some() {
            println!("{}", versions_of_a_mesh());
            return;
        }
        let spawn = || {
            let name = "version::tests::the_same_model_has_the_same_versions_in_every_process";
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            let output = command.args([name, "--exact", "--nocapture"]).env(PRINT, "1").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            // The test runner's own lines hold times.
            let printed = text.lines().filter_map(|line| Some(line.split_once("version ")?.1.to_owned()));
            printed.collect::<Vec<_>>()
        };
        let (one, other) = (spawn(), spawn());
        assert!(one.len() > 50, "{one:?}");
        assert_eq!(one, other);
        let here = versions_of_a_mesh();
        let here: Vec<_> = here.lines().filter_map(|line| line.strip_prefix("version ")).collect();
        assert_eq!(one, here);
    }
}
