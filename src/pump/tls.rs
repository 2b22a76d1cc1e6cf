//! Whom an aggregator's certificate is believed, and the certificate that a pump shows itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use crate::tls;

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Who vouches for the aggregator, in place of those that the operating system trusts.
    pub roots: Option<PathBuf>,
    /// The certificate, with those that vouch for it, and its key, that the pump shows.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or is no PEM file of the kind.
    #[error("reading {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Nothing to verify an aggregator against.
    #[error("there is no usable root certificate")]
    NoRoots,
    /// The certificate and the key do not go together.
    #[error("using the certificate and its key")]
    Unusable(#[from] rustls::Error),
}

/// How connections are encrypted.
pub fn config(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = tls::client().with_root_certificates(roots(files.roots.as_deref())?);
    let config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let chain = tls::certificates(certificates).map_err(unreadable(certificates))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    let roots = match file {
        Some(path) => tls::roots_in(path).map_err(unreadable(path))?,
        None => tls::system_roots(),
    };
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn unreadable(path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Unreadable { path, source }
}
