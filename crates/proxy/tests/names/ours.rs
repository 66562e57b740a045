//! Names of the mesh, and the wait for the table of a namespace.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use meshwork_proxy::Ask;
use meshwork_proxy::telemetry::Event;

use crate::resolver::{Resolver, answer};
use crate::support::{Names, address, addresses, asked, table, with_edns};

#[tokio::test]
async fn a_service_is_found_by_its_three_names() {
    let names = Names::start(&[]);
    for name in ["cart.", "CART.default.", "cart.Default.MESH."] {
        let reply = names.ask(name, RecordType::A).await;
        assert_eq!(addresses(&reply), ["240.0.0.1".parse::<std::net::Ipv4Addr>().unwrap()]);
        assert!(reply.metadata.authoritative);
        let query = with_edns(asked(name, RecordType::A));
        assert_eq!(addresses(&names.ask_over_tcp(&query).await).len(), 1);
    }
    assert_eq!(names.counted(Event::DnsOurs), 6);
}

#[tokio::test]
async fn what_the_mesh_does_not_have_is_denied_with_a_time() {
    let names = Names::start(&[]);
    names.give_nothing("shop");
    for (name, kind, code) in [
        ("pay.default.mesh.", RecordType::A, ResponseCode::NXDomain),
        ("cart.shop.mesh.", RecordType::A, ResponseCode::NXDomain),
        ("cart.default.default.mesh.", RecordType::AAAA, ResponseCode::NXDomain),
        ("cart.default.mesh.", RecordType::HTTPS, ResponseCode::NoError),
    ] {
        let reply = names.ask(name, kind).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0), "{name}");
        assert!(matches!(reply.authorities[0].data, RData::SOA(_)), "{name}");
    }
    assert_eq!(names.counted(Event::DnsOursAbsent), 4);
}

#[tokio::test]
async fn the_first_query_of_a_namespace_waits_for_its_names() {
    let mut names = Names::start(&[]);
    let socket = names.client().await;
    let query = asked("ledger.bank.", RecordType::A);
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    assert_eq!(names.asks.recv().await, Some(Ask::Names("bank".to_owned())));
    names.give(table("bank", &["ledger"]));
    let reply = crate::support::receive(&socket).await;
    // Had this test slept past the wait, nobody would have known: then it is asked for again.
    let reply = if addresses(&reply).is_empty() { names.send(&query).await } else { reply };
    assert_eq!(addresses(&reply).len(), 1);
}

#[tokio::test]
async fn with_nobody_to_say_what_is_there_only_the_zone_of_the_mesh_fails() {
    let resolver = Resolver::start(|query, _| {
        let mut answer = answer(query);
        answer.add_answer(address(&query.queries[0].name.clone(), 60, 7));
        vec![answer]
    });
    let names = Names::start(&[resolver.address]);
    let ours = names.ask("ledger.bank.mesh.", RecordType::A).await;
    assert_eq!(ours.metadata.response_code, ResponseCode::ServFail);
    assert!(resolver.asked().is_empty(), "what ends in .mesh is nobody else's business");
    let other = names.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&other).len(), 1);
    assert_eq!(resolver.asked().len(), names.tries());
}

#[tokio::test]
async fn a_service_that_appears_is_found_and_one_that_goes_is_not() {
    let names = Names::start(&[]);
    assert_eq!(names.ask("pay.default.mesh.", RecordType::A).await.answers.len(), 0);
    names.give(table("default", &["pay"]));
    assert_eq!(names.ask("pay.default.mesh.", RecordType::A).await.answers.len(), 1);
    assert_eq!(names.ask("cart.default.mesh.", RecordType::A).await.answers.len(), 0);
}

#[tokio::test]
async fn of_many_instances_another_one_comes_first() {
    let names = Names::start(&[]);
    let mut many = table("default", &["db"]);
    let db = many.services.get_mut("db").unwrap();
    db.headless = true;
    db.instances = (0..8).map(|n| (format!("db-{n}"), [10, 0, 0, n].into())).collect();
    names.give(many);
    let mut first = std::collections::BTreeSet::new();
    for id in 0..8 {
        let mut query = asked("db.", RecordType::A);
        query.metadata.id = id;
        let reply = names.send(&query).await;
        assert_eq!(addresses(&reply).len(), 8);
        first.insert(addresses(&reply)[0]);
    }
    assert_eq!(first.len(), 8, "{first:?}");
}
