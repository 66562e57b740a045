//! What an intermediary does to a head before it passes it on (RFC 9110, 7.6): pure functions on a head.
//!
//! What concerns one connection alone ends here; what the origin is to see stays. `Via` is not added:
//! the mesh is as transparent to its applications as a wire. `Content-Length` and `Transfer-Encoding`
//! may stay in the head: whoever sends frames the message anew and never copies them.

use crate::h1::list;
use crate::{Head, Known, StatusCode, Version};

/// Whether an upgrade (RFC 9110, 7.8) is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrades {
    Pass,
    Remove,
}

/// Who consumes `Proxy-Authorization` and `Proxy-Authenticate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAuthentication {
    /// A further proxy: they stay.
    Pass,
    /// We, or nobody: they are removed.
    Remove,
}

/// What the request asked of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardRequest {
    /// An upgrade is passed on: the answer may be 101.
    pub upgrade: bool,
    /// `Expect: 100-continue`: the client may wait for a 100 before it sends the body.
    pub expects_continue: bool,
}

/// Makes a received request ready to be sent on: what was for our connection alone is dropped, an
/// absolute-form target becomes path and `Host`.
pub fn request(head: &mut Head, upgrades: Upgrades, proxy: ProxyAuthentication) -> ForwardRequest {
    let upgrade = match upgrades {
        Upgrades::Pass if head.version() >= Version::Http11 => asked_upgrade(head),
        Upgrades::Pass | Upgrades::Remove => None,
    };
    let trailers = takes_trailers(head);
    let asked = ForwardRequest {
        upgrade: upgrade.is_some(),
        // RFC 9110, 10.1.1: HTTP/1.0 knows no expectations.
        expects_continue: head.version() >= Version::Http11
            && head.values(Known::Expect).any(|value| value.eq_ignore_ascii_case(b"100-continue")),
    };
    drop_hop_by_hop(head);
    head.remove_known(Known::Te);
    head.remove_known(Known::Upgrade);
    head.remove_known(Known::Http2Settings);
    if proxy == ProxyAuthentication::Remove {
        head.remove_known(Known::ProxyAuthorization);
    }
    if trailers {
        head.append("TE", b"trailers");
        head.append("Connection", b"TE");
    }
    if let Some(protocols) = upgrade {
        head.append("Connection", b"Upgrade");
        head.append("Upgrade", &protocols);
    }
    if head.method() != "CONNECT" {
        head.lower_authority();
    }
    asked
}

/// Makes a received response, interim or final, ready to be sent on.
pub fn response(head: &mut Head, proxy: ProxyAuthentication) {
    // 101 names what was switched to, 426 what must be switched to (RFC 9110, 15.5.22); elsewhere
    // `Upgrade` offers what the origin speaks, which is of no use to a client two connections away.
    let keeps_upgrade =
        matches!(head.status(), StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED)
            && head.get(Known::Upgrade).is_some();
    if keeps_upgrade {
        head.remove_connection_options(|known| keeps(known) || known == Known::Upgrade);
        drop_connection(head);
        head.append("Connection", b"Upgrade");
    } else {
        drop_hop_by_hop(head);
        head.remove_known(Known::Upgrade);
    }
    if proxy == ProxyAuthentication::Remove {
        head.remove_known(Known::ProxyAuthenticate);
    }
}

fn drop_hop_by_hop(head: &mut Head) {
    head.remove_connection_options(keeps);
    drop_connection(head);
}

fn drop_connection(head: &mut Head) {
    head.remove_known(Known::Connection);
    head.remove_known(Known::KeepAlive);
    head.remove_known(Known::ProxyConnection);
    head.remove_known(Known::TransferEncoding);
}

/// Fields that no `Connection` option removes: they say what the message is to every reader, and a
/// sender that lists them (which RFC 9110, 7.6.1 forbids) wants the next reader to see another message.
fn keeps(known: Known) -> bool {
    matches!(known, Known::Host | Known::ContentLength | Known::TransferEncoding | Known::Connection)
}

