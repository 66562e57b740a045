//! Keys, certificates, verification and signing.
