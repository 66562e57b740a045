//! The one table of every answer that the mesh itself makes: why, with which status, what to do about it.
//!
//! A `Cause` is the status of the answer, the value of the header `x-meshwork-cause`, the metric's label, the
//! word in the log and the entry in `docs/causes.md`, which a test keeps equal to this file. The application
//! behind the mesh never causes one: its own 404 has no cause.
//!
//! Statuses follow RFC 9209 (Proxy-Status, 2.3), which recommends one for each error of an intermediary:
//! 503 if the mesh had nowhere to send the request, 502 if it tried and the other end failed, 504 if that
//! took too long. One difference: refusing an address is 403, as the request is at fault and will stay so.
//!
//! A gRPC call is answered in gRPC's own words: its client looks at nothing else.
//!
//! Pure: heads and bodies are written into the caller's buffers.

mod body;

pub use body::Format;

use std::fmt::Write as _;

use meshwork_http::StatusCode;

use crate::grpc;

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is at fault: whoever sent it.
    Downstream,
    /// The mesh's configuration, state or software.
    Mesh,
    /// The other end, or the way to it.
    Upstream,
}

impl Fault {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
        }
    }
}

/// Whether the answer proves that no application saw the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It did not, and another endpoint may fare better: the caller's sidecar tries one, whatever the method.
    /// Believed only if it comes from a verified peer's sidecar.
    NotProcessed,
    /// It may have, or another try would end alike.
    Final,
}

struct Row {
    word: &'static str,
    status: StatusCode,
    grpc: grpc::Status,
    fault: Fault,
    certainty: Certainty,
    sentence: &'static str,
    cure: &'static str,
}

macro_rules! causes {
    ($($variant:ident = $word:literal, $status:literal, $grpc:ident, $fault:ident, $certainty:ident,
        $sentence:literal, $cure:literal;)*) => {
        /// Why the mesh itself answered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $(#[doc = $sentence] $variant,)*
        }

        impl Cause {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        word: $word,
                        status: const { StatusCode::new($status).expect("the table holds valid statuses") },
                        grpc: grpc::Status::$grpc,
                        fault: Fault::$fault,
                        certainty: Certainty::$certainty,
                        sentence: $sentence,
                        cure: $cure,
                    },)*
                }
            }
        }
    };
}

