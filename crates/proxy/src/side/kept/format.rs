//! The file of the last good config: text that says what it is, the state's owner, one record a resource, a checksum.
//!
//! ```text
//! meshwork config 1\n          what it is, and its format's version
//! u32 length, JSON             `Head`
//! u32 length, message          envoy.service.discovery.v3.Resource, as it came over the wire; repeated
//! u32 0                        the end
//! 32 bytes                     SHA-256 of everything before
//! ```
//! Numbers are big-endian. Each resource is judged again when it is read (`from_wire`), as a newer version of meshwork
//! may refuse what an older one took: a refused one is left out, the rest is used. The checksum is against damage, not
//! against attackers: whoever may write here has the key beside it.
//!
//! Streams: neither writing nor reading holds the file in memory.

use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use meshwork_core::compile::Audience;
use meshwork_core::resource::Resource;
use meshwork_core::version::version;
use meshwork_xds::convert::{from_wire, reference, to_wire};
use meshwork_xds::session::MESSAGE_BYTES_MAX;
use meshwork_xds::session::client::Versioned;
use meshwork_xds::wire::{self, Any};
use prost::Message as _;
use serde::{Deserialize, Serialize};

const MAGIC: &str = "meshwork config ";

/// Goes up when an older version could misread what a newer one wrote.
const FORMAT: u32 = 1;

/// Digits of a format's version, and its line feed.
const FORMAT_LINE_BYTES_MAX: usize = 11;

/// The whole file. 4,096 destinations with some endpoints each are 10 MiB; what is larger is not worth the disk's
/// time every few seconds, and is asked for anew after a restart.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Whose config it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) mesh_id: String,
    /// `<namespace>/<workload>`.
    pub(super) workload: String,
    /// The state of the control plane's store that it is of, or a newer one (`xds::session::Seen`).
    #[serde(default)]
    pub(super) era: String,
    #[serde(default)]
    pub(super) revision: String,
    /// Names that the application called, absent ones too.
    pub(super) wanted: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Content {
    pub(super) head: Head,
    pub(super) held: Vec<Versioned>,
    /// What this version does not take, each with its name and the reason.
    pub(super) refused: Vec<String>,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it has format {0}, this version of meshwork reads format {FORMAT}")]
    OtherFormat(String),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// `audience`: what this sidecar understands, so nothing is left out.
pub(super) fn write(
    out: impl Write,
    head: &Head,
    audience: Audience,
    resources: impl Iterator<Item = Resource>,
) -> io::Result<()> {
    let mut out = Summed { inner: out, sum: Context::new(&SHA256), bytes: 0 };
    out.write_all(format!("{MAGIC}{FORMAT}\n").as_bytes())?;
    record(&mut out, &serde_json::to_vec(head)?)?;
    for resource in resources {
        record(&mut out, &message(&resource, audience).encode_to_vec())?;
    }
    out.write_all(&0_u32.to_be_bytes())?;
    let Summed { mut inner, sum, .. } = out;
    inner.write_all(sum.finish().as_ref())?;
    inner.flush()
}

/// The version is a hash of the value, so the control plane's own: it need not be remembered.
fn message(resource: &Resource, audience: Audience) -> wire::Resource {
    let reference = reference(resource);
    let value = to_wire(resource, audience);
    wire::Resource {
        name: reference.name,
        version: version(resource).to_string(),
        resource: Some(Any { type_url: wire::type_url(reference.resource_type), value }),
        ..wire::Resource::default()
    }
}

fn record(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let too_large = || io::Error::new(ErrorKind::InvalidInput, "a resource is too large");
    let length = u32::try_from(bytes.len()).map_err(|_| too_large())?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(bytes)
}

pub(super) fn read(input: impl Read) -> Result<Content, Unreadable> {
    let mut input = Summed { inner: input, sum: Context::new(&SHA256), bytes: 0 };
    read_format(&mut input)?;
    let head = next_record(&mut input)?.ok_or_else(|| Unreadable::Damaged("it has no head".to_owned()))?;
    let head: Head = serde_json::from_slice(&head)
        .map_err(|error| Unreadable::Damaged(format!("its head is no JSON ({error})")))?;
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    while let Some(record) = next_record(&mut input)? {
        match judge(&record) {
            Ok(versioned) => held.push(versioned),
            Err(reason) => refused.push(reason),
        }
    }
    let Summed { mut inner, sum, .. } = input;
    let mut told = [0; SHA256_OUTPUT_LEN];
    inner.read_exact(&mut told).map_err(cut_off)?;
    if sum.finish().as_ref() != told {
        return Err(Unreadable::Damaged("its checksum is another's".to_owned()));
    }
    Ok(Content { head, held, refused })
}

fn read_format(input: &mut impl Read) -> Result<(), Unreadable> {
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(cut_off)?;
    if magic != *MAGIC.as_bytes() {
        return Err(Unreadable::Damaged("it is no config of meshwork".to_owned()));
    }
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < FORMAT_LINE_BYTES_MAX {
        let mut byte = [0];
        input.read_exact(&mut byte).map_err(cut_off)?;
        line.extend(byte);
    }
    match String::from_utf8_lossy(&line).trim_end() {
        format if format == FORMAT.to_string() => Ok(()),
        format => Err(Unreadable::OtherFormat(format.to_owned())),
    }
}

/// `None`: the end.
fn next_record(input: &mut impl Read) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(cut_off)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Unreadable::Damaged(format!("a record of {length} bytes")));
    }
    let mut record = vec![0; length];
    input.read_exact(&mut record).map_err(cut_off)?;
    Ok((length > 0).then_some(record))
}

