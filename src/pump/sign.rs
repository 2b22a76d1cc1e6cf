//! Signs requests by the Standard Webhooks specification, so that an aggregator can verify the sender,
//! the content and the time of a request.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use secrecy::{ExposeSecret, SecretSlice};

/// The key that signs requests.
#[derive(Clone, Debug)]
pub struct SigningKey(SecretSlice<u8>);

const PREFIX: &str = "whsec_";
/// The key lengths that the specification allows.
const KEY_LENGTHS_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

impl SigningKey {
    /// Reads `whsec_` and a Base64 text of 24 to 64 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let key = STANDARD.decode(text.trim().strip_prefix(PREFIX)?).ok()?;
        KEY_LENGTHS_BYTES.contains(&key.len()).then(|| Self(key.into()))
    }

    /// The value of the header `webhook-signature`. The timestamp is a Unix time in seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose_secret());
        let mut signing = hmac::Context::with_key(&key);
        signing.update(format!("{id}.{timestamp}.").as_bytes());
        signing.update(body);
        format!("v1,{}", STANDARD.encode(signing.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_example_of_the_specification() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(!format!("{key:?}").contains("49"), "{key:?}");
    }

    #[test]
    fn rejects_invalid_keys() {
        for wrong in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_?", "whsec_dG9vIHNob3J0"] {
            assert!(SigningKey::parse(wrong).is_none(), "{wrong}");
        }
        for (length, fits) in [(23, false), (24, true), (64, true), (65, false)] {
            let text = format!("{PREFIX}{}", STANDARD.encode(vec![7; length]));
            assert_eq!(SigningKey::parse(&text).is_some(), fits, "{length} bytes");
        }
    }
}
