//! Base64 as the predecessor accepted it: the standard alphabet with padding. Line breaks are ignored.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};

/// Accepts nonzero trailing bits in the last symbol, as the predecessor did.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Whether the text is Base64.
pub(in crate::http) fn is_base64(text: &str) -> bool {
    let symbols: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    ENGINE.decode(symbols).is_ok()
}

/// Encodes bytes as Base64.
pub(in crate::http) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_bytes() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob\u{ff}", "Zm9vYsO/")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn accepts_only_the_standard_alphabet_with_padding() {
        for right in
            ["", "aGVsbG8=", "aGVsbG9=", "aGVsbG8h", "/+8=", "AA==", "AB==", "aGVs\r\nbG8=\n"]
        {
            assert!(is_base64(right), "{right:?} was refused");
        }
        for wrong in [
            "a",
            "aGVsbG8",
            "_-8=",
            "A===",
            "====",
            "==",
            "AA=",
            "AAA==",
            "AA==AA==",
            "AA=A",
            "aGVs bG8=",
            "é===",
            "{}",
        ] {
            assert!(!is_base64(wrong), "{wrong:?} was accepted");
        }
    }
}