/// The protocols that may be switched to, if `Connection` and `Upgrade` ask for any. `h2c` is left out:
/// it is no upgrade of this request alone, and would open a way that nobody on the path reads.
fn asked_upgrade(head: &Head) -> Option<Vec<u8>> {
    let named = head.values(Known::Connection).flat_map(list).any(|o| o.eq_ignore_ascii_case(b"upgrade"));
    if !named {
        return None;
    }
    let mut protocols = Vec::new();
    for protocol in head.values(Known::Upgrade).flat_map(list) {
        if !protocol.eq_ignore_ascii_case(b"h2c") {
            if !protocols.is_empty() {
                protocols.extend_from_slice(b", ");
            }
            protocols.extend_from_slice(protocol);
        }
    }
    Some(protocols).filter(|protocols| !protocols.is_empty())
}

/// `TE: trailers`: the client takes trailers (RFC 9110, 10.1.4). Other codings are for our connection.
fn takes_trailers(head: &Head) -> bool {
    head.values(Known::Te).flat_map(list).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        head.start_request(Version::Http11, "GET", "/");
        fields.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
        head
    }

    fn lines(head: &Head) -> Vec<String> {
        head.fields()
            .map(|(name, value)| {
                format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
            })
            .collect()
    }

    #[track_caller]
    fn check(fields: &[(&str, &str)], expect: &[&str]) -> ForwardRequest {
        let mut head = head(fields);
        let asked = request(&mut head, Upgrades::Pass, ProxyAuthentication::Remove);
        assert_eq!(lines(&head), expect);
        asked
    }

    #[test]
    fn what_is_for_one_connection_ends_here() {
        check(
            &[
                ("Host", "cart"),
                ("Connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("Proxy-Authorization", "Basic eDp5"),
                ("Trailer", "x-sum"),
                ("Accept", "*/*"),
            ],
            &["Host: cart", "Trailer: x-sum", "Accept: */*"],
        );
    }

    #[test]
    fn no_option_removes_what_all_must_see() {
        check(
            &[("Host", "cart"), ("Connection", "host, content-length"), ("Content-Length", "1")],
            &["Host: cart", "Content-Length: 1"],
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_but_never_h2c() {
        let asked = check(
            &[("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket, h2c")],
            &["Connection: Upgrade", "Upgrade: websocket"],
        );
        assert!(asked.upgrade);
        let h2c = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA")];
        assert!(!check(&h2c, &[]).upgrade);
        assert!(!check(&[("Upgrade", "websocket")], &[]).upgrade, "Connection does not name it");
    }

    #[test]
    fn trailers_are_asked_for_on() {
        check(&[("TE", "gzip, trailers"), ("Connection", "te")], &["TE: trailers", "Connection: TE"]);
        check(&[("TE", "gzip")], &[]);
    }

    #[test]
    fn expectations_are_told_and_stay() {
        assert!(check(&[("Expect", "100-Continue")], &["Expect: 100-Continue"]).expects_continue);
    }

    #[test]
    fn a_targets_authority_becomes_the_host() {
        let mut head = head(&[("Host", "wrong")]);
        head.set_scheme("http");
        head.set_authority("cart:80");
        request(&mut head, Upgrades::Pass, ProxyAuthentication::Remove);
        assert_eq!((head.scheme(), lines(&head)), ("", vec!["Host: cart:80".to_owned()]));
    }

    #[track_caller]
    fn check_response(status: u16, fields: &[(&str, &str)], expect: &[&str]) {
        let mut head = Head::default();
        head.start_response(Version::Http11, StatusCode::new(status).unwrap(), b"");
        fields.iter().for_each(|(name, value)| head.append(name, value.as_bytes()));
        response(&mut head, ProxyAuthentication::Remove);
        assert_eq!(lines(&head), expect);
    }

    #[test]
    fn a_response_loses_its_connections_fields() {
        let offer = [("Connection", "Upgrade, x"), ("Upgrade", "h2"), ("X", "1"), ("Keep-Alive", "max=3")];
        check_response(200, &offer, &[]);
        check_response(101, &offer, &["Upgrade: h2", "Connection: Upgrade"]);
        check_response(426, &offer, &["Upgrade: h2", "Connection: Upgrade"]);
        check_response(407, &[("Proxy-Authenticate", "Basic")], &[]);
    }
}
