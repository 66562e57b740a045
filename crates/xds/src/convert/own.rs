//! Inbound and MeshSettings: messages of our own, which only our sidecars ask for.

use std::str::FromStr;

use meshwork_core::model::{AccessLog, MtlsMode, SETTINGS_NAME, Unknown, UnknownDestinations};
use meshwork_core::resource::{Inbound, InboundPort, MeshSettings};
use prost::Message as _;

use super::common::{read_cluster_name, read_port};
use super::open::{Refused, Under, decode, expect};
use super::words;
use crate::proto;

pub(super) fn write_inbound(inbound: &Inbound) -> Vec<u8> {
    let message = proto::Inbound {
        name: inbound.name.clone(),
        ports: inbound.ports.iter().map(|port| write_port(port, inbound.mtls)).collect(),
        mtls: write_mtls(inbound.mtls).into(),
    };
    message.encode_to_vec()
}

fn write_mtls(mode: MtlsMode) -> proto::MtlsMode {
    match mode {
        MtlsMode::Strict => proto::MtlsMode::Strict,
        MtlsMode::Permissive => proto::MtlsMode::Permissive,
    }
}

/// `None`: not said.
fn read_mtls(mode: i32) -> Result<Option<MtlsMode>, Refused> {
    match proto::MtlsMode::try_from(mode) {
        Ok(proto::MtlsMode::Unspecified) => Ok(None),
        Ok(proto::MtlsMode::Strict) => Ok(Some(MtlsMode::Strict)),
        Ok(proto::MtlsMode::Permissive) => Ok(Some(MtlsMode::Permissive)),
        Err(_) => Err(Refused::at("mtls", format!("is {mode}, must be STRICT (1) or PERMISSIVE (2)"))),
    }
}

/// A port's own mode is written only where it differs, as older sidecars don't know it.
fn write_port(port: &InboundPort, mtls: MtlsMode) -> proto::InboundPort {
    let own = (port.mtls != mtls).then(|| write_mtls(port.mtls));
    proto::InboundPort {
        app_port: port.app_port.into(),
        app_protocol: port.hint.map(words::app_protocol).unwrap_or_default(),
        service: port.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        mtls: own.unwrap_or(proto::MtlsMode::Unspecified).into(),
    }
}

pub(super) fn read_inbound(bytes: &[u8]) -> Result<Inbound, Refused> {
    let proto::Inbound { name, ports, mtls } = decode(bytes)?;
    let mtls = read_mtls(mtls)?
        .ok_or_else(|| Refused::at("mtls", "is not said, must be STRICT (1) or PERMISSIVE (2)"))?;
    let ports = ports.into_iter().enumerate();
    let ports =
        ports.map(|(index, port)| read_inbound_port(port, mtls).under(format_args!("ports[{index}]")));
    Ok(Inbound { name, ports: ports.collect::<Result<_, _>>()?, mtls })
}

fn read_inbound_port(port: proto::InboundPort, of_all: MtlsMode) -> Result<InboundPort, Refused> {
    let proto::InboundPort { app_port, app_protocol, service, mtls } = port;
    let mtls = read_mtls(mtls)?.unwrap_or(of_all);
    let hint = match app_protocol.as_str() {
        "" => None,
        word => Some(words::read_app_protocol("app_protocol", word)?),
    };
    let service = match service.as_str() {
        "" => None,
        name => Some(read_cluster_name("service", name)?),
    };
    Ok(InboundPort { app_port: read_port("app_port", app_port)?, hint, service, mtls })
}

