//! Resources ready to be sent: compiled, checked and encoded once, for whoever asks.
//!
//! A name determines its bytes, so what was made for one sidecar is what every other gets. A resource is
//! compiled again only when a view changed what concerns it, and encoded again only when its version differs.
//!
//! Before anything is sent to a sidecar it is read back as that would: an ACK proves nothing. What does not come back
//! as it was is not sent, and its last good form stays.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use meshwork_core::compile::{Audience, Unsupported, compile};
use meshwork_core::mesh::{Topic, Topics};
use meshwork_core::resource::{Endpoints, Resource, ResourceType};
use meshwork_core::version::version;
use meshwork_xds::codec::EncodedResource;
use meshwork_xds::convert::Patch;
use meshwork_xds::{convert, type_url};

use crate::lock::lock;
use crate::view::View;

/// Resources that are remembered. Ten thousand services are 50,000; beyond it everything is forgotten and
/// made again on demand, which costs time and changes nothing.
const MEMO_MAX: usize = 200_000;

/// Views for which a resource is kept that one of them concerned and nobody has asked for since. Whoever is subscribed
/// asks at once, so nobody is: its workload is gone, or its last caller. Some seconds of a mesh that changes all the time;
/// a stream that is further behind gets it compiled again, and is told in full.
const UNASKED_VIEWS_MAX: u64 = 256;

#[derive(Default)]
pub(crate) struct Memo(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    /// The view that `Fresh` is said of.
    view: u64,
    made: HashMap<Arc<Asked>, Made>,
    /// What was made, by what it is about.
    about: HashMap<Topic, HashSet<Arc<Asked>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Asked {
    resource_type: ResourceType,
    name: String,
    /// Of a Listener only, whose name means something in a namespace; the others' names are canonical.
    namespace: String,
    audience: Audience,
}

struct Made {
    /// The view as of which it was compiled.
    view: u64,
    state: State,
    form: Option<Arc<Form>>,
}

/// What is sent, and what the next version will be held against.
struct Form {
    resource: EncodedResource,
    /// Of endpoints, of which the next version is told by what differs.
    endpoints: Option<Endpoints>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No view since then concerned it.
    Fresh,
    /// One did, the first of them this one; it is compiled again once somebody asks.
    Stale { since: u64 },
}

/// What compiling came to.
enum Compiled {
    /// There is nothing of that name.
    Absent,
    /// `None`: it cannot be sent, and never could.
    There(Option<Arc<Form>>),
}

impl Memo {
    /// What the view changed will be compiled again. To be called before anybody can see the view.
    pub(crate) fn advance(&self, view: &View) {
        let mut entries = lock(&self.0);
        let Entries { view: number, made, about } = &mut *entries;
        *number = view.number;
        let mut look = |asked: &Asked| {
            let Some(made) = made.get_mut(asked) else { return };
            let Asked { resource_type, name, namespace, audience } = asked;
            if view.changed.concerns_for(*audience, *resource_type, name, namespace) {
                made.outdate(view.number);
            }
        };
        match view.changed.topics() {
            Topics::All => made.values_mut().for_each(|made| made.outdate(view.number)),
            Topics::Some(topics) => {
                let concerned = topics.iter().filter_map(|topic| about.get(topic)).flatten();
                concerned.for_each(|asked| look(asked));
            }
        }
        if view.number.is_multiple_of(UNASKED_VIEWS_MAX) {
            entries.forget_unasked();
        }
    }

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
        let mut entries = lock(&self.0);
        let known = entries.made.get(&asked);
        if let Some(made) = known
            && made.state == State::Fresh
            && (made.view..=entries.view).contains(&view.number)
        {
            return made.form.as_ref().map(|form| form.resource.clone());
        }
        let compiled = make(view, &asked, namespace, known.and_then(|made| made.form.as_ref()));
        // Whoever is behind asks for an older view: it must not take the newer one's place.
        let is_newest = view.number == entries.view;
        match compiled {
            Compiled::There(form) => {
                let resource = form.as_ref().map(|form| form.resource.clone());
                if is_newest {
                    entries.keep(asked, Made { view: view.number, state: State::Fresh, form });
                }
                resource
            }
            Compiled::Absent => {
                // Not remembered: anybody may ask for any name, and to find none takes a look-up.
                if is_newest {
                    entries.forget(&asked);
                }
                None
            }
        }
    }
}

