//! For `crates/fuzz` alone: the file of the last good config, read from bytes and written to bytes.

use meshwork_core::compile::Audience;
use meshwork_xds::session::client::Versioned;

use super::format::{self, Content};

/// What a file holds.
#[derive(Debug, PartialEq)]
pub struct Kept(Content);

/// Refused is the sentence that the log has.
pub fn read_kept(bytes: &[u8]) -> Result<Kept, String> {
    format::read(bytes).map(Kept).map_err(|error| error.to_string())
}

impl Kept {
    pub fn held(&self) -> &[Versioned] {
        &self.0.held
    }

    /// Resources that this version does not take.
    pub fn refused(&self) -> usize {
        self.0.refused.len()
    }

    /// As a sidecar would write it.
    pub fn write(&self, audience: Audience) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let resources = self.0.held.iter().map(|versioned| versioned.resource.clone());
        format::write(&mut out, &self.0.head, audience, resources)?;
        Ok(out)
    }

    /// One of some resources, as a sidecar that holds them would write it.
    pub fn of(held: Vec<Versioned>) -> Self {
        let head = format::Head {
            mesh_id: "mesh-1".to_owned(),
            workload: "default/web-1".to_owned(),
            era: "0123456789abcdef".to_owned(),
            revision: "7".to_owned(),
            wanted: vec!["cart:80".to_owned(), "gone:80".to_owned()],
        };
        Self(Content { head, held, refused: Vec::new() })
    }
}