causes! {
    BadRequest = "bad_request", 400, Internal, Downstream, Final,
        "the request is not valid HTTP",
        "the log names the fault; mend the client. What two parsers could read differently is refused, even if a lenient server would take it";
    OwnPortRefused = "own_port_refused", 403, PermissionDenied, Downstream, Final,
        "the request goes to a port of the sidecar itself",
        "call a service by its name; if a client names this address on purpose, except it from the proxy by NO_PROXY";
    LinkLocalRefused = "link_local_refused", 403, PermissionDenied, Downstream, Final,
        "the request goes to a link-local address (such as a cloud's metadata service), which is not reached through the mesh",
        "call it directly: add the address to NO_PROXY";
    AddressRefused = "address_refused", 403, PermissionDenied, Downstream, Final,
        "the request goes to an address that is not one host's (unspecified, multicast or broadcast)",
        "call a service by its name or a host by its address";
    DestinationDenied = "destination_denied", 403, PermissionDenied, Mesh, Final,
        "no service of the mesh claims the destination, and the mesh lets nothing else out of this namespace",
        "if the caller may go there, say `passthrough` for its namespace in the MeshConfig (`spec.outbound.unknown`); if it is a service, see `meshwork get service`";
    NoRoute = "no_route", 404, Unimplemented, Mesh, Final,
        "no rule of the service's routes matches the request",
        "compare the request's path, method and headers with `meshwork describe service NAME`; a rule without matches takes everything";
    RequestTimeout = "request_timeout", 408, Unavailable, Downstream, Final,
        "the request's head did not arrive in time",
        "look for a client that opens connections and is slow to use them, or for packet loss";
    UriTooLong = "uri_too_long", 414, ResourceExhausted, Downstream, Final,
        "the request's target is longer than the limit",
        "send data in the body; docs/limits.md names the limit";
    HeadTooLarge = "head_too_large", 431, ResourceExhausted, Downstream, Final,
        "the request's head is larger than the limit",
        "look for growing cookies or forwarded headers; docs/limits.md names the limit";
    NoBackend = "no_backend", 500, Unavailable, Mesh, Final,
        "the rule has no backend with a weight above 0, or its backend does not exist",
        "correct `backendRefs` of the HTTPRoute; `meshwork describe httproute NAME` shows which one is missing";
    Internal = "internal", 500, Internal, Mesh, Final,
        "the sidecar met a fault of its own (a panic), which cost this connection only",
        "report it with the log lines around it; a newer version may have it mended";
    NotImplemented = "not_implemented", 501, Unimplemented, Downstream, Final,
        "the request uses a part of HTTP that the mesh does not carry, such as an unknown transfer coding",
        "send the body with a length or `chunked`";
    ConnectFailed = "connect_failed", 502, Unavailable, Upstream, NotProcessed,
        "no connection to the endpoint's address could be made",
        "see in `meshwork status` whether the endpoint's sidecar runs, and whether its address can be reached from here";
    TlsFailed = "tls_failed", 502, Unavailable, Upstream, NotProcessed,
        "the TLS handshake with the endpoint's sidecar failed",
        "the log has the alert: an expired certificate, a clock that is off, or a root that the other side does not trust (`meshwork status` shows each)";
    WrongIdentity = "wrong_identity", 502, Unavailable, Upstream, NotProcessed,
        "the endpoint proved an identity that may not serve this service",
        "if it should, name its account in the Service's annotation `meshwork.dev/accounts`; if not, find out who took that address";
    UpstreamReset = "upstream_reset", 502, Unavailable, Upstream, Final,
        "the connection to the endpoint broke before its answer was complete",
        "see whether the endpoint restarted or crashed; the request may have been processed, so it was tried again only if its method may be repeated";
    UpstreamProtocol = "upstream_protocol", 502, Internal, Upstream, Final,
        "the endpoint's answer is not valid HTTP",
        "see whether the port speaks HTTP at all (`appProtocol: tcp` if not); the log names the fault";
    AppRefused = "app_refused", 502, Unavailable, Upstream, NotProcessed,
        "the application refuses connections on its port",
        "see whether it runs and listens on the port that its sidecar was told (`--port`), on loopback or everywhere";
    AppReset = "app_reset", 502, Unavailable, Upstream, Final,
        "the application closed the connection before its answer was complete",
        "look in the application's log for a crash or a limit; the request may have been processed, so it was tried again only if its method may be repeated";
    AppProtocol = "app_protocol", 502, Internal, Upstream, Final,
        "the application's answer is not valid HTTP",
        "mend the application, or set `appProtocol: tcp` if the port does not speak HTTP; the log names the fault";
    PassthroughFailed = "passthrough_failed", 502, Unavailable, Upstream, Final,
        "a destination outside the mesh could not be resolved or reached, or broke off",
        "if it should be a service of the mesh, see `meshwork get service` for its name and port; otherwise try it from this machine without the mesh";
    UnknownService = "unknown_service", 502, Unavailable, Mesh, Final,
        "the mesh has no service of that name and port",
        "see `meshwork get service`; a name without a namespace is looked up in the caller's own";
    UnknownServiceYet = "unknown_service_yet", 503, Unavailable, Mesh, NotProcessed,
        "the control plane has not yet told the sidecar about that service",
        "see in `meshwork status` whether the sidecar is connected to the control plane; services that it already knows are not affected";
    NoEndpoint = "no_endpoint", 503, Unavailable, Mesh, NotProcessed,
        "no endpoint of the service can take the request",
        "`meshwork describe service NAME` shows its endpoints and their health; see whether its workloads run and carry the labels that it selects";
    Overloaded = "overloaded", 503, Unavailable, Mesh, NotProcessed,
        "a limit of the sidecar's connections, requests or memory is reached",
        "add replicas; docs/limits.md names the limits, the log the one that was met";
    Draining = "draining", 503, Unavailable, Upstream, NotProcessed,
        "the sidecar is shutting down and takes nothing new",
        "nothing, if it is rare: callers' sidecars go elsewhere. If a caller sees it, its sidecar had no other endpoint";
    Drained = "drained", 503, Unavailable, Upstream, Final,
        "the instance shut down before its answer was complete, and the time that it gives what runs was up",
        "give it longer (`--drain` of `meshwork run`), or make the request shorter; it may have been processed, so it was not sent twice";
    ConnectTimeout = "connect_timeout", 504, Unavailable, Upstream, NotProcessed,
        "no connection to the endpoint's address was made in time",
        "look for a firewall that drops packets or a host that is gone; `meshwork status` shows when the endpoint was last heard of";
    AppConnectTimeout = "app_connect_timeout", 504, Unavailable, Upstream, NotProcessed,
        "the application did not accept the connection in time",
        "its queue of connections is full: it is overloaded or hangs";
    BackendRequestTimeout = "backend_request_timeout", 504, DeadlineExceeded, Upstream, Final,
        "one try took longer than `timeouts.backendRequest` of the rule or of the service's policy allows",
        "see why the endpoint is slow; give the try more time, or allow further tries (`retry`) if the request may reach an application twice";
    DeadlineExceeded = "deadline_exceeded", 504, DeadlineExceeded, Upstream, Final,
        "the request, all tries together, took longer than `timeouts.request` or its caller's `grpc-timeout` allows",
        "see in the metrics which service is slow; give the request more time if it needs it";
    VersionNotSupported = "version_not_supported", 505, Internal, Downstream, Final,
        "the request's HTTP version is not spoken here",
        "use HTTP/1.0, HTTP/1.1 or HTTP/2";
}

