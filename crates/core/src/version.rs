//! A resource's version: a hash of its value, the same in every process, on every machine.
//!
//! Never of encoded bytes (protobuf's maps have no order), and every collection in `resource` is ordered.
//! `#[derive(Hash)]` feeds a hasher of our own, which writes numbers in one byte order and lengths in one
//! width. A toolchain that derives differently changes every version once: then each resource is sent once
//! more, and nothing else happens.

use std::fmt;
use std::hash::{Hash, Hasher};

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

/// A text's hash, the same in every process and every version: addresses are derived from it.
pub(crate) fn hash_of(text: &str) -> u128 {
    let mut hasher = Fnv128::default();
    hasher.write(text.as_bytes());
    hasher.0
}

/// FNV-1a, 128 bits. Chosen for being short and fixed by its definition. It resists no adversary, and need
/// not: whoever can choose a resource's content could as well leave it unchanged.
struct Fnv128(u128);

impl Default for Fnv128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hasher for Fnv128 {
    fn write(&mut self, bytes: &[u8]) {
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }

    // The provided methods write native byte order and width: replaced, each and all.
    fn write_u8(&mut self, i: u8) {
        self.write(&[i]);
    }

    fn write_u16(&mut self, i: u16) {
        self.write(&i.to_le_bytes());
    }

    fn write_u32(&mut self, i: u32) {
        self.write(&i.to_le_bytes());
    }

    fn write_u64(&mut self, i: u64) {
        self.write(&i.to_le_bytes());
    }

    fn write_u128(&mut self, i: u128) {
        self.write(&i.to_le_bytes());
    }

    fn write_usize(&mut self, i: usize) {
        self.write_u64(i as u64);
    }

    fn write_i8(&mut self, i: i8) {
        self.write_u8(i.cast_unsigned());
    }

    fn write_i16(&mut self, i: i16) {
        self.write_u16(i.cast_unsigned());
    }

    fn write_i32(&mut self, i: i32) {
        self.write_u32(i.cast_unsigned());
    }

    fn write_i64(&mut self, i: i64) {
        self.write_u64(i.cast_unsigned());
    }

    fn write_i128(&mut self, i: i128) {
        self.write_u128(i.cast_unsigned());
    }

    fn write_isize(&mut self, i: isize) {
        self.write_i64(i as i64);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::model::{AppProtocol, Key};
    use crate::name::PortName;
    use crate::resource::Listener;
    use std::collections::BTreeSet;

    #[test]
    fn the_hash_is_the_published_one() {
        // From the test vectors of RFC 9923 (FNV-1a, 128 bits): "" and "a".
        assert_eq!(Fnv128::default().0, 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        let mut hasher = Fnv128::default();
        hasher.write(b"a");
        assert_eq!(hasher.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

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