fn judge(record: &[u8]) -> Result<Versioned, String> {
    let resource =
        wire::Resource::decode(record).map_err(|error| format!("a record is no resource ({error})"))?;
    let wire::Resource { name, version, resource, .. } = resource;
    let Any { type_url, value } = resource.unwrap_or_default();
    match from_wire(&type_url, &name, &value) {
        Ok(resource) => Ok(Versioned { version, resource }),
        Err(refused) => Err(format!("{name} ({type_url}): {refused}")),
    }
}

fn cut_off(error: io::Error) -> Unreadable {
    match error.kind() {
        ErrorKind::UnexpectedEof => Unreadable::Damaged("it ends in the middle".to_owned()),
        _ => Unreadable::Io(error),
    }
}

/// Counts and sums up what passes.
struct Summed<T> {
    inner: T,
    sum: Context,
    bytes: u64,
}

impl<T> Summed<T> {
    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > FILE_BYTES_MAX {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                format!("it has more than {FILE_BYTES_MAX} bytes"),
            ));
        }
        self.sum.update(bytes);
        Ok(())
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.pass(&bytes[..length])?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.pass(&buffer[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::compile::Features;
    use meshwork_core::model::{AccessLog, MtlsMode};
    use meshwork_core::resource::{Inbound, Listener, MeshSettings};

    use super::*;

    const AUDIENCE: Audience = Audience::Sidecar(Features::HTTP2);

    fn head() -> Head {
        let wanted = vec!["cart:80".to_owned(), "gone:80".to_owned()];
        Head {
            mesh_id: "m1".to_owned(),
            workload: "default/web-000001".to_owned(),
            era: "0123456789abcdef".to_owned(),
            revision: "7".to_owned(),
            wanted,
        }
    }

    fn listener(name: &str) -> Resource {
        let target = "default/cart:80".parse().unwrap();
        Resource::Listener(Listener { name: name.to_owned(), target, hint: None, address: None })
    }

    fn file(resources: &[Resource]) -> Vec<u8> {
        let mut file = Vec::new();
        write(&mut file, &head(), AUDIENCE, resources.iter().cloned()).unwrap();
        file
    }

    #[test]
    fn what_was_written_is_read_with_the_versions_of_the_control_plane() {
        let resources = [listener("cart:80"), listener("cart.default:80")];
        let content = read(&file(&resources)[..]).unwrap();
        let held = resources.map(|resource| Versioned { version: version(&resource).to_string(), resource });
        assert_eq!(content, Content { head: head(), held: held.to_vec(), refused: Vec::new() });
    }

    #[test]
    fn damage_anywhere_is_found() {
        let whole = file(&[listener("cart:80")]);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(read(&damaged[..]).is_err(), "byte {at} of {}", whole.len());
            let error = read(&whole[..at]).unwrap_err();
            assert!(matches!(error, Unreadable::Damaged(_)), "cut off at {at}: {error}");
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let newer = [MAGIC.as_bytes(), b"2\nwhatever comes there"].concat();
        let error = read(&newer[..]).unwrap_err();
        assert_eq!(error.to_string(), "it has format 2, this version of meshwork reads format 1");
        let endless = [MAGIC.as_bytes(), &[b'1'; 100]].concat();
        assert!(matches!(read(&endless[..]), Err(Unreadable::OtherFormat(_))));
    }

    #[test]
    fn a_resource_that_this_version_refuses_spoils_only_itself() {
        let mut strange = message(&listener("new:80"), AUDIENCE);
        strange.resource.as_mut().unwrap().type_url = "type.googleapis.com/meshwork.v9.Novelty".to_owned();
        let mut out = Summed { inner: Vec::new(), sum: Context::new(&SHA256), bytes: 0 };
        out.write_all(format!("{MAGIC}{FORMAT}\n").as_bytes()).unwrap();
        record(&mut out, &serde_json::to_vec(&head()).unwrap()).unwrap();
        for message in [strange, message(&listener("cart:80"), AUDIENCE)] {
            record(&mut out, &message.encode_to_vec()).unwrap();
        }
        out.write_all(&[0; 4]).unwrap();
        let Summed { mut inner, sum, .. } = out;
        inner.extend(sum.finish().as_ref());
        let content = read(&inner[..]).unwrap();
        assert_eq!(content.held.len(), 1);
        assert!(
            content.refused[0].contains("new:80") && content.refused[0].contains("Novelty"),
            "{content:?}"
        );
    }

    #[test]
    fn a_config_beyond_the_limit_is_not_written() {
        let endless = std::iter::repeat_with(|| listener(&"x".repeat(1 << 20)));
        let error = write(io::sink(), &head(), AUDIENCE, endless).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_sidecars_own_resources_are_kept_too() {
        let inbound =
            Inbound { name: "default/web-000001".to_owned(), ports: Vec::new(), mtls: MtlsMode::Strict };
        let settings = MeshSettings {
            mesh_id: "m1".to_owned(),
            trust_domain: "mesh.test".to_owned(),
            access_log: AccessLog::default(),
            issuing_root: String::new(),
            ranges: vec!["240.0.0.0/4".parse().unwrap()],
            virtual_ranges: Vec::new(),
            unknown: Default::default(),
        };
        let own = [Resource::Inbound(inbound), Resource::MeshSettings(settings)];
        let held = read(&file(&own)[..]).unwrap().held;
        assert_eq!(held.into_iter().map(|held| held.resource).collect::<Vec<_>>(), own);
    }
}
