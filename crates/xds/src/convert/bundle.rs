//! TrustBundle: an SDS secret with a trust domain's roots as PEM, inline.

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use meshwork_core::resource::TrustBundle;
use prost::Message as _;

use super::open::{Refused, Under, decode, open, required};
use super::pem;
use crate::wire::core::{DataSource, data_source::Specifier};
use crate::wire::tls::{CertificateValidationContext, Secret, secret::Type};

pub(super) fn write(bundle: &TrustBundle) -> Vec<u8> {
    let roots = DataSource {
        specifier: Some(Specifier::InlineBytes(pem::write(&bundle.roots).into_bytes())),
        ..DataSource::default()
    };
    let message = Secret {
        name: bundle.trust_domain.clone(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(roots),
            ..CertificateValidationContext::default()
        })),
    };
    message.encode_to_vec()
}

pub(super) fn read(bytes: &[u8]) -> Result<TrustBundle, Refused> {
    let message: Secret = decode(bytes)?;
    open!(message, Secret { name, r#type } refuse {});
    let Some(Type::ValidationContext(context)) = r#type else {
        return Err(Refused::at("type", "must be validation_context"));
    };
    Ok(TrustBundle { trust_domain: name, roots: read_context(context).under("validation_context")? })
}

fn read_context(context: CertificateValidationContext) -> Result<Vec<Vec<u8>>, Refused> {
    open!(context, CertificateValidationContext { trusted_ca } refuse {
        ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
        verify_certificate_hash, match_typed_subject_alt_names, match_subject_alt_names,
        require_signed_certificate_timestamp, crl, allow_expired_certificate, trust_chain_verification,
        custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list
    });
    read_roots(required("trusted_ca", trusted_ca)?).under("trusted_ca")
}

fn read_roots(source: DataSource) -> Result<Vec<Vec<u8>>, Refused> {
    open!(source, DataSource { specifier } refuse { watched_directory });
    let pem = match required("specifier", specifier)? {
        Specifier::InlineBytes(bytes) => {
            String::from_utf8(bytes).map_err(|_| Refused::at("inline_bytes", "is no PEM text"))?
        }
        Specifier::InlineString(text) => text,
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => {
            return Err(Refused::at("specifier", "must be inline_bytes or inline_string"));
        }
    };
    match pem::read(&pem).map_err(|fault| Refused::at("specifier", fault))? {
        roots if roots.is_empty() => Err(Refused::at("specifier", "holds no root: nobody could be trusted")),
        roots => Ok(roots),
    }
}
