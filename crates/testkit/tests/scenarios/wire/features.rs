//! What sidecars announce that they can (`node.client_features`): each feature with it and without it, as a control plane of this
//! version tells whoever asks. Who lacks one is told what was told before there was such a feature; a name that nobody here
//! knows changes nothing.

use std::collections::BTreeSet;

use meshwork_core::compile::Features;
use meshwork_core::model::{Balance, Transport, Unknown};
use meshwork_core::resource::{Resource, ResourceType};
use meshwork_identity::Enrolled;
use meshwork_testkit::{Mesh, workload};
use meshwork_xds::convert::{Reference, from_wire, patch_type_url};
use meshwork_xds::session::DEPENDENTS;
use meshwork_xds::wire::core::Node;
use meshwork_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use meshwork_xds::{resource_type, type_url};
use prost::Message as _;

use super::ADS;
use super::raw::Call;
use crate::ads::{channel, enrolled};

/// Of a version that is not written yet.
const OF_TOMORROW: &str = "meshwork.of-tomorrow";

const CART: &str = "default/cart:80";

/// Everything that one of the features is about.
const MESH: &str = "apiVersion: v1
kind: Service
metadata:
  name: cart
spec:
  selector:
    app: cart
  ports:
  - port: 80
    targetPort: 8080
---
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: cart
spec:
  targetRefs:
  - group: \"\"
    kind: Service
    name: cart
  timeouts:
    request: 10s
  loadBalancer:
    type: leastRequest
---
apiVersion: meshwork.dev/v1alpha1
kind: MeshConfig
metadata:
  name: default
spec:
  outbound:
    unknown: deny
";

/// One of cart's endpoints: in few bytes it can't be told what changed of it.
fn instance(number: u8, weight: u32) -> String {
    format!(
        "---
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata:
  name: cart-{number}
  labels:
    app: cart
spec:
  address: 127.0.0.{number}
  serviceAccount: cart
  weight: {weight}
  ports:
  - port: 8080
    servicePort: 80
    address: 127.0.0.{number}:15443
    transports: [mtls-http2, mtls-http1]
"
    )
}

/// What an asker was told, as far as features are about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// Of an endpoint.
    http2: bool,
    /// The service's own time-out.
    traffic: bool,
    /// What becomes of captured connections that nobody claims.
    capture: bool,
    /// The service's own way to balance.
    balance: bool,
    /// What changed of the endpoints, and not all of them.
    patches: bool,
    /// Whatever the Listener leads to, without being asked.
    dependents: bool,
}

impl Told {
    /// The one that goes with that feature. A new feature needs a field, and what shows it.
    fn by(&mut self, feature: &str) -> &mut bool {
        match feature {
            "meshwork.http2" => &mut self.http2,
            "meshwork.traffic" => &mut self.traffic,
            "meshwork.capture" => &mut self.capture,
            "meshwork.balance" => &mut self.balance,
            "meshwork.patches" => &mut self.patches,
            DEPENDENTS => &mut self.dependents,
            other => panic!("{other} has no test with it and without it"),
        }
    }

    fn note(&mut self, resource: Resource) {
        match resource {
            Resource::Endpoints(endpoints) => {
                let transports = &endpoints.endpoints.first().expect("cart has instances").transports;
                self.http2 = transports.contains(&Transport::MtlsHttp2);
                assert!(transports.contains(&Transport::MtlsHttp1), "what everybody speaks");
            }
            Resource::Cluster(cluster) => {
                self.traffic = cluster.traffic.timeouts.request.is_some();
                self.balance = cluster.balance == Balance::LeastRequest;
            }
            Resource::MeshSettings(settings) => self.capture = settings.unknown.default == Unknown::Deny,
            Resource::Listener(_)
            | Resource::Route(_)
            | Resource::Inbound(_)
            | Resource::TrustBundle(_)
            | Resource::NameTable(_) => {}
        }
    }
}

/// An asker with a stream of its own.
struct Asker {
    call: Call,
    told: Told,
    have: BTreeSet<Reference>,
}

