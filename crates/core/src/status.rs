//! What is amiss among documents that are each right: a backend that does not exist, a workload that no
//! service selects. Warnings for `describe` and `apply`; they never refuse, since what is missing may come.
//!
//! Pure: an output of one version of the mesh.

use std::fmt;

use crate::mesh::{Mesh, may_serve, port_behind, selects};
use crate::model::{HttpRoute, Key, Service, TargetRef, TrafficPolicy, Workload};
use crate::validate::Problem;

/// Parents and backends that do not exist, as services or as ports.
pub fn of_route(mesh: &Mesh, route: &HttpRoute) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, parent) in route.parents.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        problems.extend(missing(
            mesh,
            &path,
            &parent.service,
            parent.port,
            "the route takes no requests from it",
        ));
    }
    for (rule_index, rule) in route.rules.iter().enumerate() {
        if rule.backends.iter().all(|backend| backend.weight == 0) {
            problems.push(Problem {
                path: format!("spec.rules[{rule_index}].backendRefs"),
                message: "no backend has a weight, so the rule's requests are answered 500 `no_backend`"
                    .to_owned(),
                cure: "name a backend with a weight above 0".to_owned(),
            });
        }
        for (index, backend) in rule.backends.iter().enumerate() {
            let path = format!("spec.rules[{rule_index}].backendRefs[{index}]");
            let effect = "its share of requests is answered 500 `no_backend`";
            problems.extend(missing(mesh, &path, &backend.service, Some(backend.port), effect));
        }
    }
    problems
}

fn missing(mesh: &Mesh, path: &str, service: &Key, port: Option<u16>, effect: &str) -> Option<Problem> {
    let Some(found) = mesh.service(service) else {
        return Some(Problem {
            path: format!("{path}.name"),
            message: format!("there is no Service {service}: {effect}"),
            cure: "apply that Service, or correct name and namespace".to_owned(),
        });
    };
    let port = port.filter(|port| found.ports.iter().all(|known| known.port != *port))?;
    let known: Vec<_> = found.ports.iter().map(|port| port.port.to_string()).collect();
    Some(Problem {
        path: format!("{path}.port"),
        message: format!("the Service {service} has no port {port}: {effect}"),
        cure: format!("use one of its ports: {}", known.join(", ")),
    })
}

/// No address of its own, nobody behind it, or workloads that are selected and yet no endpoints.
pub fn of_service(mesh: &Mesh, service: &Service) -> Vec<Problem> {
    let mut problems = of_addresses(mesh, service);
    problems.extend(of_workloads(mesh, service));
    problems
}

fn of_addresses(mesh: &Mesh, service: &Service) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let (None, Some(ranges)) = (service.virtual_address, mesh.virtual_ranges()) {
        problems.push(problem(
            "metadata.name",
            format!(
                "every address of {} is taken or rests for a day after its service, so the name resolves to none; \
                 by explicit proxy or local port the service is reached",
                ranges.v4()
            ),
            "start the control plane with a larger --virtual-range, or delete services: within the hour it gets one",
        ));
    }
    let holder = service.cluster_ip.and_then(|address| mesh.service_at(address));
    if let Some(holder) = holder.filter(|holder| holder.key != service.key) {
        problems.push(problem(
            "spec.clusterIP",
            format!(
                "the Service {} has the same address, and whoever connects to it reaches that one",
                holder.key
            ),
            "give each service its own",
        ));
    }
    problems
}

fn of_workloads(mesh: &Mesh, service: &Service) -> Vec<Problem> {
    if mesh.selected_by(service).next().is_none() {
        let (message, cure) = if service.selector.is_empty() {
            ("the selector is empty, so no workload is an endpoint", "give labels that the workloads carry")
        } else {
            ("no workload carries the labels of the selector", "start one, or correct selector or labels")
        };
        return vec![problem("spec.selector", message.to_owned(), cure)];
    }
    let selected = mesh.selected_by(service);
    selected.flat_map(|workload| no_endpoint(service, workload)).collect()
}

