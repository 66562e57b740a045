//! The sidecar's further thread.

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness nothing here works; the keys' maker will say so.
    let _ = meshwork_identity::provider().secure_random.fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
