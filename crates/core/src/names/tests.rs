//! Rows: a name and a type, and what they resolve to in a mesh of two namespaces.

use super::*;

const V6: &str = "fd4d:5700::7";

fn named(v4: &str, v6: &str) -> Named {
    let ports = BTreeMap::from([("http".to_owned(), 80)]);
    Named {
        v4: v4.parse().unwrap(),
        v6: v6.parse().unwrap(),
        ports,
        instances: BTreeMap::new(),
        headless: false,
    }
}

fn tables() -> Tables {
    let mut db = named("240.0.0.9", "fd4d:5700::9");
    db.headless = true;
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    db.instances.insert("db-0".to_owned(), address("10.0.0.1"));
    db.instances.insert("db-1".to_owned(), address("10.0.0.2"));
    db.instances.insert("db-2".to_owned(), address("fd00::2"));
    let services = BTreeMap::from([("cart".to_owned(), named("240.0.0.7", V6)), ("db".to_owned(), db)]);
    let mut tables = Tables::default();
    tables.set(Arc::new(NameTable { namespace: "default".to_owned(), services }));
    let services = BTreeMap::from([("stock".to_owned(), named("240.0.0.8", "fd4d:5700::8"))]);
    tables.set(Arc::new(NameTable { namespace: "shop".to_owned(), services }));
    tables.set_absent("com");
    tables
}

fn answer(name: &str, kind: Kind, ipv6: Ipv6) -> Answer {
    let virtual_ranges = ["240.0.0.0/8".parse().unwrap(), "fd4d:5700::/64".parse().unwrap()];
    let asker = Asker { namespace: "default", ipv6, virtual_ranges: &virtual_ranges };
    resolve(Question { name, kind }, &asker, &tables())
}

/// Records in text, or `nodata`, `nxdomain`, `forward`, `ask <namespace>`.
#[track_caller]
fn check(name: &str, kind: Kind, expect: &str) {
    check_with(name, kind, Ipv6::Usable, expect);
}

#[track_caller]
fn check_with(name: &str, kind: Kind, ipv6: Ipv6, expect: &str) {
    let text = match answer(name, kind, ipv6) {
        Answer::Forward => "forward".to_owned(),
        Answer::AskNamespace(namespace) => format!("ask {namespace}"),
        Answer::Ours(Ours::NoData) => "nodata".to_owned(),
        Answer::Ours(Ours::NoName) => "nxdomain".to_owned(),
        Answer::Ours(Ours::Records(records)) => {
            let text = records.iter().map(|Record { ttl_seconds, data }| match data {
                Data::A(address) => format!("{ttl_seconds} {address}"),
                Data::Aaaa(address) => format!("{ttl_seconds} {address}"),
                Data::Srv { port, target } => format!("{ttl_seconds} {target}:{port}"),
                Data::Ptr(name) => format!("{ttl_seconds} {name}"),
                Data::Soa => format!("{ttl_seconds} soa"),
            });
            text.collect::<Vec<_>>().join(", ")
        }
    };
    assert_eq!(text, expect, "{name} {kind:?}");
}

#[test]
fn a_service_has_three_names() {
    for name in ["cart", "cart.default", "cart.default.mesh"] {
        check(name, Kind::A, "30 240.0.0.7");
        check(name, Kind::Aaaa, "30 fd4d:5700::7");
    }
    check("stock.shop", Kind::A, "30 240.0.0.8");
    check("stock.shop.mesh", Kind::A, "30 240.0.0.8");
}

#[test]
fn neither_case_nor_the_dot_at_the_end_make_a_difference() {
    for name in ["cart.", "CART", "cArT.DeFaUlT.", "Cart.Default.MESH."] {
        check(name, Kind::A, "30 240.0.0.7");
    }
}

#[test]
fn a_short_name_is_ours_only_if_there_is_such_a_service() {
    check("intranet", Kind::A, "forward");
    check("stock", Kind::A, "forward"); // it is of another namespace
    check("cart.shop", Kind::A, "forward");
    check("example.com", Kind::A, "forward");
    check("www.example.com", Kind::A, "forward");
    check("localhost", Kind::A, "forward");
    check("", Kind::Other, "forward");
    check(".", Kind::Other, "forward");
}