/// Why a selected workload is no endpoint of some port.
fn no_endpoint(service: &Service, workload: &Workload) -> Vec<Problem> {
    let name = &workload.key.name;
    let mut problems = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        match port_behind(port, workload) {
            None => problems.push(problem(
                &format!("spec.ports[{index}].targetPort"),
                format!("the workload {name} is selected, but has no port {}", port.target_port),
                "correct targetPort, or the ports of the workload (`--port`)",
            )),
            Some(found) if !may_serve(service, workload, found) => problems.push(problem(
                "metadata.annotations[\"meshwork.dev/accounts\"]",
                format!(
                    "the workload {name} is selected, but runs under the account {:?}, which may not serve this \
                     service",
                    workload.account
                ),
                "add the account to the annotation if it may, or correct the workload's labels",
            )),
            Some(_) => {}
        }
    }
    problems
}

/// A workload that is no service's. Whoever has no ports only calls, and nobody has to reach it.
pub fn of_workload(mesh: &Mesh, workload: &Workload) -> Vec<Problem> {
    let selected = workload.ports.is_empty()
        || mesh.services_in(&workload.key.namespace).any(|service| selects(service, workload));
    let message = "no service selects the workload, so nothing reaches it by name";
    let none =
        || problem("metadata.labels", message.to_owned(), "correct its labels, or apply a Service for it");
    (!selected).then(none).into_iter().collect()
}

/// What became of one target of a policy (the reasons of Gateway API's condition `Accepted`, GEP-713).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Accepted,
    /// Another policy is older, or goes first by its name.
    Conflicted {
        with: Key,
    },
    /// There is no such Service, or no port of that name.
    TargetNotFound,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str("the policy holds for this target"),
            Self::Conflicted { with } => write!(
                f,
                "the TrafficPolicy {with} is for the same target and came first, so this one does nothing there"
            ),
            Self::TargetNotFound => f.write_str("there is no such Service, or no port of that name"),
        }
    }
}

impl Standing {
    /// The condition's reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Conflicted { .. } => "Conflicted",
            Self::TargetNotFound => "TargetNotFound",
        }
    }
}

/// How a policy stands at one of its targets.
pub fn standing(mesh: &Mesh, policy: &TrafficPolicy, target: &TargetRef) -> Standing {
    let named = |service: &Service| {
        let is_section =
            |section: &String| service.ports.iter().any(|port| port.name.as_ref() == Some(section));
        target.section.as_ref().is_none_or(is_section)
    };
    if !mesh.service(&target.service).is_some_and(|service| named(service)) {
        return Standing::TargetNotFound;
    }
    match mesh.policy_for(&target.service, target.section.as_deref()) {
        Some(holding) if holding.key != policy.key => Standing::Conflicted { with: holding.key.clone() },
        Some(_) | None => Standing::Accepted,
    }
}

/// Targets that do not exist, or that another policy holds.
pub fn of_policy(mesh: &Mesh, policy: &TrafficPolicy) -> Vec<Problem> {
    let amiss = |(index, target): (usize, &TargetRef)| {
        let path = format!("spec.targetRefs[{index}]");
        let service = &target.service;
        match (standing(mesh, policy, target), &target.section) {
            (Standing::Accepted, _) => None,
            (standing @ Standing::Conflicted { .. }, _) => Some(problem(
                &path,
                format!("{}: {standing}", standing.reason()),
                "delete one of the two, or put both into one",
            )),
            (Standing::TargetNotFound, Some(section)) if mesh.service(service).is_some() => Some(problem(
                &format!("{path}.sectionName"),
                format!("TargetNotFound: the Service {service} has no port named {section:?}"),
                "use the name of one of its ports, or leave sectionName out for all",
            )),
            (Standing::TargetNotFound, _) => Some(problem(
                &format!("{path}.name"),
                format!("TargetNotFound: there is no Service {service}, so the policy does nothing"),
                "apply that Service, or correct the name; a policy is for Services of its own namespace",
            )),
        }
    };
    policy.targets.iter().enumerate().filter_map(amiss).collect()
}