impl Cause {
    /// What the header, the metric and the log say.
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// The cause of that word; a newer peer may send one that is not known here.
    pub fn find(word: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.word().as_bytes() == word)
    }

    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// What a gRPC client is told instead of the HTTP status.
    pub const fn grpc_status(self) -> grpc::Status {
        self.row().grpc
    }

    pub const fn fault(self) -> Fault {
        self.row().fault
    }

    /// What this cause proves when a verified peer's sidecar answers with it.
    pub const fn certainty(self) -> Certainty {
        self.row().certainty
    }

    /// What happened, without a capital or full stop.
    pub const fn sentence(self) -> &'static str {
        self.row().sentence
    }

    /// What to do about it, without a capital or full stop.
    pub const fn cure(self) -> &'static str {
        self.row().cure
    }
}

/// `docs/causes.md`.
pub fn table_markdown() -> String {
    let mut text = String::from(
        "# Causes\n\n\
         Every answer that the mesh itself makes has the header `x-meshwork-cause`; answers of applications\n\
         never have it. The same word is in the body, in the metric's label `cause` and in the access log.\n\n\
         A gRPC call is answered as gRPC does: HTTP status 200 and no body, `grpc-status` with the number in the\n\
         column *gRPC*, and `grpc-message` with what happened and what to do.\n\n\
         *Fault* says who must act: the *downstream* that sent the request, the *mesh*, or the *upstream* that\n\
         it went to. *Tried again* says that no application saw the request, so the caller's sidecar tries\n\
         another endpoint, where there is one, before anybody sees this answer. Others with 502, 503 or 504 are\n\
         tried again if the method may be repeated ([resilience.md](resilience.md)).\n\n\
         This file is written by `crates/core/src/cause.rs`; a test keeps it so.\n\n\
         | cause | status | gRPC | fault | tried again | what happened | what to do |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for cause in Cause::ALL {
        let Row { word, status, grpc, fault, certainty, sentence, cure } = cause.row();
        let again = match certainty {
            Certainty::NotProcessed => "yes",
            Certainty::Final => "no",
        };
        let (grpc, fault) = (grpc.number(), fault.word());
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{word}` | {status} | {grpc} | {fault} | {again} | {sentence} | {cure} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_is_found_and_stands_once() {
        let words: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.word()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(Cause::find(cause.word().as_bytes()), Some(*cause));
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
            assert!(cause.word().bytes().all(plain), "{}", cause.word());
        }
        assert_eq!(Cause::find(b"something_newer"), None);
    }

    #[test]
    fn the_status_tells_whose_fault_it_is() {
        for cause in Cause::ALL {
            let (status, word) = (cause.status(), cause.word());
            match cause.fault() {
                // 501 and 505 are about the request too (RFC 9110, 15.6.2 and 15.6.6).
                Fault::Downstream => {
                    assert!(status.class() == 4 || [501, 505].contains(&status.as_u16()), "{word}")
                }
                // What operators said of the request: it is well, and yet goes nowhere.
                Fault::Mesh => {
                    let said = matches!(cause, Cause::NoRoute | Cause::DestinationDenied);
                    assert!(status.class() == 5 || said, "{word}");
                }
                Fault::Upstream => assert_eq!(status.class(), 5, "{word}"),
            }
        }
    }

    #[test]
    fn what_may_have_been_processed_is_never_tried_again() {
        for cause in [
            Cause::UpstreamReset,
            Cause::AppReset,
            Cause::AppProtocol,
            Cause::Internal,
            Cause::BackendRequestTimeout,
            Cause::DeadlineExceeded,
        ] {
            assert_eq!(cause.certainty(), Certainty::Final);
        }
        for cause in [Cause::AppRefused, Cause::Draining, Cause::Overloaded] {
            assert_eq!(cause.certainty(), Certainty::NotProcessed);
        }
    }

    /// Clients of gRPC try an `Unavailable` call again by themselves, and what is refused for good must not look like one.
    #[test]
    fn grpc_hears_whether_another_try_may_help() {
        for cause in Cause::ALL {
            let grpc = cause.grpc_status();
            assert!(grpc != grpc::Status::Ok, "{}", cause.word());
            if cause.certainty() == Certainty::NotProcessed {
                assert_eq!(grpc, grpc::Status::Unavailable, "{}", cause.word());
            }
        }
    }

    #[test]
    fn sentences_fit_a_table_and_a_body() {
        for cause in Cause::ALL {
            for text in [cause.sentence(), cause.cure()] {
                assert!(
                    !text.is_empty() && !text.ends_with('.') && !text.contains(['|', '\n', '"']),
                    "{text}"
                );
            }
        }
    }

    /// `MESHWORK_UPDATE_DOCS=1 cargo test -p meshwork-core causes_are_documented` writes the file anew.
    #[test]
    #[allow(clippy::disallowed_methods)] // a test may read the file that it judges
    fn causes_are_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/causes.md");
        if std::env::var_os("MESHWORK_UPDATE_DOCS").is_some() {
            std::fs::write(path, table_markdown()).unwrap();
        }
        let documented = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            documented == table_markdown(),
            "docs/causes.md is not what cause.rs says: run this test with MESHWORK_UPDATE_DOCS=1"
        );
    }
}
