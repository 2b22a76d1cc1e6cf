//! TLS by `sslmode` and `sslrootcert`, with the same meaning as in libpq.

use std::{path::PathBuf, str::FromStr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem},
    server::ParsedCertificate,
};
use tokio_postgres::config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls;

/// The `sslmode` of a connection string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(()),
        }
    }
}

impl From<SslMode> for config::SslMode {
    fn from(mode: SslMode) -> Self {
        match mode {
            SslMode::Disable => Self::Disable,
            SslMode::Prefer => Self::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Self::Require,
        }
    }
}

/// The `sslrootcert` of a connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SslRootCert {
    /// The certificates that the operating system trusts: `system`, or no value.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// The root certificates for verifying the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file does not exist, or is not a PEM file.
    #[error("reading the root certificates in {}", path.display())]
    Unreadable {
        /// The file that `sslrootcert` names.
        path: PathBuf,
        /// What is wrong with the file.
        source: pem::Error,
    },
    /// There is no certificate to verify a server with.
    #[error("found no usable root certificate in {place}")]
    Empty {
        /// Where certificates were looked for.
        place: String,
    },
    /// A certificate that rustls cannot use.
    #[error("using the root certificates")]
    Unusable(#[source] rustls::client::VerifierBuilderError),
}

/// Creates the connector that encrypts connections and verifies the server.
pub(crate) fn connector(
    mode: SslMode,
    root: Option<&SslRootCert>,
) -> Result<MakeRustlsConnect, RootsError> {
    let client = tls::client();
    let verifier = verifier(mode, root, Arc::clone(client.crypto_provider()))?;
    let config = client.dangerous().with_custom_certificate_verifier(verifier);
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

fn verifier(
    mode: SslMode,
    root: Option<&SslRootCert>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RootsError> {
    match (mode, root) {
        (SslMode::VerifyFull, root) => full(roots(root)?, provider),
        (SslMode::VerifyCa, root) => Ok(lenient(Some(roots(root)?), provider)),
        // As in libpq, a root certificate turns these modes into verify-ca.
        (SslMode::Prefer | SslMode::Require, root @ Some(_)) => {
            Ok(lenient(Some(roots(root)?), provider))
        }
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => Ok(lenient(None, provider)),
    }
}

fn full(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RootsError> {
    let builder = WebPkiServerVerifier::builder_with_provider(roots, provider);
    Ok(builder.build().map_err(RootsError::Unusable)?)
}

fn lenient(
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(NamelessVerifier { roots, provider })
}

fn roots(root: Option<&SslRootCert>) -> Result<Arc<RootCertStore>, RootsError> {
    let (roots, place) = match root {
        Some(SslRootCert::File(path)) => {
            let roots = tls::roots_in(path)
                .map_err(|source| RootsError::Unreadable { path: path.clone(), source })?;
            (roots, path.display().to_string())
        }
        Some(SslRootCert::System) | None => (tls::system_roots(), "the system's store".to_owned()),
    };
    if roots.is_empty() { Err(RootsError::Empty { place }) } else { Ok(roots) }
}

/// Does not verify the server's name. It accepts every server with a certificate that the roots signed, or, without
/// roots, every server.
#[derive(Debug)]
struct NamelessVerifier {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NamelessVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
