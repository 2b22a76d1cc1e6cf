//! Base64 as the predecessor took it: the standard alphabet, padded; line breaks are ignored.

/// Whether the text is that.
pub(in crate::http) fn is_base64(text: &str) -> bool {
    let symbols: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let padding = symbols.iter().rev().take_while(|byte| **byte == b'=').count();
    let (body, _) = symbols.split_at(symbols.len() - padding);
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    symbols.len().is_multiple_of(4) && padding <= 2 && body.iter().all(known)
}

/// Bytes as such a text.
pub(in crate::http) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let symbol = ALPHABET[(group >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_base64() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob\u{ff}", "Zm9vYsO/")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn standard_and_padded() {
        for right in ["", "aGVsbG8=", "aGVsbG8h", "/+8=", "AA==", "aGVs\r\nbG8=\n"] {
            assert!(is_base64(right), "{right:?} was refused");
        }
        for wrong in ["a", "aGVsbG8", "_-8=", "A===", "====", "AA=A", "aGVs bG8=", "é===", "{}"] {
            assert!(!is_base64(wrong), "{wrong:?} was taken");
        }
    }
}
