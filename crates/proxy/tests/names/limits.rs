//! When it is enough: look-ups that wait, and connections.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use meshwork_proxy::telemetry::Event;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::resolver::Resolver;
use crate::support::{Names, PATIENCE, addresses, asked, receive};

/// `side/dns/answer.rs`
const WAITING_MAX: usize = 256;

/// `side/dns/tcp.rs`
const CONNECTIONS_MAX: usize = 256;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Each takes some hundred descriptors.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn as_many_look_ups_wait_as_may_and_those_of_the_mesh_need_not() {
    let _alone = ALONE.lock().await;
    let silent = Resolver::start(|_, _| Vec::new());
    let names = Names::start(&[silent.address]);
    let mut sockets = Vec::new();
    for number in 0..WAITING_MAX {
        if number % 32 == 0 {
            sockets.push(names.client().await); // several, as all their answers come at once
        }
        let socket = &sockets[number / 32];
        let query = asked(&format!("h{number}.www.example.com."), RecordType::A);
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        // One by one, so that no buffer is too small.
        silent.wait_for(number + 1).await;
    }
    // Each of those waits at least until its tries are over, and this is a matter of milliseconds; on a machine that
    // was stopped for seconds meanwhile some are over, and then they said so first.
    let one_more = names.ask("www.example.net.", RecordType::A).await;
    assert_eq!(one_more.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&names.ask("cart.", RecordType::A).await).len(), 1);
    if names.counted(Event::DnsResolverTimeout) == 0 {
        assert_eq!(names.counted(Event::LimitDnsQueries), 1);
    }
    for number in 0..WAITING_MAX {
        assert_eq!(receive(&sockets[number / 32]).await.metadata.response_code, ResponseCode::ServFail);
    }
}

#[tokio::test]
async fn beyond_as_many_connections_as_may_be_a_new_one_is_closed() {
    let _alone = ALONE.lock().await;
    let begin = Instant::now();
    let names = Names::start(&[]);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(TcpStream::connect(names.address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(names.address).await.unwrap();
    let ended = timeout(PATIENCE, one_more.read(&mut [0; 1])).await.expect("it stays open");
    assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes == 0));
    // Later than that, those before it may have ended for being silent.
    if begin.elapsed() < IDLE_MAX {
        assert_eq!(names.counted(Event::LimitDnsConnections), 1);
    }
}
