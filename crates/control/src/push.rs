//! Resources ready to be sent: compiled, checked and encoded once, for whoever asks.
//!
//! A name determines its bytes, so what was made for one sidecar is what every other gets. A resource is
//! compiled again only when a view changed what concerns it, and encoded again only when its version differs.
//!
//! Before anything is sent to a sidecar it is read back as that would: an ACK proves nothing. What does not come back
//! as it was is not sent, and its last good form stays.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use meshwork_core::compile::{Audience, Unsupported, compile};
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_core::version::version;
use meshwork_xds::codec::EncodedResource;
use meshwork_xds::{convert, type_url};

use crate::view::View;

/// Resources that are remembered. Ten thousand services are 50,000; beyond it everything is forgotten and
/// made again on demand, which costs time and changes nothing.
const MEMO_MAX: usize = 200_000;

#[derive(Default)]
pub(crate) struct Memo(Mutex<HashMap<Asked, Made>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    resource_type: ResourceType,
    name: String,
    /// Of a Listener only, whose name means something in a namespace; the others' names are canonical.
    namespace: String,
    audience: Audience,
}

struct Made {
    /// The view as of which it is.
    view: u64,
    resource: Option<EncodedResource>,
}

impl Memo {
    /// The resource as `view` has it; `None`: there is none of that name.
    pub(crate) fn resource(
        &self,
        view: &View,
        resource_type: ResourceType,
        name: &str,
        namespace: &str,
        audience: Audience,
    ) -> Option<EncodedResource> {
        let scope = if resource_type == ResourceType::Listener { namespace } else { "" };
        let asked = Asked { resource_type, name: name.to_owned(), namespace: scope.to_owned(), audience };
        // Held while compiling: two sidecars that ask for the same name make it once.
        let mut memo = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = memo.get_mut(&asked);
        if let Some(made) = known {
            if made.view == view.number {
                return made.resource.clone();
            }
            let next = made.view + 1 == view.number;
            if next && !view.changed.concerns_for(audience, resource_type, name, namespace) {
                made.view = view.number;
                return made.resource.clone();
            }
        }
        let last = memo.get(&asked);
        let resource = make(view, &asked, namespace, last.and_then(|made| made.resource.as_ref()));
        // A stream that is behind asks for an older view: it must not take the newer one's place.
        if last.is_none_or(|made| made.view < view.number) {
            if memo.len() >= MEMO_MAX {
                memo.clear();
            }
            memo.insert(asked, Made { view: view.number, resource: resource.clone() });
        }
        resource
    }
}

fn make(
    view: &View,
    asked: &Asked,
    namespace: &str,
    last: Option<&EncodedResource>,
) -> Option<EncodedResource> {
    let Asked { resource_type, name, namespace: _, audience } = asked;
    let resource = match compile(&view.mesh, *resource_type, name, namespace, *audience) {
        Ok(resource) => resource?,
        Err(unsupported) => {
            for Unsupported { resource, what } in unsupported {
                tracing::error!(resource, what, "a resource was not sent, its last good form stays");
            }
            return last.cloned();
        }
    };
    if let Some(last) = last.filter(|last| **last.version() == *version(&resource).to_string()) {
        return Some(last.clone());
    }
    match check(&resource, *audience) {
        Ok(()) => Some(convert::encode(&resource, *audience)),
        Err(flaw) => {
            tracing::error!(name, flaw, "a resource was not sent, its last good form stays");
            last.cloned()
        }
    }
}

