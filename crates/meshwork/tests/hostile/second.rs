//! A second judge, which we did not write: the HTTP parser of Node (llhttp), in a server of Node's as it comes. It is given
//! what an application got, connection by connection, and must split it as the first judge does (`strict.rs`).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Command, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;

use crate::strict::{READ_IN_TWO_WAYS, Request, Rest, split};
use crate::support::Process;
use crate::wire::PATIENCE;

/// Its limits are those of a server that has none of its own; how strict it is, is left as it is.
const SERVER: &str = r#"
const http = require("http");
const judged = new Map();
const take = (request, response) => {
  const fields = request.rawHeaders;
  const hosts = fields.filter((_, at) => at % 2 == 1 && fields[at - 1].toLowerCase() == "host");
  const one = { method: request.method, target: request.url, hosts, body: null };
  judged.get(request.socket).requests.push(one);
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    one.body = Buffer.concat(pieces).toString("base64");
    response.end();
  });
};
const server = http.createServer({ maxHeaderSize: 1 << 24 }, take);
server.maxHeadersCount = 0;
server.on("checkExpectation", take);
server.on("connection", (socket) => {
  const told = { requests: [], error: null };
  judged.set(socket, told);
  socket.on("close", () => {
    judged.delete(socket);
    console.log(JSON.stringify(told));
  });
});
server.on("clientError", (error, socket) => {
  judged.get(socket).error = error.code;
  socket.destroy();
});
server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port, methods: http.METHODS }));
});
"#;

pub(crate) struct Judge {
    _node: Process,
    told: BufReader<std::process::ChildStdout>,
    port: u16,
    /// It refuses others, wherever a request may end.
    methods: BTreeSet<String>,
}

/// Put in the place of a method that it does not know.
const KNOWN: &str = "PATCH";

impl Judge {
    /// `None`: Node is not at hand, which was said.
    pub(crate) fn start() -> Option<Self> {
        let spawned = Command::new("node").args(["-e", SERVER]).stdout(Stdio::piped()).spawn();
        let mut node = match spawned {
            Ok(node) => Process(node),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "node cannot be run: {error}");
                println!("NOT CHECKED: whether Node splits requests alike ({error})");
                return None;
            }
        };
        let mut told = BufReader::new(node.0.stdout.take().unwrap());
        let mut first = String::new();
        told.read_line(&mut first).unwrap();
        let first: Value = serde_json::from_str(&first).expect("its first line");
        let methods = first["methods"].as_array().unwrap().iter().map(text).collect();
        Some(Self { _node: node, told, port: first["port"].as_u64().unwrap().try_into().unwrap(), methods })
    }

    /// What it makes of one connection's bytes: its whole requests, and whether it refuses what follows.
    fn split(&mut self, bytes: &[u8]) -> (Vec<Request>, Option<String>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have refused a part before it got the rest.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.read_to_end(&mut Vec::new());
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).expect("a line for each connection");
        let requests = told["requests"].as_array().unwrap().iter().filter_map(request).collect();
        (requests, told["error"].as_str().map(str::to_owned))
    }

    /// Splits a connection's bytes, and compares.
    #[track_caller]
    pub(crate) fn agrees(&mut self, bytes: &[u8]) -> usize {
        let bytes = &self.readable(bytes);
        let (ours, rest) = split(bytes);
        let (theirs, error) = self.split(bytes);
        let text = String::from_utf8_lossy(bytes);
        let other = (0..theirs.len().max(ours.len())).find(|at| theirs.get(*at) != ours.get(*at));
        if let Some(at) = other {
            let (theirs, ours) = (theirs.get(at), ours.get(at));
            panic!("Node reads {theirs:?} for {ours:?} ({error:?}; {rest:?}): {text:?}");
        }
        match rest {
            Rest::Nothing => assert_eq!(error, None, "Node refuses what is whole: {text:?}"),
            // It breaks off in its own way.
            Rest::Cut | Rest::Refused(_) => {}
        }
        ours.len()
    }
}

impl Judge {
    /// Where a request ends does not hang on a method that it does not know, nor on an upgrade that it refuses; but then it
    /// forgets what it has read already of the next one, which nobody sends before the answer.
    fn readable(&self, bytes: &[u8]) -> Vec<u8> {
        let mut all = bytes.to_vec();
        for request in split(bytes).0 {
            if self.methods.contains(&request.method) {
                continue;
            }
            // Paths are different in each case.
            let line = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
            let at = all.windows(line.len()).position(|window| window == line.as_bytes());
            let at = at.unwrap_or_else(|| panic!("no {line:?} in what was split"));
            all.splice(at..at + request.method.len(), KNOWN.bytes());
        }
        let upgrade = b"\r\nConnection: Upgrade\r\n";
        while let Some(at) =
            all.windows(upgrade.len()).position(|window| window.eq_ignore_ascii_case(upgrade))
        {
            all.splice(at..at + upgrade.len(), b"\r\nConnection: X\r\n".iter().copied());
        }
        all
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// `None`: its body did not end.
fn request(told: &Value) -> Option<Request> {
    let host = told["hosts"].as_array().unwrap().first().map(text).unwrap_or_default();
    Some(Request {
        method: text(&told["method"]),
        path: text(&told["target"]),
        host: host.to_ascii_lowercase(),
        body: BASE64_STANDARD.decode(told["body"].as_str()?).unwrap(),
    })
}

#[test]
fn the_second_judge_is_not_blind() {
    let Some(mut judge) = Judge::start() else { return };
    let whole = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPUT /c HTTP/1.1\r\nHost: a\r\n\
                 Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET /y HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(judge.agrees(whole.as_bytes()), 3);
    assert_eq!(judge.agrees(&whole.as_bytes()[..whole.len() - 1]), 2, "one is cut");
    // It would notice if we let through what it reads in another way than its sender.
    for fields in READ_IN_TWO_WAYS {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        let (requests, error) = judge.split(text.as_bytes());
        assert!(requests.is_empty() && error.is_some(), "{fields:?}: {requests:?} {error:?}");
    }
}
