//! The words that our own messages use for `core`'s enums; one table each, read and written by it.

use meshwork_core::model::{AppProtocol, Transport};

use super::open::Refused;

/// In `ListenerHint` and `InboundPort`: the hint that skips detection.
const APP_PROTOCOLS: [(AppProtocol, &str); 4] = [
    (AppProtocol::Http, "http"),
    (AppProtocol::Http2, "http2"),
    (AppProtocol::Grpc, "grpc"),
    (AppProtocol::Tcp, "tcp"),
];

/// In `EndpointDetail`.
const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::MtlsHttp2, "mtls-http2"),
    (Transport::MtlsHttp1, "mtls-http1"),
    (Transport::MtlsTcp, "mtls-tcp"),
    (Transport::Plaintext, "plaintext"),
];

pub(super) fn app_protocol(protocol: AppProtocol) -> String {
    word(&APP_PROTOCOLS, protocol)
}

pub(super) fn read_app_protocol(field: &str, text: &str) -> Result<AppProtocol, Refused> {
    read(&APP_PROTOCOLS, field, text)
}

pub(super) fn transport(transport: Transport) -> String {
    word(&TRANSPORTS, transport)
}

pub(super) fn read_transport(field: &str, text: &str) -> Result<Transport, Refused> {
    read(&TRANSPORTS, field, text)
}

fn word<T: Copy + PartialEq>(table: &[(T, &str)], value: T) -> String {
    let row = table.iter().find(|(known, _)| *known == value);
    row.map(|(_, word)| (*word).to_owned()).unwrap_or_default()
}

fn read<T: Copy>(table: &[(T, &str)], field: &str, text: &str) -> Result<T, Refused> {
    let row = table.iter().find(|(_, word)| *word == text);
    row.map(|(value, _)| *value).ok_or_else(|| {
        let words = table.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
        Refused::at(field, format!("is {text:?}, this version of meshwork knows {words}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_word() {
        // The matches show a new variant here; its row is then missed below.
        let protocols = [AppProtocol::Http, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp];
        for value in protocols {
            match value {
                AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => {}
            }
            assert_eq!(read_app_protocol("f", &app_protocol(value)), Ok(value));
        }
        let transports =
            [Transport::MtlsHttp2, Transport::MtlsHttp1, Transport::MtlsTcp, Transport::Plaintext];
        for value in transports {
            match value {
                Transport::MtlsHttp2 | Transport::MtlsHttp1 | Transport::MtlsTcp | Transport::Plaintext => {}
            }
            assert_eq!(read_transport("f", &transport(value)), Ok(value));
        }
    }

    #[test]
    fn an_unknown_word_is_refused_by_its_field() {
        let refused = read_transport("transports[1]", "quic").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "transports[1]: is \"quic\", this version of meshwork knows mtls-http2, mtls-http1, mtls-tcp, plaintext"
        );
    }
}
