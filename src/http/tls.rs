//! TLS for clients. The certificate and its key are files, which are reloaded when they change.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::{crash::Lock, store::error::ErrorChain};

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and its intermediate certificates, as PEM.
    pub certificate: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not PEM, or does not contain a certificate or key.
    #[error("reading {} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate and the key do not match, or are of an unsupported type.
    #[error("using {} with {}", certificate.display(), key.display())]
    Unfit {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// How often the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// A certificate that can be replaced while connections are open.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: Lock<Current>,
}

#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    /// The contents of the files at the last check, whether they were usable or not.
    seen: Contents,
    /// How many consecutive times the files could not be read.
    read_failures: u32,
}

/// The contents of the certificate file and of the key file.
type Contents = [Vec<u8>; 2];

impl Tls {
    /// Loads the certificate.
    ///
    /// # Errors
    /// If a file cannot be read, is not PEM, or the key does not match the certificate.
    pub fn load(files: Files) -> Result<Arc<Self>, TlsError> {
        let seen = files.read()?;
        let certified = Arc::new(files.parse(&seen)?);
        Ok(Arc::new(Self {
            files,
            current: Lock::new(Current { certified, seen, read_failures: 0 }),
        }))
    }

    /// An acceptor that offers HTTP/2 and HTTP/1.1.
    #[must_use]
    pub(super) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        // An explicit provider, so that no process-wide default must be installed first.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring offers rustls' own protocol versions")
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(Into::into).into();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Reloads the certificate when its files change. Never returns. An unusable certificate is logged once,
    /// and the old one stays in use.
    pub(super) async fn watch(&self) {
        let mut ticks = interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.reload_if_changed();
        }
    }

    /// Reads the files with blocking calls, because they are small and local.
    fn reload_if_changed(&self) {
        let read = self.files.read();
        let mut current = self.current.lock();
        let contents = match read {
            Ok(contents) => contents,
            Err(error) => {
                current.read_failures += 1;
                // A file that is being replaced may be missing for a moment.
                if current.read_failures == 2 {
                    warn!(
                        "the certificate cannot be read; the old one stays in use: {}",
                        ErrorChain(&error)
                    );
                }
                return;
            }
        };
        current.read_failures = 0;
        if contents == current.seen {
            return;
        }
        match self.files.parse(&contents) {
            Ok(certified) => {
                current.certified = Arc::new(certified);
                info!("reloaded the certificate from {}", self.files.certificate.display());
            }
            Err(error) => {
                warn!(
                    "the new certificate cannot be used; the old one stays in use: {}",
                    ErrorChain(&error)
                );
            }
        }
        current.seen = contents;
    }
}

impl ResolvesServerCert for Tls {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.lock();
        Some(Arc::clone(&current.certified))
    }
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source })
        };
        Ok([read(&self.certificate)?, read(&self.key)?])
    }

    fn parse(&self, [certificate, key]: &Contents) -> Result<CertifiedKey, TlsError> {
        let wrong = |path: &PathBuf| {
            let path = path.clone();
            move |source| TlsError::Pem { path, source }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(wrong(&self.certificate))?;
        if chain.is_empty() {
            return Err(wrong(&self.certificate)(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(wrong(&self.key))?;
        let unfit = |source| TlsError::Unfit {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
        // This also checks that the key matches the certificate.
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(unfit)
    }
}
