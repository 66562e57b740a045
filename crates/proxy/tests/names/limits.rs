//! When it is enough: look-ups that wait, and connections.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use meshwork_proxy::telemetry::{Event, Registry};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::resolver::Resolver;
use crate::support::{Names, PATIENCE, addresses, asked, name, receive};

/// `side/dns/answer.rs`
const WAITING_MAX: usize = 256;

/// `side/dns/tcp.rs`
const CONNECTIONS_MAX: usize = 256;
const IDLE_MAX: Duration = Duration::from_secs(10);

const ONE_MORE: &str = "www.example.net.";

/// Each takes some hundred descriptors.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn as_many_look_ups_wait_as_may_and_those_of_the_mesh_need_not() {
    let _alone = ALONE.lock().await;
    let (counts, too_early) = (Arc::new(OnceLock::<Arc<Registry>>::new()), Arc::new(AtomicBool::new(false)));
    let (seen, early) = (counts.clone(), too_early.clone());
    let silent = Resolver::start(move |query, _| {
        // A place is free only once a query has failed.
        let none_is_over = || seen.get().is_some_and(|counts| counts.counted(Event::DnsFailed) == 0);
        if query.queries[0].name == name(ONE_MORE) && none_is_over() {
            early.store(true, Ordering::Relaxed);
        }
        Vec::new()
    });
    let names = Names::start(&[silent.address]);
    assert!(counts.set(names.registry.clone()).is_ok());
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
    // Where this machine was stopped for seconds some are over by now, and it waits in one's place.
    let one_more = names.send(&asked(ONE_MORE, RecordType::A)).await;
    assert_eq!(one_more.metadata.response_code, ResponseCode::ServFail);
    assert!(!too_early.load(Ordering::Relaxed), "{WAITING_MAX} wait, and one more is let in");
    assert_eq!(addresses(&names.ask("cart.", RecordType::A).await).len(), 1);
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