impl Entries {
    fn keep(&mut self, asked: Asked, made: Made) {
        if let Some(known) = self.made.get_mut(&asked) {
            *known = made;
            return;
        }
        if self.made.len() >= MEMO_MAX {
            self.made.clear();
            self.about.clear();
        }
        let asked = Arc::new(asked);
        for topic in asked.topics() {
            self.about.entry(topic).or_default().insert(Arc::clone(&asked));
        }
        self.made.insert(asked, made);
    }

    fn forget(&mut self, asked: &Asked) {
        if self.made.remove(asked).is_none() {
            return;
        }
        for topic in asked.topics() {
            let Some(about) = self.about.get_mut(&topic) else { continue };
            about.remove(asked);
            if about.is_empty() {
                self.about.remove(&topic);
            }
        }
    }

    fn forget_unasked(&mut self) {
        let oldest = self.view.saturating_sub(UNASKED_VIEWS_MAX);
        let is_unasked = |made: &Made| match made.state {
            State::Fresh => false,
            State::Stale { since } => since <= oldest,
        };
        let unasked: Vec<Arc<Asked>> = self
            .made
            .iter()
            .filter(|(_, made)| is_unasked(made))
            .map(|(asked, _)| Arc::clone(asked))
            .collect();
        unasked.iter().for_each(|asked| self.forget(asked));
    }
}

impl Asked {
    fn topics(&self) -> Vec<Topic> {
        Topic::of(self.audience, self.resource_type, &self.name, &self.namespace)
    }
}

impl Made {
    fn outdate(&mut self, view: u64) {
        if self.state == State::Fresh {
            self.state = State::Stale { since: view };
        }
    }
}

fn make(view: &View, asked: &Asked, namespace: &str, last: Option<&Arc<Form>>) -> Compiled {
    let Asked { resource_type, name, namespace: _, audience } = asked;
    match compile(&view.mesh, *resource_type, name, namespace, *audience) {
        Ok(None) => Compiled::Absent,
        Ok(Some(resource)) => Compiled::There(form(resource, name, *audience, last)),
        Err(unsupported) => {
            for Unsupported { resource, what } in unsupported {
                tracing::error!(resource, what, "a resource was not sent, its last good form stays");
            }
            Compiled::There(last.cloned())
        }
    }
}

fn form(resource: Resource, name: &str, audience: Audience, last: Option<&Arc<Form>>) -> Option<Arc<Form>> {
    if let Some(last) = last.filter(|last| **last.resource.version() == *version(&resource).to_string()) {
        return Some(Arc::clone(last));
    }
    if let Err(flaw) = check(&resource, audience) {
        tracing::error!(name, flaw, "a resource was not sent, its last good form stays");
        return last.cloned();
    }
    let encoded = convert::encode(&resource, audience);
    Some(Arc::new(match resource {
        Resource::Endpoints(endpoints) => {
            let resource = with_patch(encoded, name, last, &endpoints, audience);
            Form { resource, endpoints: Some(endpoints) }
        }
        Resource::Listener(_)
        | Resource::Route(_)
        | Resource::Cluster(_)
        | Resource::Inbound(_)
        | Resource::MeshSettings(_)
        | Resource::TrustBundle(_)
        | Resource::NameTable(_) => Form { resource: encoded, endpoints: None },
    }))
}