impl Asker {
    async fn start(own: &Enrolled, features: &BTreeSet<&str>) -> Self {
        let node = Node {
            id: "default/web-1".to_owned(),
            client_features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            user_agent_name: "meshwork".to_owned(),
            ..Node::default()
        };
        let settings = type_url(ResourceType::MeshSettings);
        let first = DeltaDiscoveryRequest { node: Some(node), ..subscription(&settings, "default") };
        let call = Call::open(channel(own).await, ADS, &first.encode_to_vec()).await;
        let mut asker = Self { call, told: Told::default(), have: BTreeSet::new() };
        asker.until(&[(ResourceType::MeshSettings, "default")]).await;
        asker.ask(ResourceType::Listener, "cart:80").await;
        asker.until(&[(ResourceType::Listener, "cart:80")]).await;
        asker.settle("nobody:80").await;
        let leads_to = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Route];
        asker.told.dependents = leads_to.iter().all(|one| asker.have.contains(&Reference::new(*one, CART)));
        for resource_type in leads_to {
            asker.ask(resource_type, CART).await;
        }
        asker.until(&leads_to.map(|one| (one, CART))).await;
        asker.settle("nobody-else:80").await;
        asker
    }

    /// Everything that was said before was heard, by either end: a name that is not there is answered in its turn.
    async fn settle(&mut self, nobody: &str) {
        self.ask(ResourceType::Listener, nobody).await;
        self.until(&[(ResourceType::Listener, nobody)]).await;
    }

    async fn ask(&self, resource_type: ResourceType, name: &str) {
        self.call.say(&subscription(&type_url(resource_type), name).encode_to_vec()).await;
    }

    /// Takes what comes, until it was told of all these.
    async fn until(&mut self, wanted: &[(ResourceType, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(one, name)| Reference::new(*one, *name)).collect();
        while !wanted.iter().all(|one| self.have.contains(one)) {
            self.next().await;
        }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = DeltaDiscoveryResponse::decode(&self.call.hear("a response").await[..]).unwrap();
        let of_type = resource_type(&response.type_url).unwrap();
        for resource in &response.resources {
            let any = resource.resource.as_ref().unwrap();
            if any.type_url == patch_type_url() {
                self.told.patches = true;
            } else {
                self.told.note(from_wire(&any.type_url, &resource.name, &any.value).unwrap());
            }
            self.have.insert(Reference::new(of_type, &*resource.name));
        }
        self.have.extend(response.removed_resources.iter().map(|name| Reference::new(of_type, &**name)));
        let taken = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.call.say(&taken.encode_to_vec()).await;
        response
    }
}

fn subscription(type_url: &str, name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    }
}

#[tokio::test]
async fn each_feature_makes_its_difference_and_an_unknown_one_none() {
    let mesh = Mesh::builder().with(workload("web")).start().await;
    let instances: String = (1..=8).map(|number| instance(number, 1)).collect();
    mesh.apply(&format!("{MESH}{instances}")).await;
    let own = enrolled(mesh.sidecar("web"));
    let all: BTreeSet<&str> = Features::ALL.names().chain([DEPENDENTS]).collect();
    let with = |more: &'static str| all.iter().copied().chain([more]).collect::<BTreeSet<_>>();
    let without = |feature: &str| all.iter().copied().filter(|one| *one != feature).collect::<BTreeSet<_>>();
    let mut whole = Told::default();
    all.iter().for_each(|feature| *whole.by(feature) = true);

    let mut cases = vec![(all.clone(), whole.clone()), (with(OF_TOMORROW), whole.clone())];
    cases.push((BTreeSet::from([OF_TOMORROW]), Told::default()));
    for feature in &all {
        let mut told = whole.clone();
        *told.by(feature) = false;
        // A policy says it here, and who knows of no policies is told nothing of them.
        told.balance &= told.traffic;
        cases.push((without(feature), told));
    }
    let mut askers = Vec::new();
    for (features, _) in &cases {
        askers.push(Asker::start(&own, features).await);
    }
    mesh.apply(&instance(3, 2)).await;
    for (mut asker, (features, expected)) in askers.into_iter().zip(cases) {
        while !asker.next().await.type_url.ends_with("ClusterLoadAssignment") {}
        assert_eq!(asker.told, expected, "announced: {features:?}");
    }
}
