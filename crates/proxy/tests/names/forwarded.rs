//! Names that are not ours: the host's resolvers are asked, believed if they answer that, and asked no more than needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{RData, Record, RecordType};
use meshwork_proxy::telemetry::Event;
use tokio::task::JoinSet;

use crate::resolver::{Over, Resolver, answer};
use crate::support::{Names, PATIENCE, address, addresses, asked, name, receive, with_edns};

const HOST: &str = "www.example.com.";

fn found(query: &Message, last: u8) -> Message {
    let mut answer = answer(query);
    answer.add_answer(address(&query.queries[0].name.clone(), 60, last));
    answer
}

fn soa() -> Record {
    let soa = SOA::new(name("ns.example.com."), name("h.example.com."), 1, 1, 1, 1, 60);
    Record::from_rdata(name("example.com."), 900, RData::SOA(soa))
}

#[tokio::test]
async fn an_answer_is_passed_on_and_kept() {
    let resolver = Resolver::start(|query, _| vec![found(query, 7)]);
    let names = Names::start(&[resolver.address]);
    for _ in 0..3 {
        let reply = names.ask(HOST, RecordType::A).await;
        assert_eq!(addresses(&reply)[0].octets(), [192, 0, 2, 7]);
        assert!(!reply.metadata.authoritative && reply.answers[0].ttl <= 60);
    }
    let reply = names.ask_over_tcp(&with_edns(asked("WWW.example.COM.", RecordType::A))).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!((names.counted(Event::DnsForwarded), names.counted(Event::DnsKept)), (1, 3));
    assert_eq!(resolver.asked().len(), names.tries());
}

#[tokio::test]
async fn each_query_has_an_id_of_its_own_there() {
    let resolver = Resolver::start(|query, _| vec![answer(query)]); // without SOA: not kept
    let names = Names::start(&[resolver.address]);
    let query = asked(HOST, RecordType::A);
    for _ in 0..8 {
        names.send(&query).await;
    }
    let asked = resolver.asked();
    let ids: std::collections::BTreeSet<u16> = asked.iter().map(|(query, _)| query.metadata.id).collect();
    assert!(asked.len() >= 8);
    assert!(ids.len() > 4, "{ids:?}");
}

#[tokio::test]
async fn that_there_is_nothing_is_kept_as_well() {
    let resolver = Resolver::start(|query, _| {
        let mut answer = answer(query);
        answer.metadata.response_code = ResponseCode::NXDomain;
        answer.add_authority(soa());
        vec![answer]
    });
    let names = Names::start(&[resolver.address]);
    for _ in 0..2 {
        let reply = names.ask(HOST, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert!(reply.authorities[0].ttl <= 60);
    }
    assert_eq!((names.counted(Event::DnsForwarded), names.counted(Event::DnsKept)), (1, 1));
    assert_eq!(resolver.asked().len(), names.tries());
}

#[tokio::test]
async fn an_answer_to_something_else_is_not_believed() {
    let resolver = Resolver::start(|query, _| {
        let mut guessed = found(query, 66);
        guessed.metadata.id ^= 1;
        let mut other = found(query, 67);
        other.queries[0].set_name(name("www.example.org."));
        vec![guessed, other, found(query, 7)]
    });
    let names = Names::start(&[resolver.address]);
    let reply = names.ask(HOST, RecordType::A).await;
    assert_eq!(addresses(&reply)[0].octets()[3], 7);
    assert!(names.counted(Event::DnsResolverForeign) >= 2);
}

#[tokio::test]
async fn what_is_too_large_for_a_datagram_comes_over_tcp() {
    let resolver = Resolver::start(|query, over| {
        let mut answer = answer(query);
        match over {
            Over::Udp => answer.metadata.truncation = true,
            Over::Tcp => {
                let owner = query.queries[0].name.clone();
                (0..100).for_each(|last| _ = answer.add_answer(address(&owner, 60, last)));
            }
        }
        vec![answer]
    });
    let names = Names::start(&[resolver.address]);
    let short = names.ask(HOST, RecordType::A).await; // kept, whole
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = names.ask_over_tcp(&asked(HOST, RecordType::A)).await;
    assert_eq!(whole.answers.len(), 100);
    let over: Vec<Over> = resolver.asked().into_iter().map(|(_, over)| over).collect();
    if names.counted(Event::DnsResolverTimeout) == 0 {
        assert_eq!(over, [Over::Udp, Over::Tcp], "the client's second query is answered by what was kept");
    }
}

#[tokio::test]
async fn a_resolver_that_fails_is_followed_by_the_next() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let bad = Resolver::start(move |query, _| {
            let mut answer = answer(query);
            answer.metadata.response_code = code;
            vec![answer]
        });
        let good = Resolver::start(|query, _| vec![found(query, 7)]);
        let names = Names::start(&[bad.address, good.address]);
        assert_eq!(addresses(&names.ask(HOST, RecordType::A).await).len(), 1);
        assert!(names.counted(Event::DnsResolverRefused) + names.counted(Event::DnsResolverTimeout) > 0);
    }
}

#[tokio::test]
async fn a_silent_resolver_costs_one_wait() {
    let silent = Resolver::start(|_, _| Vec::new());
    let good = Resolver::start(|query, _| vec![found(query, 7)]);
    let names = Names::start(&[silent.address, good.address]);
    for number in 0..20 {
        let host = format!("h{number}.www.example.com.");
        assert_eq!(addresses(&names.ask(&host, RecordType::A).await).len(), 1);
    }
    // Once; more often only where the good one was too slow for us, too.
    assert!(silent.asked().len() < 10, "who answered is asked first from then on");
    assert!(names.counted(Event::DnsResolverTimeout) >= 1);
}