fn problem(path: &str, message: String, cure: &str) -> Problem {
    Problem { path: path.to_owned(), message, cure: cure.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{policy, route, service, workload};
    use crate::model::BackendRef;

    fn mesh() -> Mesh {
        let mut mesh = Mesh::new("m", "mesh.local");
        mesh.put_service(service("default", "cart"));
        mesh.put_workload(workload("default", "cart", 1));
        mesh
    }

    #[track_caller]
    fn check(problems: &[Problem], expect: &[(&str, &str)]) {
        assert_eq!(problems.len(), expect.len(), "{problems:?}");
        for (problem, (path, message)) in problems.iter().zip(expect) {
            assert_eq!(problem.path, *path);
            assert!(problem.message.contains(message), "{}", problem.message);
        }
    }

    #[test]
    fn what_fits_together_has_no_problems() {
        let mesh = mesh();
        check(&of_route(&mesh, &route("default", "split", "default", "cart")), &[]);
        check(&of_service(&mesh, &service("default", "cart")), &[]);
        check(&of_workload(&mesh, &workload("default", "cart", 1)), &[]);
    }

    #[test]
    fn a_route_to_what_does_not_exist_is_told_so() {
        let mut lost = route("default", "split", "default", "gone");
        lost.rules[0].backends =
            vec![BackendRef { service: Key::new("default", "cart"), port: 81, weight: 0 }];
        check(
            &of_route(&mesh(), &lost),
            &[
                ("spec.parentRefs[0].name", "no Service default/gone"),
                ("spec.rules[0].backendRefs", "no backend has a weight"),
                ("spec.rules[0].backendRefs[0].port", "no port 81"),
            ],
        );
    }

    #[test]
    fn of_two_policies_for_one_target_the_older_holds_and_the_other_is_told() {
        let mut mesh = mesh();
        let older = policy("default", "b", "cart");
        let newer = TrafficPolicy { created: 1, ..policy("default", "a", "cart") };
        for policy in [&older, &newer] {
            mesh.put_policy(policy.clone());
        }
        check(&of_policy(&mesh, &older), &[]);
        check(
            &of_policy(&mesh, &newer),
            &[("spec.targetRefs[0]", "Conflicted: the TrafficPolicy default/b")],
        );
        assert_eq!(
            standing(&mesh, &newer, &newer.targets[0]),
            Standing::Conflicted { with: older.key.clone() }
        );
        mesh.remove_policy(&older.key);
        check(&of_policy(&mesh, &newer), &[]);
        let same_age = TrafficPolicy { created: 1, ..policy("default", "0", "cart") };
        mesh.put_policy(same_age);
        check(&of_policy(&mesh, &newer), &[("spec.targetRefs[0]", "default/0")]);
    }

    #[test]
    fn a_policy_for_what_does_not_exist_is_told_so() {
        let mut lost = policy("default", "slow", "gone");
        let section =
            |name: &str| TargetRef { service: Key::new("default", "cart"), section: Some(name.to_owned()) };
        lost.targets.push(section("http"));
        let mut mesh = mesh();
        check(
            &of_policy(&mesh, &lost),
            &[
                ("spec.targetRefs[0].name", "no Service default/gone"),
                ("spec.targetRefs[1].sectionName", "no port named \"http\""),
            ],
        );
        let mut named = service("default", "cart");
        named.ports[0].name = Some("http".to_owned());
        mesh.put_service(named);
        assert_eq!(standing(&mesh, &lost, &lost.targets[1]), Standing::Accepted);
    }

    #[test]
    fn a_selected_workload_that_is_no_endpoint_is_explained() {
        let mut mesh = mesh();
        mesh.put_workload(Workload { account: "web".to_owned(), ..workload("default", "cart", 2) });
        let mut other_port = workload("default", "cart", 3);
        other_port.ports[0].app_port = 9090;
        mesh.put_workload(other_port);
        check(
            &of_service(&mesh, &service("default", "cart")),
            &[
                ("metadata.annotations[\"meshwork.dev/accounts\"]", "cart-2 is selected, but runs under"),
                ("spec.ports[0].targetPort", "cart-3 is selected, but has no port 8080"),
            ],
        );
    }

    #[test]
    fn a_service_or_workload_on_its_own_is_told_so() {
        check(&of_service(&mesh(), &service("default", "web")), &[("spec.selector", "no workload")]);
        let empty = Service { selector: Default::default(), ..service("default", "cart") };
        check(&of_service(&mesh(), &empty), &[("spec.selector", "is empty")]);
        check(&of_workload(&mesh(), &workload("default", "web", 1)), &[("metadata.labels", "no service")]);
    }

    #[test]
    fn a_workload_that_only_calls_needs_no_service() {
        let caller = Workload { ports: Vec::new(), ..workload("default", "web", 1) };
        check(&of_workload(&mesh(), &caller), &[]);
    }
}
