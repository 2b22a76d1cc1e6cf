//! Header fields as text.

use axum::http::HeaderMap;

use super::error::Problem;

/// The value of a field that may occur once. Only surrounding spaces and tabs are removed (RFC 9110,
/// section 5.5): other whitespace may be part of a name.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("the header {name} was sent more than once")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    let text = text.map_err(|_| {
        Problem::bad_request(format!(
            "the header {name} is not UTF-8: encode it as UTF-8, or use the query of the address"
        ))
    })?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn text_of(values: &[&[u8]]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-consumer-id", HeaderValue::from_bytes(value).unwrap());
        }
        text(&headers, "x-consumer-id").map(|text| text.map(ToOwned::to_owned))
    }

    #[test]
    fn only_spaces_and_tabs_are_trimmed() {
        assert_eq!(text_of(&[]), Ok(None));
        assert_eq!(text_of(&[b" \t alice\t "]), Ok(Some("alice".into())));
        for blank in [
            "\u{a0}", "\u{1680}", "\u{2003}", "\u{2028}", "\u{202f}", "\u{205f}", "\u{3000}",
            "\u{feff}",
        ] {
            let name = format!("{blank}alice{blank}");
            assert_eq!(text_of(&[name.as_bytes()]), Ok(Some(name.clone())), "{name:?}");
        }
        for wrong in [&b"alice\xa0"[..], b"\xff", b"\xc3\x28"] {
            assert!(text_of(&[wrong]).is_err());
        }
        assert!(text_of(&[b"a", b"a"]).is_err());
    }
}