#[tokio::test]
async fn where_nobody_answers_the_client_is_told() {
    let silent = Resolver::start(|_, _| Vec::new());
    let names = Names::start(&[silent.address]);
    let reply = names.send(&asked(HOST, RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(names.counted(Event::DnsFailed), 1);
    // Nobody listens there.
    let (udp, tcp) = crate::support::bind((std::net::Ipv4Addr::LOCALHOST, 0).into());
    let closed = udp.local_addr().unwrap();
    drop((udp, tcp));
    let names = Names::start(&[closed]);
    let reply = names.ask(HOST, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_resolver_that_does_not_know_edns_is_asked_without() {
    let old = Resolver::start(|query, _| {
        if query.edns.is_some() {
            let mut answer = answer(query);
            answer.edns = None;
            answer.metadata.response_code = ResponseCode::FormErr;
            return vec![answer];
        }
        vec![found(query, 7)]
    });
    let names = Names::start(&[old.address]);
    let mut reply = names.send(&with_edns(asked(HOST, RecordType::A))).await;
    while addresses(&reply).is_empty() && names.counted(Event::DnsResolverTimeout) > 0 {
        reply = names.send(&with_edns(asked(HOST, RecordType::A))).await; // too slow a machine
    }
    assert_eq!(addresses(&reply).len(), 1);
    assert!(reply.edns.is_some(), "between the client and us there is");
}

#[tokio::test]
async fn other_resolvers_are_asked_once_the_host_has_others() {
    let first = Resolver::start(|query, _| vec![found(query, 1)]);
    let second = Resolver::start(|query, _| vec![found(query, 2)]);
    let names = Names::start(&[first.address]);
    assert_eq!(addresses(&names.ask(HOST, RecordType::A).await)[0].octets()[3], 1);
    names.set_resolvers(&[second.address]);
    let changed = async {
        // What the old one said is forgotten, too.
        while addresses(&names.ask(HOST, RecordType::A).await)[0].octets()[3] != 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("the second resolver is never asked");
}

#[tokio::test]
async fn a_query_never_goes_in_circles() {
    // We are our own resolver: nobody is asked.
    let names = Names::start(&[]);
    names.set_resolvers(&[names.address]);
    let reply = names.ask(HOST, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(names.counted(Event::DnsFailed), 1);

    // Somebody in between leads back to us, as rules would that catch our own packets.
    let between = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let names = Names::start(&[between.local_addr().unwrap()]);
    let came_back = Arc::new(AtomicUsize::new(0));
    let (relay, count, us) = (between.clone(), came_back.clone(), names.address);
    let relaying = tokio::spawn(async move {
        let mut passing = JoinSet::new();
        let mut buffer = [0; 4_096];
        loop {
            let (length, client) = relay.recv_from(&mut buffer).await.unwrap();
            let (relay, query) = (relay.clone(), buffer[..length].to_vec());
            count.fetch_add(1, Ordering::Relaxed);
            passing.spawn(async move {
                let out = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                out.send_to(&query, us).await.unwrap();
                let mut reply = [0; 4_096];
                let length = out.recv(&mut reply).await.unwrap();
                relay.send_to(&reply[..length], client).await.unwrap();
            });
        }
    });
    let reply = names.send(&asked(HOST, RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    // Each of the three tries came back once, or more often where this machine was slow.
    let came_back = came_back.load(Ordering::Relaxed);
    assert!((1..=16).contains(&came_back), "{came_back} queries on their way round");
    relaying.abort();
}

#[tokio::test]
async fn equal_queries_at_a_time_are_one_to_the_resolver() {
    const EQUAL: usize = 20;
    let open = tokio::sync::watch::Sender::new(false);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (resolver, came) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (count, mut may_answer) = (came.clone(), open.subscribe());
    let answering = tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            may_answer.wait_for(|open| *open).await.unwrap();
            let reply = found(&Message::from_vec(&buffer[..length]).unwrap(), 7);
            socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let names = Names::start(&[resolver]);
    let client = names.client().await;
    for _ in 0..EQUAL {
        client.send(&asked(HOST, RecordType::A).to_vec().unwrap()).await.unwrap();
    }
    // They are read in their order: once this one is answered, all those have begun.
    client.send(&asked("cart.", RecordType::A).to_vec().unwrap()).await.unwrap();
    assert_eq!(receive(&client).await.queries[0].name, name("cart."));
    open.send_replace(true);
    let mut failed = 0;
    for _ in 0..EQUAL {
        let reply = receive(&client).await;
        failed += usize::from(reply.metadata.response_code == ResponseCode::ServFail);
    }
    answering.abort();
    // Where this machine stood still until the resolver was given up, that was for all of them.
    let shared = (names.counted(Event::DnsShared) + names.counted(Event::DnsKept)) as usize;
    match failed {
        0 => assert_eq!((names.counted(Event::DnsForwarded), shared), (1, EQUAL - 1)),
        failed => assert_eq!((failed, names.counted(Event::DnsResolverTimeout)), (EQUAL, 3)),
    }
    assert!(came.load(Ordering::Relaxed) <= names.tries(), "the resolver was asked more than once");
}
