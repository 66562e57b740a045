//! What flags and variables mean: each text is parsed here once, into a value that is right.
//!
//! Pure: reads no file and no variable. The flags are declared in `cli.rs`; what a component makes of a value
//! is its own business. Each error says what was wanted, so that clap's message needs no manual.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use meshwork_core::model::AppProtocol;
use meshwork_core::name::is_label;

/// Loopback: a control plane that other machines can reach is a decision, not a default.
pub(crate) const CONTROL_LISTEN: &str = "127.0.0.1:4190";
/// Where names are answered unless told otherwise: both families, as rules lead each to its own.
pub(crate) const DNS: &str = "127.0.0.1:15053,[::1]:15053";
pub(crate) const OUTBOUND_HTTP: &str = "127.0.0.1:4140";
pub(crate) const ADMIN: &str = "127.0.0.1:4191";

/// Why a text is no value of its kind: what it is, and what was wanted.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub(crate) struct Invalid {
    text: String,
    wanted: &'static str,
}

pub(crate) fn invalid(text: &str, wanted: &'static str) -> Invalid {
    Invalid { text: text.chars().take(256).collect(), wanted }
}

/// A DNS label: the name of a service, a namespace, a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wanted = "a name (1 to 63 lower-case letters, digits and dashes, no dash at an end)";
        if is_label(text) { Ok(Self(text.to_owned())) } else { Err(invalid(text, wanted)) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A DNS name or an IP, for the control plane's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerName(String);

impl ServerName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let dns = text.len() <= 253 && text.split('.').all(|label| is_label(&label.to_ascii_lowercase()));
        if dns || text.parse::<IpAddr>().is_ok() {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(invalid(text, "a DNS name or an IP address"))
        }
    }
}

/// A length of time: a number and its unit (`500ms`, `90s`, `10m`, `1h`, `7d`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(Duration);

impl Span {
    pub(crate) fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wanted = "a time such as 500ms, 90s, 10m, 1h or 7d";
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| invalid(text, wanted))?;
        let (number, unit) = text.split_at(unit_at);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid(text, wanted)),
        };
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        millis.map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| invalid(text, wanted))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

/// An amount of memory: a number and its unit (`256MiB`, `2GiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wanted = "an amount of memory such as 64MiB, 512MiB or 2GiB";
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| invalid(text, wanted))?;
        let (number, unit) = text.split_at(unit_at);
        let unit_bytes: u64 = match unit {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(invalid(text, wanted)),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes));
        bytes.filter(|bytes| *bytes > 0).map(Self).ok_or_else(|| invalid(text, wanted))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}KiB", self.0 >> 10)
    }
}

/// `[SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec {
    pub(crate) service_port: u16,
    pub(crate) app_port: u16,
    /// `None`: the sidecar finds out.
    pub(crate) protocol: Option<AppProtocol>,
}

impl FromStr for PortSpec {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wanted = "[SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp], for example 80:8080/http";
        let parse = || {
            let (ports, protocol) = match text.split_once('/') {
                Some((ports, protocol)) => (ports, Some(app_protocol(protocol)?)),
                None => (text, None),
            };
            let (service, app) = ports.split_once(':').unwrap_or((ports, ports));
            Some(Self { service_port: port(service)?, app_port: port(app)?, protocol })
        };
        parse().ok_or_else(|| invalid(text, wanted))
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service_port, self.app_port)?;
        match self.protocol {
            None => Ok(()),
            Some(AppProtocol::Http) => f.write_str("/http"),
            Some(AppProtocol::Http2) => f.write_str("/http2"),
            Some(AppProtocol::Grpc) => f.write_str("/grpc"),
            Some(AppProtocol::Tcp) => f.write_str("/tcp"),
        }
    }
}

fn app_protocol(text: &str) -> Option<AppProtocol> {
    Some(match text {
        "http" => AppProtocol::Http,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        _ => return None,
    })
}

/// A port number in its only form: no sign, no leading zero, not 0.
pub(crate) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.starts_with(|c: char| ('1'..='9').contains(&c)))
}

/// `SERVICE:PORT=IP:PORT`: a local address that leads to one port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamSpec {
    pub(crate) target: Address,
    pub(crate) listen: SocketAddr,
}

impl FromStr for UpstreamSpec {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (target, listen) = text.split_once('=')?;
            Some(Self { target: target.parse().ok()?, listen: listen.parse().ok()? })
        };
        parse().ok_or_else(|| invalid(text, "SERVICE:PORT=IP:PORT, for example stock:5432=127.0.0.1:5432"))
    }
}

impl fmt::Display for UpstreamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.target, self.listen)
    }
}