/// Reads back what would be sent. What others than sidecars are sent is not in our words.
fn check(resource: &Resource, audience: Audience) -> Result<(), String> {
    if !matches!(audience, Audience::Sidecar(_)) {
        return Ok(());
    }
    let bytes = convert::to_wire(resource, audience);
    let url = type_url(convert::resource_type(resource));
    match convert::from_wire(&url, &convert::resource_name(resource), &bytes) {
        Ok(read) if read == *resource => Ok(()),
        Ok(_) => Err("it would be read as something else".to_owned()),
        Err(refused) => Err(format!("it would be refused: {refused}")),
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::compile::Features;
    use meshwork_core::mesh::{Changed, Mesh};
    use meshwork_core::model::{Key, Service, ServicePort, TargetRef, TrafficPolicy};
    use meshwork_core::policy::Traffic;

    use super::*;

    const SIDECAR: Audience = Audience::Sidecar(Features::ALL);

    fn service(name: &str, target_port: u16) -> Service {
        Service {
            key: Key::new("default", name),
            ports: vec![ServicePort { name: None, port: 80, target_port, app_protocol: None }],
            selector: [("app".to_owned(), name.to_owned())].into(),
            headless: false,
            accounts: [name.to_owned()].into(),
            balance: Default::default(),
            cluster_ip: None,
            inbound: Default::default(),
            virtual_address: None,
        }
    }

    fn policy(service: &str) -> TrafficPolicy {
        let mut traffic = Traffic::default();
        traffic.retry.attempts = 0;
        let targets = vec![TargetRef { service: Key::new("default", service), section: None }];
        let key = Key::new("default", format!("of-{service}"));
        TrafficPolicy { key, targets, balance: None, traffic, created: 0 }
    }

    fn next(view: &View, change: impl FnOnce(&mut Mesh)) -> View {
        let mut mesh = view.mesh.clone();
        change(&mut mesh);
        let changed = Changed::between(&view.mesh, &mesh);
        View { number: view.number + 1, revision: 0, mesh, changed }
    }

    #[test]
    fn a_resource_is_encoded_once_until_it_changes() {
        let memo = Memo::default();
        let get = |view: &View| memo.resource(view, ResourceType::Cluster, "default/cart:80", "web", SIDECAR);
        let empty = View { mesh: Mesh::new("m", "mesh.local"), ..View::default() };
        assert_eq!(get(&empty), None);
        let first = next(&empty, |mesh| mesh.put_service(service("cart", 8080)));
        let made = get(&first).unwrap();
        let unrelated = next(&first, |mesh| mesh.put_service(service("web", 8080)));
        // The same shared text, so not made again.
        assert!(std::sync::Arc::ptr_eq(get(&unrelated).unwrap().version(), made.version()));
        let same = next(&unrelated, |mesh| mesh.put_service(service("cart", 9090)));
        assert!(
            std::sync::Arc::ptr_eq(get(&same).unwrap().version(), made.version()),
            "a cluster knows no target"
        );
        let other = next(&same, |mesh| {
            mesh.put_service(Service { accounts: ["a".to_owned()].into(), ..service("cart", 1) })
        });
        assert_ne!(get(&other).unwrap().version(), made.version());
        assert_eq!(get(&first), Some(made), "a stream that is behind gets what it asks for");
        let ours = next(&other, |mesh| mesh.put_policy(policy("cart")));
        assert_ne!(get(&ours).unwrap().version(), get(&other).unwrap().version(), "its policy is part of it");
        let theirs = next(&ours, |mesh| mesh.put_policy(policy("web")));
        assert!(std::sync::Arc::ptr_eq(get(&theirs).unwrap().version(), get(&ours).unwrap().version()));
        let gone = next(&other, |mesh| drop(mesh.remove_service(&Key::new("default", "cart"))));
        assert_eq!(get(&gone), None);
    }

    #[test]
    fn a_listener_means_something_in_its_askers_namespace_only() {
        let memo = Memo::default();
        let view = View { mesh: Mesh::new("m", "mesh.local"), ..View::default() };
        let view = next(&view, |mesh| mesh.put_service(service("cart", 8080)));
        let get = |namespace| memo.resource(&view, ResourceType::Listener, "cart:80", namespace, SIDECAR);
        assert!(get("default").is_some());
        assert!(get("shop").is_none());
    }
}