/// Whoever has the last version is told what differs, if that leads to the same.
fn with_patch(
    encoded: EncodedResource,
    name: &str,
    last: Option<&Arc<Form>>,
    endpoints: &Endpoints,
    audience: Audience,
) -> EncodedResource {
    let Some((last, old)) = last.and_then(|last| Some((last, last.endpoints.as_ref()?))) else {
        return encoded;
    };
    let base = last.resource.version();
    let Some(patch) = convert::patch(old, base, endpoints, audience) else { return encoded };
    match Patch::read(&patch).and_then(|patch| patch.apply(old)) {
        Ok(whole) if whole == *endpoints => encoded.with_patch(name, base, patch),
        Ok(_) | Err(_) => {
            tracing::error!(
                name,
                "a change of endpoints does not lead to what they are, and is told in full"
            );
            encoded
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

    fn next(memo: &Memo, view: &View, change: impl FnOnce(&mut Mesh)) -> View {
        let mut mesh = view.mesh.clone();
        change(&mut mesh);
        let changed = Arc::new(Changed::between(&view.mesh, &mesh));
        let next = View { number: view.number + 1, revision: 0, mesh, changed };
        memo.advance(&next);
        next
    }

    #[test]
    fn a_resource_is_encoded_once_until_it_changes() {
        let memo = Memo::default();
        let get = |view: &View| memo.resource(view, ResourceType::Cluster, "default/cart:80", "web", SIDECAR);
        let empty = View { mesh: Mesh::new("m", "mesh.local"), ..View::default() };
        assert_eq!(get(&empty), None);
        let first = next(&memo, &empty, |mesh| mesh.put_service(service("cart", 8080)));
        let made = get(&first).unwrap();
        let unrelated = next(&memo, &first, |mesh| mesh.put_service(service("web", 8080)));
        // The same shared text, so not made again.
        assert!(Arc::ptr_eq(get(&unrelated).unwrap().version(), made.version()));
        let same = next(&memo, &unrelated, |mesh| mesh.put_service(service("cart", 9090)));
        assert!(Arc::ptr_eq(get(&same).unwrap().version(), made.version()), "a cluster knows no target");
        let other = next(&memo, &same, |mesh| {
            mesh.put_service(Service { accounts: ["a".to_owned()].into(), ..service("cart", 1) })
        });
        assert_ne!(get(&other).unwrap().version(), made.version());
        assert_eq!(get(&first), Some(made), "a stream that is behind gets what it asks for");
        let ours = next(&memo, &other, |mesh| mesh.put_policy(policy("cart")));
        assert_ne!(get(&ours).unwrap().version(), get(&other).unwrap().version(), "its policy is part of it");
        let theirs = next(&memo, &ours, |mesh| mesh.put_policy(policy("web")));
        assert!(Arc::ptr_eq(get(&theirs).unwrap().version(), get(&ours).unwrap().version()));
        let gone = next(&memo, &other, |mesh| drop(mesh.remove_service(&Key::new("default", "cart"))));
        assert_eq!(get(&gone), None);
    }

    #[test]
    fn what_is_gone_or_nobody_asks_for_is_forgotten() {
        let memo = Memo::default();
        let remembered = || {
            let entries = lock(&memo.0);
            let about: usize = entries.about.values().map(HashSet::len).sum();
            assert_eq!(about, entries.made.len(), "each of a service is about that");
            entries.made.len()
        };
        let get = |view: &View, name: &str| {
            memo.resource(view, ResourceType::Cluster, &format!("default/{name}:80"), "web", SIDECAR)
        };
        let gone = |mesh: &mut Mesh, name: &str| drop(mesh.remove_service(&Key::new("default", name)));
        let empty = View { mesh: Mesh::new("m", "mesh.local"), ..View::default() };
        assert_eq!((get(&empty, "nobody"), remembered()), (None, 0));
        let mut view = next(&memo, &empty, |mesh| {
            ["cart", "left", "kept"].iter().for_each(|name| mesh.put_service(service(name, 8080)));
        });
        assert!(["cart", "left", "kept"].iter().all(|name| get(&view, name).is_some()));
        view = next(&memo, &view, |mesh| ["cart", "left"].iter().for_each(|name| gone(mesh, name)));
        assert_eq!((get(&view, "cart"), remembered()), (None, 2));
        // Of `left` nobody wants to know any more.
        for number in view.number..=2 * UNASKED_VIEWS_MAX {
            let port = 8_000 + number as u16;
            view = next(&memo, &view, |mesh| mesh.put_service(service("other", port)));
            assert!(get(&view, "other").is_some());
        }
        assert_eq!(remembered(), 2, "what no change concerned stays, and what is asked for");
        assert!(lock(&memo.0).made.keys().all(|asked| !asked.name.contains("left")));
    }

    #[test]
    fn a_listener_means_something_in_its_askers_namespace_only() {
        let memo = Memo::default();
        let view = View { mesh: Mesh::new("m", "mesh.local"), ..View::default() };
        let view = next(&memo, &view, |mesh| mesh.put_service(service("cart", 8080)));
        let get = |namespace| memo.resource(&view, ResourceType::Listener, "cart:80", namespace, SIDECAR);
        assert!(get("default").is_some());
        assert!(get("shop").is_none());
    }
}
