//! Inbound and MeshSettings: messages of our own, which only our sidecars ask for.

use meshwork_core::mesh::SETTINGS_NAME;
use meshwork_core::model::AccessLog;
use meshwork_core::resource::{Inbound, InboundPort, MeshSettings, MtlsMode};
use prost::Message as _;

use super::common::{read_cluster_name, read_port};
use super::open::{Refused, Under, decode, expect};
use super::words;
use crate::proto;

pub(super) fn write_inbound(inbound: &Inbound) -> Vec<u8> {
    let mtls = match inbound.mtls {
        MtlsMode::Strict => proto::MtlsMode::Strict,
        MtlsMode::Permissive => proto::MtlsMode::Permissive,
    };
    let message = proto::Inbound {
        name: inbound.name.clone(),
        ports: inbound.ports.iter().map(write_port).collect(),
        mtls: mtls.into(),
    };
    message.encode_to_vec()
}

fn write_port(port: &InboundPort) -> proto::InboundPort {
    proto::InboundPort {
        app_port: port.app_port.into(),
        app_protocol: port.hint.map(words::app_protocol).unwrap_or_default(),
        service: port.service.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(super) fn read_inbound(bytes: &[u8]) -> Result<Inbound, Refused> {
    let proto::Inbound { name, ports, mtls } = decode(bytes)?;
    let mtls = match proto::MtlsMode::try_from(mtls) {
        Ok(proto::MtlsMode::Strict) => MtlsMode::Strict,
        Ok(proto::MtlsMode::Permissive) => MtlsMode::Permissive,
        Ok(proto::MtlsMode::Unspecified) | Err(_) => {
            return Err(Refused::at("mtls", format!("is {mtls}, must be STRICT (1) or PERMISSIVE (2)")));
        }
    };
    let ports = ports.into_iter().enumerate();
    let ports = ports.map(|(index, port)| read_inbound_port(port).under(format_args!("ports[{index}]")));
    Ok(Inbound { name, ports: ports.collect::<Result<_, _>>()?, mtls })
}

fn read_inbound_port(port: proto::InboundPort) -> Result<InboundPort, Refused> {
    let proto::InboundPort { app_port, app_protocol, service } = port;
    let hint = match app_protocol.as_str() {
        "" => None,
        word => Some(words::read_app_protocol("app_protocol", word)?),
    };
    let service = match service.as_str() {
        "" => None,
        name => Some(read_cluster_name("service", name)?),
    };
    Ok(InboundPort { app_port: read_port("app_port", app_port)?, hint, service })
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
        issuing_root: settings.issuing_root.clone(),
    };
    message.encode_to_vec()
}

pub(super) fn read_settings(bytes: &[u8]) -> Result<MeshSettings, Refused> {
    let proto::MeshSettings { name, mesh_id, trust_domain, access_log, ranges, issuing_root } =
        decode(bytes)?;
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
    let range = |(index, range): (usize, &String)| {
        range.parse().map_err(|_| {
            Refused::at(format_args!("ranges[{index}]"), format!("is {range:?}, must be a CIDR"))
        })
    };
    let ranges = ranges.iter().enumerate().map(range).collect::<Result<_, _>>()?;
    if !issuing_root.is_empty() && !is_hash(&issuing_root) {
        return Err(Refused::at("issuing_root", "must be 64 hexadecimal digits, or empty"));
    }
    Ok(MeshSettings { mesh_id, trust_domain, access_log, issuing_root, ranges })
}

/// SHA-256 as we write it.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
