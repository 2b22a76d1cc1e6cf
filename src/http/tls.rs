//! TLS for clients: the certificate and its key come from files, and are read again when these
//! change.

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

use crate::{crash::Lock, store::error::Chain};

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and those between it and its root, as PEM.
    pub certificate: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// It is no PEM, or has not in it what it should.
    #[error("reading {} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate and the key do not belong together, or are of a kind that is not known.
    #[error("using {} with {}", certificate.display(), key.display())]
    Unfit {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

/// Clients see this within so long after the files have changed.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate that can be replaced while connections are open.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: Lock<Current>,
}

#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    /// The files as they were last looked at, whether they could be used or not.
    seen: Texts,
    /// How many times running they could not be read.
    unread: u32,
}

type Texts = [Vec<u8>; 2];

impl Tls {
    /// Reads the files.
    pub fn load(files: Files) -> Result<Arc<Self>, TlsError> {
        let seen = files.read()?;
        let certified = Arc::new(files.parse(&seen)?);
        Ok(Arc::new(Self { files, current: Lock::new(Current { certified, seen, unread: 0 }) }))
    }

    /// What accepts connections, over HTTP/2 or HTTP/1.1, as the client prefers.
    ///
    /// # Panics
    /// Never: `ring` offers rustls' own protocol versions.
    #[must_use]
    pub(super) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        // PathParams here, so that no process-wide default is needed, nor any order of set-up.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring offers rustls' own protocol versions")
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(Into::into).into();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Looks at the files from time to time, and never returns. What cannot be used changes
    /// nothing, and is told once.
    pub(super) async fn keep(&self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// The files are small, and on a disk of ours.
    fn look(&self) {
        let read = self.files.read();
        let mut current = self.current.lock();
        let texts = match read {
            Ok(texts) => texts,
            Err(error) => {
                current.unread += 1;
                // Between the removal of a file and its replacement there is none.
                if current.unread == 2 {
                    warn!("the certificate cannot be read, the old one stays: {}", Chain(&error));
                }
                return;
            }
        };
        current.unread = 0;
        if texts == current.seen {
            return;
        }
        match self.files.parse(&texts) {
            Ok(certified) => {
                current.certified = Arc::new(certified);
                info!("the certificate was read again from {}", self.files.certificate.display());
            }
            Err(error) => {
                warn!("a new certificate cannot be used, the old one stays: {}", Chain(&error));
            }
        }
        current.seen = texts;
    }
}

impl ResolvesServerCert for Tls {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.lock();
        Some(Arc::clone(&current.certified))
    }
}

impl Files {
    fn read(&self) -> Result<Texts, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source })
        };
        Ok([read(&self.certificate)?, read(&self.key)?])
    }

    fn parse(&self, [certificate, key]: &Texts) -> Result<CertifiedKey, TlsError> {
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
        // Whether they belong together is checked as well.
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(unfit)
    }
}
