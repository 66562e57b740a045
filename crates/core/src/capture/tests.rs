//! The scripts, whole, as files (`MESHWORK_UPDATE_DOCS=1` writes them anew: read what changed); and their parts. That the
//! kernel takes them and does what they say is shown in network namespaces.

use super::*;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn plan(scope: Scope) -> Plan {
    Plan {
        table: TableName::of_namespace(),
        scope,
        exempt: Exempt::Mark(MARK),
        exclude_users: vec![],
        outbound: OUTBOUND_PORT,
        inbound: Some(INBOUND_PORT),
        dns: Some(DNS_PORT),
        virtual_ranges: nets(&["240.0.0.0/8", "fd4d:5700:1::/64"]),
        outgoing: Selection::default(),
        incoming: Selection::default(),
    }
}

fn cgroup() -> Scope {
    Scope::Cgroup { path: "unified/meshwork-cart-7f3a".parse().unwrap(), level: 1 }
}

#[track_caller]
#[allow(clippy::disallowed_methods)] // a test may write the file that it judges
fn check(plan: &Plan, name: &str, golden: &str) {
    let script = rules(plan);
    if std::env::var_os("MESHWORK_UPDATE_DOCS").is_some() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capture/golden");
        std::fs::write(folder.join(name), &script).unwrap();
        return;
    }
    assert_eq!(script, golden, "golden/{name} is not what the code says");
}

#[test]
fn a_namespace_is_captured_but_for_the_marked_sidecar() {
    check(&plan(Scope::Namespace), "namespace.nft", include_str!("golden/namespace.nft"));
}

#[test]
fn a_cgroup_is_captured_and_only_the_sidecar_reaches_it() {
    let plan = Plan { table: "meshwork_7f3a".parse().unwrap(), exempt: Exempt::User(1337), ..plan(cgroup()) };
    check(&plan, "cgroup.nft", include_str!("golden/cgroup.nft"));
}

#[test]
fn what_is_selected_stands_in_each_way() {
    let plan = Plan {
        exempt: Exempt::User(1337),
        exclude_users: vec![101],
        outgoing: Selection {
            include_ports: vec![443, 80, 443],
            exclude_ports: vec![25],
            include_cidrs: nets(&["10.0.0.0/8", "10.1.0.0/16"]),
            exclude_cidrs: nets(&["10.9.0.0/16", "fd00:9::/32"]),
        },
        incoming: Selection {
            exclude_ports: vec![22, 4191],
            exclude_cidrs: nets(&["10.0.0.1/32"]),
            include_ports: vec![8080, 22],
            include_cidrs: nets(&["10.0.0.0/8", "fd00::/8"]),
        },
        ..plan(Scope::Namespace)
    };
    check(&plan, "selected.nft", include_str!("golden/selected.nft"));
}

#[test]
fn outbound_alone_says_nothing_of_inbound_and_names() {
    let plan = Plan { inbound: None, dns: None, virtual_ranges: vec![], ..plan(Scope::Namespace) };
    check(&plan, "outbound.nft", include_str!("golden/outbound.nft"));
}

/// nft says "conflicting intervals" to a set in which one network lies in another.
#[test]
fn networks_within_networks_are_said_once() {
    let (v4, v6) = by_family(&nets(&["10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "10.0.0.0/8"]));
    assert_eq!(v4, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(v6, ["fd00::/8".parse().unwrap()]);
}

#[test]
fn only_names_of_ours_are_tables() {
    for name in ["meshwork", "meshwork_7f3a", "meshwork_a_b"] {
        assert_eq!(name.parse::<TableName>().unwrap().as_str(), name);
    }
    let long = format!("meshwork_{}", "a".repeat(TABLE_NAME_BYTES_MAX));
    for name in ["", "filter", "meshworks", "meshwork_", "meshwork_A", "meshwork_{", "meshwork a", &long] {
        assert_eq!(name.parse::<TableName>(), Err(InvalidTableName(name.to_owned())));
    }
}

#[test]
fn a_path_cannot_end_its_quotes() {
    for path in ["a", "unified/a.slice/b c.scope"] {
        assert_eq!(path.parse::<CgroupPath>().unwrap().to_string(), path);
    }
    for path in ["", "/a", "a/", "a//b", "a/../b", ".", "a\"b", "a\\", "a\nb"] {
        assert_eq!(path.parse::<CgroupPath>(), Err(InvalidCgroupPath(path.to_owned())));
    }
}

#[test]
fn each_table_has_routes_of_its_own() {
    let ours = routes(&plan(Scope::Namespace));
    let words = ours[0].add().join(" ");
    let (start, metric) = words.rsplit_once(' ').unwrap();
    assert_eq!(start, "-4 route add 240.0.0.0/8 dev lo src 127.0.0.1 proto 77 metric");
    assert!(ours[1].delete().join(" ").starts_with("-6 route del fd4d:5700:1::/64 dev lo proto 77 metric "));
    let theirs = routes(&Plan { table: "meshwork_2".parse().unwrap(), ..plan(Scope::Namespace) });
    assert!(!theirs[0].add().contains(&metric.to_owned()));
}

#[test]
fn a_table_finds_its_routes_again_and_no_others() {
    let table = TableName::of_namespace();
    let metric = |name: &str| routes::metric(&name.parse().unwrap());
    let (ours, theirs) = (metric("meshwork"), metric("meshwork_2"));
    let listing = format!(
        "default via 10.0.0.1 dev eth0 \n\
         240.0.0.0/8 dev lo proto 77 scope link src 127.0.0.1 metric {ours} \n\
         240.0.0.0/8 dev lo proto 77 scope link src 127.0.0.1 metric {theirs} \n\
         240.0.0.0/8 dev lo proto static scope link metric {ours} \n\
         240.0.0.0/8 dev eth0 proto 77 scope link metric {ours} \n\
         241.0.0.1 dev lo proto 77 scope link src 127.0.0.1 metric {ours} \n\
         fd4d:5700:1::/64 dev lo proto 77 metric {ours} pref medium\n"
    );
    let found: Vec<String> =
        Route::listed(&table, &listing).into_iter().map(|route| route.range.to_string()).collect();
    assert_eq!(found, ["240.0.0.0/8", "241.0.0.1/32", "fd4d:5700:1::/64"]);
}

#[test]
fn what_is_listed_is_told_in_sentences() {
    let listing = "table inet meshwork {\n\tchain a {\n\
        \t\tmeta mark 0x00004d57 accept comment \"passes: the sidecar\"\n\
        \t\tmeta l4proto tcp counter packets 12 bytes 720 redirect to :15001 comment \"captured: outbound\"\n\
        \t\tct direction reply accept\n\
        \t\tip daddr 240.0.0.0/8 counter packets 1 bytes 60 reject comment \"refused: leaks\"\n\
        \t\tip6 daddr fd00::/8 counter packets 2 bytes 60 reject comment \"refused: leaks\"\n\
        \t\tmeta mark 0x00004d57 accept comment \"passes: the sidecar\"\n\t}\n}\n";
    assert_eq!(
        sentences(listing),
        ["passes: the sidecar", "captured: outbound (12 so far)", "refused: leaks (3 so far)"]
    );
}

#[test]
fn our_tables_are_found_among_others() {
    let listing = "table ip filter\ntable inet meshwork\ntable inet meshwork_7f3a\ntable ip meshwork\ntable inet meshworks\n";
    let names: Vec<String> = tables(listing).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["meshwork", "meshwork_7f3a"]);
}
