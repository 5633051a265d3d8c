//! Whom to trust. The machine's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in their place, as OpenSSL
//! has it; those of `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` in addition, as Python users set them;
//! `WANDB_INSECURE_DISABLE_SSL=true` trusts everybody, as with the SDK.

use std::{env, fs, path::Path};

use reqwest::{Certificate, ClientBuilder};

use crate::error::Error;

/// Teaches a client whom to trust.
///
/// # Errors
/// A file that a variable names cannot be read or holds no certificate.
pub(super) fn trusting(builder: ClientBuilder) -> Result<ClientBuilder, Error> {
    // Only the first call installs it; the result says no more.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = builder;
    for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let Some(path) = env::var_os(name).filter(|path| !path.is_empty()) else { continue };
        let path = Path::new(&path);
        // A folder of hashed certificates: OpenSSL's own form, which SSL_CERT_DIR takes.
        if path.is_dir() || env::var_os("SSL_CERT_FILE").is_some_and(|other| *other == *path) {
            continue;
        }
        let bytes = fs::read(path).map_err(|error| {
            Error::io(&format!("{name}: cannot read"), path, &error)
                .hint(format!("correct {name} or unset it"))
        })?;
        let certificates = Certificate::from_pem_bundle(&bytes)
            .map_err(|_| Error::usage(format!("{name}: {} holds no certificates", path.display())))?;
        builder = builder.tls_certs_merge(certificates);
        break;
    }
    if env::var("WANDB_INSECURE_DISABLE_SSL")
        .is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "True"))
    {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    Ok(builder)
}