#[test]
fn what_ends_in_mesh_is_never_forwarded() {
    for name in ["pay.default.mesh", "cart.com.mesh", "a.b.c.d.e.mesh.", "_x.mesh", "cart_1.default.mesh"] {
        match answer(name, Kind::A, Ipv6::Usable) {
            Answer::Ours(Ours::NoName) => {}
            Answer::AskNamespace(namespace) => assert!(is_label(&namespace), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    check("mesh", Kind::A, "nodata");
    check("mesh.", Kind::Soa, "5 soa");
    check("default.mesh", Kind::A, "nodata");
    check("com.mesh", Kind::A, "nxdomain");
}

#[test]
fn a_suffix_that_the_client_appended_makes_no_second_name() {
    check("cart.default.default.mesh", Kind::A, "nxdomain");
    check("cart.default.mesh.default.mesh", Kind::A, "nxdomain");
    check("cart.mesh", Kind::A, "ask cart"); // `cart` with `mesh` appended: a namespace would be meant
    check("example.com.mesh", Kind::A, "nxdomain");
    check("example.com.default.mesh", Kind::A, "nxdomain");
}

#[test]
fn a_namespace_whose_table_is_not_held_is_asked_for_first() {
    check("ledger.bank", Kind::A, "ask bank");
    check("ledger.bank.mesh", Kind::A, "ask bank");
    check("bank.mesh", Kind::A, "ask bank");
    check("x.y.z.bank.mesh", Kind::A, "ask bank");
    // What cannot be a namespace is not asked for.
    check("ledger._tcp", Kind::A, "forward");
    check("_ldap.bank", Kind::A, "forward");
    check("a.b_c", Kind::A, "forward");
    check("10.0.0.1", Kind::A, "forward");
}

#[test]
fn the_own_namespace_is_asked_for_when_its_table_is_not_there_yet() {
    let asker = Asker { namespace: "default", ipv6: Ipv6::Usable, virtual_ranges: &[] };
    let question = Question { name: "cart", kind: Kind::A };
    let nothing = Tables::default();
    assert_eq!(resolve(question, &asker, &nothing), Answer::AskNamespace("default".to_owned()));
}

#[test]
fn there_is_no_aaaa_where_ipv6_leads_nowhere() {
    for name in ["cart", "cart.default.mesh", "db", "db-2.db.default.mesh"] {
        check_with(name, Kind::Aaaa, Ipv6::Unusable, "nodata");
    }
    check_with("db-2.db.default.mesh", Kind::Any, Ipv6::Unusable, "nodata");
    check("db-2.db.default.mesh", Kind::Any, "5 fd00::2");
}

#[test]
fn any_is_one_type() {
    check("cart", Kind::Any, "30 240.0.0.7");
}

#[test]
fn of_other_types_there_is_nothing_and_that_is_no_missing_name() {
    for name in ["cart", "cart.default.mesh", "db", "db-0.db.default.mesh", "_http._tcp.cart.default.mesh"] {
        check(name, Kind::Other, "nodata"); // HTTPS, MX, TXT
    }
    check("cart", Kind::Srv, "nodata");
    check("cart", Kind::Ptr, "nodata");
    check("cart.default.mesh", Kind::Soa, "nodata");
}

#[test]
fn a_port_has_a_name() {
    check("_http._tcp.cart.default.mesh", Kind::Srv, "30 cart.default.mesh:80");
    check("_http._tcp.cart.default.mesh", Kind::Any, "30 cart.default.mesh:80");
    check("_http._tcp.cart.default.mesh", Kind::A, "nodata");
    check("_tcp.cart.default.mesh", Kind::A, "nodata");
    check("_grpc._tcp.cart.default.mesh", Kind::Srv, "nxdomain");
    check("http._tcp.cart.default.mesh", Kind::Srv, "nxdomain");
    check("_http._udp.cart.default.mesh", Kind::Srv, "nxdomain");
    check(
        "_http._tcp.db.default.mesh",
        Kind::Srv,
        "5 db-0.db.default.mesh:80, 5 db-1.db.default.mesh:80, 5 db-2.db.default.mesh:80",
    );
}

#[test]
fn a_headless_service_is_its_instances() {
    check("db", Kind::A, "5 10.0.0.1, 5 10.0.0.2");
    check("db.default.mesh", Kind::Aaaa, "5 fd00::2");
    check("db-0.db.default.mesh", Kind::A, "5 10.0.0.1");
    check("db-0.db.default.mesh", Kind::Aaaa, "nodata");
    check("db-9.db.default.mesh", Kind::A, "nxdomain");
    check("db-0.cart.default.mesh", Kind::A, "nxdomain");
}

#[test]
fn a_headless_service_of_thousands_answers_with_some() {
    let mut many = named("240.0.0.1", V6);
    many.headless = true;
    let instance = |n: u32| (format!("x-{n}"), IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)));
    many.instances = (0..3_000).map(instance).collect();
    let mut tables = Tables::default();
    let services = BTreeMap::from([("many".to_owned(), many)]);
    tables.set(Arc::new(NameTable { namespace: "default".to_owned(), services }));
    let asker = Asker { namespace: "default", ipv6: Ipv6::Usable, virtual_ranges: &[] };
    for (name, kind, most) in
        [("many", Kind::A, ADDRESSES_MAX), ("_http._tcp.many.default.mesh", Kind::Srv, TARGETS_MAX)]
    {
        let Answer::Ours(Ours::Records(records)) = resolve(Question { name, kind }, &asker, &tables) else {
            panic!("no records for {name}");
        };
        assert_eq!(records.len(), most);
    }
}

#[test]
fn a_virtual_address_has_a_name_and_no_other_has_one_of_ours() {
    check("7.0.0.240.in-addr.arpa", Kind::Ptr, "30 cart.default.mesh");
    check("8.0.0.240.in-addr.arpa.", Kind::Ptr, "30 stock.shop.mesh");
    check("7.0.0.240.in-addr.arpa", Kind::A, "nodata");
    check("99.0.0.240.in-addr.arpa", Kind::Ptr, "nxdomain");
    check("1.0.0.10.in-addr.arpa", Kind::Ptr, "forward"); // the host's own resolvers name hosts
    check("240.in-addr.arpa", Kind::Ptr, "forward");
    check("x.0.0.240.in-addr.arpa", Kind::Ptr, "forward");
    let digits = |address: &str| {
        let bits = address.parse::<Ipv6Addr>().unwrap().to_bits();
        (0..32).map(|n| format!("{:x}.", (bits >> (4 * n)) & 15)).collect::<String>() + "ip6.arpa"
    };
    check(&digits(V6), Kind::Ptr, "30 cart.default.mesh");
    check(&digits("fd4d:5700::ffff"), Kind::Ptr, "nxdomain");
    check(&digits("fd00::2"), Kind::Ptr, "forward");
}

#[test]
fn a_table_that_is_forgotten_is_asked_for_again() {
    let mut tables = tables();
    tables.forget("shop");
    assert!(!tables.knows("shop") && tables.knows("default") && tables.knows("com"));
}

#[test]
fn ipv6_is_usable_with_an_address_that_reaches_further() {
    let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
    let link = "fe80000000000000a8bbccfffeddeeff 02 40 20 80     eth0\n";
    let global = "fd000000000000000000000000000002 02 40 00 80     eth0\n";
    let of = |parts: &[&str]| Ipv6::of_host(&parts.concat());
    assert_eq!(of(&[]), Ipv6::Unusable);
    assert_eq!(of(&[lo]), Ipv6::Unusable);
    assert_eq!(of(&[lo, link]), Ipv6::Unusable);
    assert_eq!(of(&[lo, link, global]), Ipv6::Usable);
    assert_eq!(of(&["zz not an address\n"]), Ipv6::Unusable);
}
