//! How queries come: many at once from one socket, several on one connection, and things that are none.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use meshwork_proxy::telemetry::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::resolver::{Resolver, answer};
use crate::support::{Names, PATIENCE, addresses, asked, framed, read_framed, receive};

#[tokio::test]
async fn both_addresses_are_asked_for_at_once_as_musl_does() {
    let resolver = Resolver::start(|query, _| vec![answer(query)]);
    let names = Names::start(&[resolver.address]);
    for host in ["cart.", "www.example.com."] {
        let socket = names.client().await;
        let queries = [asked(host, RecordType::A), asked(host, RecordType::AAAA)];
        for query in &queries {
            socket.send(&query.to_vec().unwrap()).await.unwrap();
        }
        let replies = [receive(&socket).await, receive(&socket).await];
        for query in &queries {
            let reply = replies.iter().find(|reply| reply.metadata.id == query.metadata.id).unwrap();
            assert_eq!(
                (&reply.queries, reply.metadata.response_code),
                (&query.queries, ResponseCode::NoError)
            );
        }
    }
}

#[tokio::test]
async fn a_connection_carries_several_queries_and_none_waits_for_another() {
    // Answers once the other one is answered, which the client says by closing its half.
    let silent = Resolver::start(|_, _| Vec::new());
    let names = Names::start(&[silent.address]);
    let mut stream = TcpStream::connect(names.address).await.unwrap();
    let slow = asked("www.example.com.", RecordType::A);
    let quick = asked("cart.", RecordType::A);
    stream.write_all(&[framed(&slow), framed(&quick)].concat()).await.unwrap();
    let first = read_framed(&mut stream).await;
    assert_eq!((first.metadata.id, addresses(&first).len()), (quick.metadata.id, 1));
    stream.shutdown().await.unwrap();
    let second = read_framed(&mut stream).await;
    assert_eq!(
        (second.metadata.id, second.metadata.response_code),
        (slow.metadata.id, ResponseCode::ServFail)
    );
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "then it ends");
}

#[tokio::test]
async fn a_query_may_come_byte_by_byte() {
    let names = Names::start(&[]);
    let mut stream = TcpStream::connect(names.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in framed(&asked("cart.", RecordType::A)) {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(addresses(&read_framed(&mut stream).await).len(), 1);
}

#[tokio::test]
async fn what_is_no_query_ends_a_connection() {
    let names = Names::start(&[]);
    let mut answer = asked("cart.", RecordType::A);
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    for bytes in [vec![0xff, 0xff], framed(&answer), vec![0, 3, 1, 2, 3]] {
        let mut stream = TcpStream::connect(names.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it stays open");
        assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes == 0));
    }
}

#[tokio::test]
async fn datagrams_that_are_no_queries_do_no_harm() {
    let names = Names::start(&[]);
    let socket = names.client().await;
    for bytes in [&[][..], &[1], &[0; 11], &[0xff; 4_096]] {
        socket.send(bytes).await.unwrap();
    }
    let mut unreadable = asked("cart.", RecordType::A).to_vec().unwrap();
    unreadable.pop();
    socket.send(&unreadable).await.unwrap();
    let told = receive(&socket).await;
    assert_eq!(told.metadata.response_code, ResponseCode::FormErr);
    let query = asked("cart.", RecordType::A);
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let reply: Message = receive(&socket).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!((names.counted(Event::DnsIgnored), names.counted(Event::DnsRefused)), (4, 1));
}
