//! Node's HTTP/2 server (nghttp2) at the other end of our client end: what servers do beside answering. It resets and refuses
//! streams, goes away, answers early, sends interim responses and trailers, opens tunnels, changes its settings.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use meshwork_http::h2::{By, Certainty, ErrorCode};

use crate::client::{Ask, Client};
use crate::peers::skip;

const SERVER: &str = r#"
const http2 = require("http2");
const { NGHTTP2_REFUSED_STREAM, NGHTTP2_NO_ERROR } = http2.constants;
const settings = { enableConnectProtocol: true, maxConcurrentStreams: 50, headerTableSize: 1000, initialWindowSize: 20000 };
const server = http2.createServer({ settings });
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  const path = headers[":path"];
  if (headers[":protocol"]) {
    stream.respond({ ":status": 200 });
    stream.on("data", (piece) => stream.write(piece.toString().toUpperCase()));
    stream.on("end", () => stream.end());
  } else if (path.startsWith("/bytes/")) {
    stream.respond({ ":status": 200, "x-long": "y".repeat(Number(headers["x-long"] || 0)) });
    stream.end(Buffer.alloc(Number(path.slice(7)), "x"));
  } else if (path === "/echo") {
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "7" }));
    stream.pipe(stream);
  } else if (path === "/interim") {
    stream.additionalHeaders({ ":status": 103, "link": "</a>" });
    stream.respond({ ":status": 200 });
    stream.end("done");
  } else if (path === "/early") {
    stream.respond({ ":status": 413 }, { endStream: true });
    stream.close(NGHTTP2_NO_ERROR);
  } else if (path === "/refuse") {
    stream.close(NGHTTP2_REFUSED_STREAM);
  } else if (path === "/break") {
    stream.respond({ ":status": 200 });
    stream.write("half", () => stream.destroy(new Error("broken")));
  } else if (path === "/settings") {
    stream.session.settings({ initialWindowSize: 100000, headerTableSize: 0 }, () => {
      stream.respond({ ":status": 204 }, { endStream: true });
    });
  } else if (path === "/last") {
    stream.session.goaway(0, stream.id);
    stream.respond({ ":status": 200 });
    stream.end("last");
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"#;

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start() -> Option<(Node, Client)> {
    let piped = Command::new("node").args(["-e", SERVER]).stdout(Stdio::piped()).spawn();
    let mut process = match piped {
        Ok(process) => process,
        Err(error) => {
            skip(&format!("node cannot be run ({error})"));
            return None;
        }
    };
    let mut port = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let client = Client::connect(&format!("127.0.0.1:{}", port.trim())).await;
    Some((Node(process), client))
}

#[tokio::test]
async fn node_answers_in_every_form() {
    let Some((_node, mut client)) = start().await else { return };
    let body = vec![b'z'; 300_000];
    let echo = client.one(Ask::new("POST", "/echo", &body)).await;
    assert_eq!((echo.body.len(), echo.field("x-sum")), (300_000, "7"));
    let interim = client.one(Ask::new("GET", "/interim", b"")).await;
    assert_eq!((interim.statuses, &*interim.body), (vec![103, 200], &b"done"[..]));
    // A head of several frames.
    let long = client.one(Ask::new("GET", "/bytes/10", b"").with("x-long", "40000")).await;
    assert_eq!((long.field("x-long").len(), long.body.len()), (40_000, 10));
    let head = client.one(Ask::new("HEAD", "/bytes/10", b"")).await;
    assert_eq!((head.statuses, head.body.len(), head.ended), (vec![200], 0, true));
}

#[tokio::test]
async fn node_lets_fifty_of_many_in_at_a_time() {
    let Some((_node, mut client)) = start().await else { return };
    client.one(Ask::new("GET", "/bytes/1", b"")).await; // its SETTINGS are there now
    let answers =
        client.all((0..400).map(|n| Ask::new("GET", &format!("/bytes/{}", n * 100), b"")).collect()).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer.statuses.as_slice(), answer.body.len(), answer.ended),
            (&[200][..], n * 100, true)
        );
    }
}

#[tokio::test]
async fn node_resets_and_refuses_streams() {
    let Some((_node, mut client)) = start().await else { return };
    let refused = client.one(Ask::new("GET", "/refuse", b"")).await.reset.unwrap();
    assert_eq!(
        (refused.code, refused.by, refused.certainty),
        (ErrorCode::REFUSED_STREAM, By::Peer, Certainty::NotProcessed)
    );
    let broken = client.one(Ask::new("GET", "/break", b"")).await;
    assert_eq!((broken.statuses, &*broken.body, broken.ended), (vec![200], &b"half"[..], false));
    assert_eq!(
        broken.reset.map(|reset| (reset.code, reset.certainty)),
        Some((ErrorCode::INTERNAL_ERROR, Certainty::Unknown))
    );
    let early = client.one(Ask::new("POST", "/early", &vec![0; 1 << 20])).await;
    assert_eq!((early.statuses, early.ended), (vec![413], true));
    let after = client.one(Ask::new("GET", "/bytes/5", b"")).await;
    assert_eq!(after.body, b"xxxxx");
}

#[tokio::test]
async fn node_opens_a_tunnel_and_changes_its_settings() {
    let Some((_node, mut client)) = start().await else { return };
    let changed = client.one(Ask::new("GET", "/settings", b"")).await;
    assert_eq!(changed.statuses, [204]);
    assert!(client.connection.peer_takes_connect_protocol());
    let mut tunnel = Ask::new("CONNECT", "/chat", b"hello");
    tunnel.head.set_protocol("websocket");
    let told = client.one(tunnel).await;
    assert_eq!((told.statuses, &*told.body, told.ended), (vec![200], &b"HELLO"[..], true));
    let echo = client.one(Ask::new("POST", "/echo", &vec![1; 200_000])).await;
    assert_eq!(echo.body.len(), 200_000, "with its larger window");
}

#[tokio::test]
async fn node_goes_away_and_what_it_did_not_take_may_be_asked_again() {
    let Some((_node, mut client)) = start().await else { return };
    client.one(Ask::new("GET", "/bytes/1", b"")).await;
    let paths = ["/last", "/bytes/1", "/bytes/2"];
    let answers = client.all(paths.map(|path| Ask::new("GET", path, b"")).into()).await;
    assert_eq!((answers[0].ended, &*answers[0].body), (true, &b"last"[..]));
    assert_eq!(client.goaway, Some((3, ErrorCode::NO_ERROR)));
    for answer in &answers[1..] {
        let reset = answer.reset.unwrap();
        assert_eq!((reset.certainty, reset.by), (Certainty::NotProcessed, By::Peer));
    }
    assert!(!client.connection.can_open() && client.connection.is_finished());
}