/// `IP:PORT=APP_PORT[/http|http2|grpc]`: where the mesh reaches the application on that port of loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServeSpec {
    pub(crate) listen: SocketAddr,
    pub(crate) app_port: u16,
    /// `None`: HTTP/1.1.
    pub(crate) protocol: Option<AppProtocol>,
}

impl FromStr for ServeSpec {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (listen, app) = text.split_once('=')?;
            let PortSpec { service_port: _, app_port, protocol } = app.parse().ok()?;
            let carried = protocol != Some(AppProtocol::Tcp) && !app.contains(':');
            Some(Self { listen: listen.parse().ok().filter(|_| carried)?, app_port, protocol })
        };
        let wanted = "IP:PORT=APP_PORT[/http|http2|grpc], for example 0.0.0.0:15443=8080";
        parse().ok_or_else(|| invalid(text, wanted))
    }
}

impl fmt::Display for ServeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.app_port)
    }
}

/// `HOST:PORT` as an application writes it: `stock:5432`, `stock.shop:5432`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (host, number) = text.rsplit_once(':')?;
            let host = host.to_ascii_lowercase();
            let valid = host.len() <= 253 && host.split('.').all(is_label);
            port(number).filter(|_| valid).map(|port| Self { host, port })
        };
        parse().ok_or_else(|| invalid(text, "HOST:PORT, for example stock:5432"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `K=V`, a label of the workload, in Kubernetes' form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (key, value) = text.split_once('=')?;
            let name = match key.split_once('/') {
                Some((prefix, name)) if prefix.split('.').all(is_label) && prefix.len() <= 253 => name,
                Some(_) => return None,
                None => key,
            };
            let valid = !name.is_empty() && is_label_word(name) && is_label_word(value);
            valid.then(|| Self { key: key.to_owned(), value: value.to_owned() })
        };
        parse().ok_or_else(|| {
            invalid(text, "a label K=V (63 letters, digits, `-_.` at most, a letter or digit at both ends)")
        })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// A label's name or value: may be empty; otherwise begins and ends with a letter or digit (Kubernetes,
/// "Labels and Selectors").
fn is_label_word(word: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    word.len() <= 63
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && alphanumeric(word.chars().next())
        && alphanumeric(word.chars().next_back())
}

/// `REGION/ZONE`; an empty part is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locality {
    pub(crate) region: String,
    pub(crate) zone: String,
}

impl FromStr for Locality {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (region, zone) = text.split_once('/').unwrap_or((text, ""));
            let valid = [region, zone].into_iter().all(is_label_word);
            valid.then(|| Self { region: region.to_owned(), zone: zone.to_owned() })
        };
        parse().ok_or_else(|| invalid(text, "REGION/ZONE, for example eu-west/a"))
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.zone)
    }
}

/// How the sidecar finds out whether its application is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// 200 from this path of the first port.
    Http { path: String },
    /// Each port accepts connections.
    Tcp,
    /// `grpc.health.v1.Health/Check` on the first port.
    Grpc,
}

