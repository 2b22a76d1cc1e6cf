//! Base64 as the predecessor took it: the standard alphabet, padded; line breaks are ignored.

/// Whether the text is that.
pub(super) fn is_base64(text: &str) -> bool {
    let symbols: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let padding = symbols.iter().rev().take_while(|byte| **byte == b'=').count();
    let (body, _) = symbols.split_at(symbols.len() - padding);
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    symbols.len().is_multiple_of(4) && padding <= 2 && body.iter().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

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