pub(super) fn write_settings(settings: &MeshSettings) -> Vec<u8> {
    let access_log = match settings.access_log {
        AccessLog::Off => proto::AccessLog::Off,
        AccessLog::Errors => proto::AccessLog::Errors,
        AccessLog::All => proto::AccessLog::All,
    };
    let message = proto::MeshSettings {
        name: SETTINGS_NAME.to_owned(),
        mesh_id: settings.mesh_id.clone(),
        trust_domain: settings.trust_domain.clone(),
        access_log: access_log.into(),
        ranges: settings.ranges.iter().map(ToString::to_string).collect(),
        virtual_ranges: settings.virtual_ranges.iter().map(ToString::to_string).collect(),
        // As the default is not written, older sidecars take the rest.
        unknown: match settings.unknown.default {
            Unknown::Passthrough => proto::Unknown::Unspecified,
            Unknown::Deny => proto::Unknown::Deny,
        }
        .into(),
        unknown_in: settings.unknown.namespaces.iter().map(write_unknown_in).collect(),
        issuing_root: settings.issuing_root.clone(),
    };
    message.encode_to_vec()
}

fn write_unknown_in((namespace, unknown): (&String, &Unknown)) -> (String, i32) {
    let unknown = match unknown {
        Unknown::Passthrough => proto::Unknown::Passthrough,
        Unknown::Deny => proto::Unknown::Deny,
    };
    (namespace.clone(), unknown.into())
}

fn read_unknown(field: &str, unknown: i32) -> Result<Unknown, Refused> {
    match proto::Unknown::try_from(unknown) {
        Ok(proto::Unknown::Unspecified | proto::Unknown::Passthrough) => Ok(Unknown::Passthrough),
        Ok(proto::Unknown::Deny) => Ok(Unknown::Deny),
        Err(_) => Err(Refused::at(field, format!("is {unknown}, must be PASSTHROUGH (1) or DENY (2)"))),
    }
}

fn read_ranges<T: FromStr>(field: &str, ranges: &[String]) -> Result<Vec<T>, Refused> {
    let read = |(index, range): (usize, &String)| {
        let refused =
            || Refused::at(format_args!("{field}[{index}]"), format!("is {range:?}, must be a CIDR"));
        range.parse().map_err(|_| refused())
    };
    ranges.iter().enumerate().map(read).collect()
}

pub(super) fn read_settings(bytes: &[u8]) -> Result<MeshSettings, Refused> {
    let proto::MeshSettings {
        name,
        mesh_id,
        trust_domain,
        access_log,
        ranges,
        issuing_root,
        virtual_ranges,
        unknown,
        unknown_in,
    } = decode(bytes)?;
    expect("name", &name.as_str(), &SETTINGS_NAME)?;
    if mesh_id.is_empty() {
        return Err(Refused::at("mesh_id", "is empty: this mesh could not be told from another"));
    }
    let access_log = match proto::AccessLog::try_from(access_log) {
        Ok(proto::AccessLog::Off) => AccessLog::Off,
        Ok(proto::AccessLog::Errors) => AccessLog::Errors,
        Ok(proto::AccessLog::All) => AccessLog::All,
        Ok(proto::AccessLog::Unspecified) | Err(_) => {
            return Err(Refused::at(
                "access_log",
                format!("is {access_log}, must be OFF (1), ERRORS (2) or ALL (3)"),
            ));
        }
    };
    let ranges = read_ranges("ranges", &ranges)?;
    let virtual_ranges = read_ranges("virtual_ranges", &virtual_ranges)?;
    let in_namespace = |(namespace, unknown): (String, i32)| {
        let read = read_unknown(&format!("unknown_in[{namespace:?}]"), unknown)?;
        Ok((namespace, read))
    };
    let unknown = UnknownDestinations {
        default: read_unknown("unknown", unknown)?,
        namespaces: unknown_in.into_iter().map(in_namespace).collect::<Result<_, _>>()?,
    };
    if !issuing_root.is_empty() && !is_hash(&issuing_root) {
        return Err(Refused::at("issuing_root", "must be 64 hexadecimal digits, or empty"));
    }
    Ok(MeshSettings { mesh_id, trust_domain, access_log, issuing_root, ranges, virtual_ranges, unknown })
}

/// SHA-256 as we write it.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
