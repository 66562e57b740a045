//! What a sidecar keeps on its disk and begins with: the last good config, and who it is.
//!
//! Damage is found or changes nothing; what is read is written and read as the same. A file that has grown says so
//! instead of being taken into memory.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use meshwork_core::model::SpiffeId;
use meshwork_core::version::version;
use meshwork_identity::{Authority, Enrolled, KeyAndCsr, Membership};
use meshwork_proxy::fuzzing::{Kept, read_kept};
use meshwork_xds::session::client::Versioned;

use crate::{Target, shop};

pub(super) const CONFIG: Target = Target {
    name: "kept_config",
    run: config,
    seeds: configs,
    words: &[
        b"meshwork config 1\n",
        b"meshwork config 2\n",
        &[0, 0, 0, 0],
        &[0, 0, 0, 4],
        &[1, 0, 0, 0],
        b"\"wanted\":[",
        b"\"meshId\":\"\"",
        b"{}",
    ],
};

pub(super) const IDENTITY: Target = Target {
    name: "kept_identity",
    run: identity,
    seeds: || vec![identity_file().to_vec()],
    words: &[
        b"-----BEGIN CERTIFICATE-----\\n",
        b"-----END PRIVATE KEY-----\\n",
        b"\\u0000",
        b"\"",
        b"{",
        b"}",
        b"null",
        b"\\n",
        b"A",
    ],
};

/// An even first byte: the checksum that belongs there follows, as nobody guesses one.
fn config(bytes: &[u8]) {
    let Some((first, file)) = bytes.split_first() else { return };
    let file = match first % 2 {
        0 => [file, digest(&SHA256, file).as_ref()].concat(),
        _ => file.to_vec(),
    };
    let kept = match read_kept(&file) {
        Ok(kept) => kept,
        Err(told) => {
            assert!(!told.is_empty() && told.len() < 500 + file.len(), "{told}");
            return;
        }
    };
    assert!((kept.held().len() + kept.refused()) * 4 <= file.len());
    let written = kept.write(shop::AUDIENCE).expect("it was small enough to be read");
    let again = read_kept(&written).expect("what we write is read");
    assert_eq!(again.refused(), 0, "what we write is taken");
    let held = kept.held().iter().map(|held| &held.resource);
    assert!(again.held().iter().map(|held| &held.resource).eq(held));
    // A version is computed anew from the value; whoever wrote another one is asked for the resource again.
    assert!(again.held().iter().all(|held| held.version == version(&held.resource).to_string()));
    // Any damage to what was written is found.
    let at = digest(&SHA256, bytes).as_ref()[..4].iter().fold(0, |at, byte| at * 256 + usize::from(*byte));
    let at = at % written.len();
    let mut damaged = written.clone();
    damaged[at] ^= 1 << (at % 8);
    assert!(read_kept(&damaged).is_err(), "byte {at} of {}", written.len());
    assert!(read_kept(&written[..at]).is_err(), "cut off at {at}");
}

fn identity(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a folder for a moment");
    fs::write(directory.path().join("identity.json"), bytes).expect("a small file");
    let enrolled = match Enrolled::load(directory.path()) {
        Ok(enrolled) => enrolled.expect("the file is there"),
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains("identity.json") && told.len() < 2_000, "{told}");
            assert!(!told.contains("PRIVATE KEY"), "{told}");
            return;
        }
    };
    enrolled.save(directory.path()).expect("room for a small file");
    let again = Enrolled::load(directory.path()).expect("what we write is read").expect("the file is there");
    assert_eq!(again.membership, enrolled.membership);
    assert_eq!(again.bundle, enrolled.bundle);
    assert_eq!(again.identity.chain(), enrolled.identity.chain());
    assert_eq!(again.identity.key().secret_der(), enrolled.identity.key().secret_der());
    assert_eq!(again.bundle.trust_domain(), enrolled.identity.spiffe_id().trust_domain());
    let secret = enrolled.identity.key().secret_der();
    assert!(!format!("{enrolled:?}").as_bytes().windows(secret.len()).any(|part| part == secret));
    if let Some(root) = enrolled.issuing_root() {
        assert!(enrolled.bundle.hashes().contains(&root));
    }
}

fn configs() -> Vec<Vec<u8>> {
    let file = |held: Vec<Versioned>| {
        let whole = Kept::of(held).write(shop::AUDIENCE).expect("a few resources");
        let content = &whole[..whole.len() - SHA256.output_len()];
        [&[0][..], content].concat()
    };
    let held = shop::resources()
        .iter()
        .map(|resource| Versioned { version: version(resource).to_string(), resource: resource.clone() });
    let held: Vec<Versioned> = held.collect();
    let mut seeds: Vec<Vec<u8>> = held.chunks(4).map(|some| file(some.to_vec())).collect();
    seeds.push(file(Vec::new()));
    seeds
}

/// A sidecar's, as enrolling makes it. Its key is a new one in each process: it must not be anybody's.
fn identity_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::create(shop::TRUST_DOMAIN, now).expect("randomness");
        let request = KeyAndCsr::generate().expect("randomness");
        let id = SpiffeId::new(shop::TRUST_DOMAIN, shop::NAMESPACE, "web").expect("an identity");
        let issued = authority
            .issue(&request.csr_der, &id, Duration::from_secs(3_600), now)
            .expect("a request of ours");
        let roots = authority.roots().iter().map(|root| root.to_vec()).collect();
        let membership = Membership {
            mesh_id: shop::MESH_ID.to_owned(),
            service: "web".to_owned(),
            namespace: shop::NAMESPACE.to_owned(),
            control: "control.example:7443".to_owned(),
        };
        let enrolled =
            Enrolled::new(request.key, issued.chain_der, roots, membership).expect("what was signed");
        let directory = tempfile::tempdir().expect("a folder for a moment");
        enrolled.save(directory.path()).expect("room for a small file");
        fs::read(directory.path().join("identity.json")).expect("it was just written")
    })
}