impl FromStr for Health {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once(':') {
            // The path goes into a request line as it is: nothing that could end that line.
            Some(("http", path)) if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) => {
                Ok(Self::Http { path: path.to_owned() })
            }
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "grpc" => Ok(Self::Grpc),
            _ => Err(invalid(text, "a health check (http:/PATH, tcp or grpc)")),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { path } => write!(f, "http:{path}"),
            Self::Tcp => f.write_str("tcp"),
            Self::Grpc => f.write_str("grpc"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` means `expect`, and is written so that it means the same again; `None`: it is refused.
    #[track_caller]
    fn check<T: FromStr + PartialEq + fmt::Debug + fmt::Display>(text: &str, expect: Option<T>) {
        let parsed = text.parse::<T>().ok();
        assert_eq!(parsed, expect, "{text}");
        if let Some(value) = parsed {
            assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text}");
        }
    }

    fn spec(service_port: u16, app_port: u16, protocol: Option<AppProtocol>) -> Option<PortSpec> {
        Some(PortSpec { service_port, app_port, protocol })
    }

    #[test]
    fn a_port_spec_names_service_port_app_port_and_protocol() {
        check("8080", spec(8080, 8080, None));
        check("80:8080", spec(80, 8080, None));
        check("80:8080/http", spec(80, 8080, Some(AppProtocol::Http)));
        check("8080/http2", spec(8080, 8080, Some(AppProtocol::Http2)));
        check("8080/grpc", spec(8080, 8080, Some(AppProtocol::Grpc)));
        check("5432/tcp", spec(5432, 5432, Some(AppProtocol::Tcp)));
        for text in
            ["", "0", "80:0", ":80", "80:", "65536", "80/udp", "80/", "+80", "080", "1:2:3", "80/http/tcp"]
        {
            check::<PortSpec>(text, None);
        }
    }

    #[test]
    fn a_span_is_a_number_and_its_unit() {
        let span = |ms| Some(Span(Duration::from_millis(ms)));
        check("500ms", span(500));
        check("0s", span(0));
        check("90s", span(90_000));
        check("10m", span(600_000));
        check("1h", span(3_600_000));
        check("7d", span(604_800_000));
        for text in
            ["", "5", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999d", "18446744073709551615d"]
        {
            check::<Span>(text, None);
        }
    }

    #[test]
    fn a_size_is_a_number_and_its_unit() {
        check("64KiB", Some(Size(64 << 10)));
        check("256MiB", Some(Size(256 << 20)));
        check("2GiB", Some(Size(2 << 30)));
        for text in ["", "256", "MiB", "0MiB", "1.5GiB", "1 GiB", "-1MiB", "256MB", "1TiB", "99999999999GiB"]
        {
            check::<Size>(text, None);
        }
    }

    #[test]
    fn an_upstream_leads_from_a_local_address_to_a_services_port() {
        let listen = "127.0.0.1:5432".parse().unwrap();
        let stock = Address { host: "stock".to_owned(), port: 5432 };
        check("stock:5432=127.0.0.1:5432", Some(UpstreamSpec { target: stock.clone(), listen }));
        check("STOCK:5432=127.0.0.1:5432", Some(UpstreamSpec { target: stock, listen }));
        let spoken = "0.0.0.0:15443=8080/grpc".parse::<ServeSpec>().unwrap();
        assert_eq!((spoken.app_port, spoken.protocol), (8_080, Some(AppProtocol::Grpc)));
        for refused in ["15443=8080", "0.0.0.0:15443=8080/tcp", "0.0.0.0:15443=80:8080", "0.0.0.0:15443"] {
            assert!(refused.parse::<ServeSpec>().is_err(), "{refused}");
        }
        let far = Address { host: "stock.shop".to_owned(), port: 1 };
        check("stock.shop:1=[::1]:2", Some(UpstreamSpec { target: far, listen: "[::1]:2".parse().unwrap() }));
        for text in [
            "stock=127.0.0.1:1",
            "stock:0=127.0.0.1:1",
            "stock:1",
            "stock:1=1",
            "a b:1=127.0.0.1:1",
            ":1=127.0.0.1:1",
        ] {
            check::<UpstreamSpec>(text, None);
        }
    }

    #[test]
    fn a_label_has_kubernetes_form() {
        let label = |key: &str, value: &str| Some(Label { key: key.to_owned(), value: value.to_owned() });
        check("version=v1", label("version", "v1"));
        check("example.com/tier=back_end.1", label("example.com/tier", "back_end.1"));
        check("version=", label("version", ""));
        for text in
            ["version", "=v1", "a b=c", "a=b=c", "-a=b", "/a=b", "a/=b", &format!("a={}", "x".repeat(64))]
        {
            check::<Label>(text, None);
        }
    }

    #[test]
    fn a_locality_is_a_region_and_perhaps_a_zone() {
        let locality =
            |region: &str, zone: &str| Some(Locality { region: region.to_owned(), zone: zone.to_owned() });
        check("eu-west/a", locality("eu-west", "a"));
        check("eu-west", locality("eu-west", ""));
        check("/", locality("", ""));
        check::<Locality>("a/b/c", None);
    }

    #[test]
    fn a_health_check_is_http_tcp_or_grpc() {
        check("http:/healthz?x=1", Some(Health::Http { path: "/healthz?x=1".to_owned() }));
        check("tcp", Some(Health::Tcp));
        check("grpc", Some(Health::Grpc));
        for text in ["", "http", "http:", "http:healthz", "http:/a b", "http:/a\r\nX: y", "tcp:80", "udp"] {
            check::<Health>(text, None);
        }
    }

    #[test]
    fn names_are_dns_labels() {
        check("cart", Some(Name("cart".to_owned())));
        for text in ["", "Cart", "-cart", "cart-", "cart.shop", "../x", &"x".repeat(64)] {
            check::<Name>(text, None);
        }
    }

    #[test]
    fn a_certificates_name_is_a_dns_name_or_an_ip() {
        for text in ["mesh.example.com", "10.0.0.5", "::1", "Mesh.Example.com"] {
            assert!(text.parse::<ServerName>().is_ok(), "{text}");
        }
        for text in ["", "a..b", "https://x", "a b", "*.example.com"] {
            assert!(text.parse::<ServerName>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_says_what_was_wanted() {
        let error = "80/udp".parse::<PortSpec>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"80/udp\" is not [SERVICE_PORT:]APP_PORT[/http|http2|grpc|tcp], for example 80:8080/http"
        );
    }
}
