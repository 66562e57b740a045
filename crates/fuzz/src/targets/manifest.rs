//! Documents as operators write them.
//!
//! A document is taken or refused alone, by a sentence of bounded length. What is taken means the same once the store has
//! kept it, and once it was printed and applied again. And what is taken can be told: it compiles, and a sidecar
//! reads all of what it is sent of it.

use meshwork_control::fuzzing::documents;
use meshwork_core::compile::{Audience, Features};
use meshwork_core::validate::Declared;
use meshwork_xds::convert::{from_wire, resource_name, resource_type, to_wire};
use meshwork_xds::type_url;

use crate::{Target, shop};

pub(super) const TARGET: Target = Target {
    name: "manifest",
    run,
    seeds: || {
        let texts = shop::EXAMPLES.into_iter().chain([shop::WORKLOADS, ANCHORS]);
        texts.map(|text| text.as_bytes().to_vec()).collect()
    },
    words: &[
        b"apiVersion: v1\n",
        b"kind: Service\n",
        b"kind: TrafficPolicy\n",
        b"\n---\n",
        b"metadata:",
        b"spec:",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"null",
        b"~",
        b"1e9",
        b"0x10",
        b"-1",
        b"4294967296",
        b"18446744073709551616",
        b"10s",
        b"1h",
        b"[",
        b"]",
        b"{",
        b"}",
        b"'",
        b"\"",
        b"|\n",
        b"!!binary ",
        b"\t",
        b"# ",
        b"no",
        b"name: ",
        b"\xef\xbb\xbf",
        b": ",
    ],
};

/// What a small text may not become.
const TOLD_BYTES_MAX: usize = 4 * 1024;

const ANCHORS: &str = "
apiVersion: v1
kind: Service
metadata: &m {name: cart, labels: {a: &v 'x'}}
spec: {selector: {app: *v}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
";

fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = match documents(text) {
        Ok(read) => read,
        Err(told) => return check_told(&told, text),
    };
    let mut mesh = shop::empty();
    let mut declares = false;
    for document in read {
        let taken = match document {
            Ok(taken) => taken,
            Err(told) => {
                assert!(!told.is_empty(), "refused without a word");
                told.iter().for_each(|told| check_told(told, text));
                continue;
            }
        };
        assert_eq!(comparable(taken.stored), Ok(format!("{:?}", timeless(taken.declared.clone()))));
        let mut again = documents(&taken.manifest).expect("JSON is YAML");
        assert_eq!(again.len(), 1);
        let again = again.remove(0).expect("what is printed can be applied");
        assert_eq!((again.declared, &again.manifest), (taken.declared.clone(), &taken.manifest));
        shop::put(&mut mesh, taken.declared);
        declares = true;
    }
    if !declares {
        return;
    }
    for resource in shop::compiled(&mesh) {
        for audience in [shop::AUDIENCE, Audience::Sidecar(Features::default())] {
            let url = type_url(resource_type(&resource));
            let read = from_wire(&url, &resource_name(&resource), &to_wire(&resource, audience));
            match (read, audience == shop::AUDIENCE) {
                (Ok(read), true) => assert_eq!(read, resource, "told as it is"),
                (Ok(_), false) => {}
                (Err(refused), _) => panic!("{resource:?} was taken, and a sidecar refuses it: {refused}"),
            }
        }
    }
}

fn check_told(told: &str, text: &str) {
    assert!(!told.is_empty() && told.len() < TOLD_BYTES_MAX + 8 * text.len(), "{} bytes", told.len());
}

/// The store adds when a route was made, and nothing else.
fn timeless(mut declared: Declared) -> Declared {
    if let Declared::HttpRoute(route) = &mut declared {
        route.created = 0;
    }
    if let Declared::TrafficPolicy(policy) = &mut declared {
        policy.created = 0;
    }
    declared
}

fn comparable(stored: Result<Declared, String>) -> Result<String, String> {
    stored.map(|declared| format!("{:?}", timeless(declared)))
}
