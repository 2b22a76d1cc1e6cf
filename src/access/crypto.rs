//! Verifies the signatures of tokens with `ring`, which TLS needs anyway.
//!
//! `jsonwebtoken` leaves the cryptography to a provider. The providers that come with it would add
//! a second implementation of every algorithm. This program never signs a token.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Verifier},
};
use ring::{
    hmac,
    signature::{self as signing, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm},
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs the provider, once per process. A later call has no effect.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the provider's signature")]
fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the provider's signature")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    // `jsonwebtoken` checks this too. A public key must never be taken for an HMAC secret.
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Checker { algorithm: *algorithm, key: key.clone() }))
}

struct Checker {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match RingAlgorithm::of(self.algorithm).ok_or_else(signature::Error::new)? {
            RingAlgorithm::Hmac(hash) => {
                let secret = self.key.try_get_as_bytes().map_err(|_| signature::Error::new())?;
                hmac::verify(&hmac::Key::new(hash, secret), message, given)
            }
            RingAlgorithm::Rsa(parameters) => match self.key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, e } => {
                    RsaPublicKeyComponents { n, e }.verify(parameters, message, given)
                }
                DecodingKeyKind::SecretOrDer(der) => verify(parameters, der, message, given),
            },
            RingAlgorithm::Curve(curve) => {
                let point = self.key.try_get_as_bytes().map_err(|_| signature::Error::new())?;
                verify(curve, point, message, given)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

fn verify(
    how: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    given: &[u8],
) -> Result<(), ring::error::Unspecified> {
    signing::UnparsedPublicKey::new(how, key).verify(message, given)
}

/// The algorithm of `ring`. It refuses RSA keys of less than 2048 bits.
enum RingAlgorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

impl RingAlgorithm {
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::HS256 => Self::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => Self::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => Self::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => Self::Rsa(&signing::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Self::Rsa(&signing::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Self::Rsa(&signing::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Self::Rsa(&signing::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Self::Rsa(&signing::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Self::Rsa(&signing::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Self::Curve(&signing::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Self::Curve(&signing::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Self::Curve(&signing::ED25519),
            _ => return None,
        })
    }
}
