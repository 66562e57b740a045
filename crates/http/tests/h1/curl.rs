//! A real client: curl over a loopback socket, against a blocking server that drives the engine.

#![allow(clippy::disallowed_methods)] // here the test is the driver: sockets and the environment are its own

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use meshwork_http::h1::{BodyLength, Limits, Receiver, ResponseTo, Sender, Step};
use meshwork_http::{Head, StatusCode, Version};

/// Answers each request with a line about it and its body; paths ask for special answers.
fn serve(stream: &mut TcpStream) {
    let (mut receiver, mut sender) = (Receiver::requests(Limits::default()), Sender::new());
    let (mut input, mut out, mut head) = (Vec::new(), Vec::new(), Head::default());
    let (mut request, mut body) = (Head::default(), Vec::new());
    loop {
        let step = receiver.advance(&input, &mut head).expect("curl is well-behaved");
        let consumed = match step {
            Step::NeedMore { consumed } => {
                let mut piece = [0; 4096];
                let length = stream.read(&mut piece).unwrap();
                input.drain(..consumed);
                input.extend_from_slice(&piece[..length]);
                if length == 0 {
                    receiver.end_of_input(input.len()).expect("curl ends between requests");
                    return;
                }
                continue;
            }
            Step::Head { consumed } => {
                request = head.clone();
                body.clear();
                if request.header("expect").is_some() {
                    let mut interim = Head::default();
                    interim.start_response(Version::Http11, StatusCode::CONTINUE, b"");
                    sender.interim(&interim, ResponseTo::of(&request), &mut out).unwrap();
                    stream.write_all(&out).unwrap();
                    out.clear();
                }
                consumed
            }
            Step::Data { consumed, data } => {
                body.extend_from_slice(&input[data]);
                consumed
            }
            Step::Trailers { consumed } => consumed,
            Step::End { consumed } => {
                answer(&request, &body, receiver.keep_alive(), &mut sender, &mut out);
                stream.write_all(&out).unwrap();
                out.clear();
                if !sender.keep_alive() {
                    return;
                }
                receiver.next_message();
                consumed
            }
            Step::Upgraded { .. } => panic!("nobody upgrades here"),
        };
        input.drain(..consumed);
    }
}

fn answer(request: &Head, body: &[u8], keep_alive: bool, sender: &mut Sender, out: &mut Vec<u8>) {
    let status = if request.path() == "/none" { StatusCode::NO_CONTENT } else { StatusCode::OK };
    let mut head = Head::default();
    head.start_response(Version::Http11, status, b"");
    let line = format!("{} {} {} ", request.method(), request.path_and_query(), body.len());
    let length = match request.path() {
        "/chunked" => BodyLength::Chunked,
        _ => BodyLength::Known((line.len() + body.len()) as u64),
    };
    sender.response(&head, length, ResponseTo::of(request), keep_alive, out).unwrap();
    sender.data(line.as_bytes(), out).unwrap();
    sender.data(body, out).unwrap();
    let mut trailers = Head::default();
    trailers.start_trailers();
    trailers.append("x-sum", b"7");
    sender.end(Some(&trailers), out).unwrap();
}

/// Runs curl with a server of its own; `None` if there is no curl on this machine.
fn curl(arguments: &[&str]) -> Option<Output> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_over = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().take_while(|_| !is_over.load(Ordering::SeqCst)) {
                serve(&mut stream.unwrap());
            }
        });
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--noproxy", "", "--max-time", "20"])
            .args(arguments.iter().map(|argument| argument.replace("HERE", &address.to_string())))
            .output();
        is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(address)); // wakes the server up, so that it sees that it is over
        output
    });
    match output {
        Ok(output) => Some(output),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("curl must be here in CI: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: no curl on this machine ({error}); install it to run this test");
            None
        }
    }
}

#[track_caller]
fn check(arguments: &[&str], expect: &str) {
    if let Some(output) = curl(arguments) {
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expect);
        assert!(output.status.success());
    }
}

#[test]
fn curl_gets_two_answers_over_one_connection() {
    check(&["http://HERE/a?b=c", "http://HERE/chunked"], "GET /a?b=c 0 GET /chunked 0 ");
}

#[test]
fn curl_sends_bodies_with_a_length_and_in_chunks() {
    check(&["-d", "hello", "http://HERE/a"], "POST /a 5 hello");
    check(&["-d", "hello", "-H", "Transfer-Encoding: chunked", "http://HERE/a"], "POST /a 5 hello");
}

#[test]
fn curl_waits_for_100_continue() {
    let expect = ["-d", "hello", "-H", "Expect: 100-continue", "--expect100-timeout", "15", "http://HERE/a"];
    check(&expect, "POST /a 5 hello");
}

#[test]
fn curl_asks_for_heads_and_gets_nothing_where_there_is_nothing() {
    check(&["-I", "http://HERE/a"], "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    check(&["-i", "http://HERE/none"], "HTTP/1.1 204 No Content\r\n\r\n");
}

#[test]
fn curl_speaks_http_1_0() {
    check(&["--http1.0", "http://HERE/chunked"], "GET /chunked 0 ");
    let keep = ["--http1.0", "-H", "Connection: keep-alive", "http://HERE/a", "http://HERE/b"];
    check(&keep, "GET /a 0 GET /b 0 ");
}

#[test]
fn curl_speaks_to_a_proxy() {
    check(&["-x", "http://HERE", "http://cart.default:81/a"], "GET /a 0 ");
}
