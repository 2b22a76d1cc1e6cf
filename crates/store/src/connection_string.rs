//! Splits a `DATABASE_URL`, so that its TLS parameters can be read as libpq reads them.

use std::iter::Peekable;

use percent_encoding::percent_decode_str;

/// Parameters that `tokio_postgres` reads.
const PASSED_ON: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
/// Parameters that [`crate::tls`] reads.
const TAKEN_OUT: [&str; 2] = ["sslmode", "sslrootcert"];
/// Parameters that libpq knows and we do not support. Errors may name them.
const KNOWN_ELSEWHERE: [&str; 14] = [
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcompression",
    "passfile",
    "service",
    "gssencmode",
    "krbsrvname",
    "require_auth",
    "client_encoding",
    "fallback_application_name",
    "keepalives_count",
    "requirepeer",
];

/// A connection string without its TLS parameters, and the values of all parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectionString {
    /// The string for `tokio_postgres`.
    pub(crate) rest: String,
    given: Vec<(String, String)>,
}

/// A connection string cannot be parsed. The error shows no value, which may be a password, and no unknown
/// name, which may be the rest of one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SyntaxError {
    #[error("the parameter `{0}` is not supported")]
    Unsupported(&'static str),
    #[error(
        "there is a parameter that PostgreSQL does not know; a password with special characters \
         must be percent-encoded in a URL, and quoted elsewhere"
    )]
    Unknown,
    #[error("neither a postgres:// URL nor key=value pairs")]
    Neither,
}

impl ConnectionString {
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::parse_url(text)
        } else {
            Self::parse_pairs(text)
        }
    }

    /// The value of a parameter, if it was given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        // The last one counts, as in libpq.
        self.given.iter().rfind(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn parse_url(text: &str) -> Result<Self, SyntaxError> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut given, mut kept) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(SyntaxError::Unknown)?;
            let (name, value) = (decode(name), decode(value));
            if known(&name)? {
                kept.push(pair);
            }
            given.push((name, value));
        }
        Ok(Self { rest: format!("{base}?{}", kept.join("&")), given })
    }

    fn parse_pairs(text: &str) -> Result<Self, SyntaxError> {
        let given = pairs(text)?;
        let mut kept = Vec::new();
        for (name, value) in &given {
            if known(name)? {
                let value = value.replace('\\', r"\\").replace('\'', r"\'");
                kept.push(format!("{name}='{value}'"));
            }
        }
        Ok(Self { rest: kept.join(" "), given })
    }
}

/// Whether `tokio_postgres` reads a parameter. If not, we do.
fn known(name: &str) -> Result<bool, SyntaxError> {
    if let Some(elsewhere) = KNOWN_ELSEWHERE.iter().find(|known| **known == name) {
        return Err(SyntaxError::Unsupported(elsewhere));
    }
    match (PASSED_ON.contains(&name), TAKEN_OUT.contains(&name)) {
        (false, false) => Err(SyntaxError::Unknown),
        (passed_on, _) => Ok(passed_on),
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Parses libpq's other form: `key = value key='quoted \' value'`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, SyntaxError> {
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    while skip_blanks(&mut rest) {
        let name = until(&mut rest, |c| c == '=' || c.is_whitespace());
        skip_blanks(&mut rest);
        if rest.next() != Some('=') {
            return Err(SyntaxError::Neither);
        }
        skip_blanks(&mut rest);
        let value = if rest.next_if_eq(&'\'').is_some() {
            let value = until(&mut rest, |c| c == '\'');
            rest.next().ok_or(SyntaxError::Neither)?;
            value
        } else {
            until(&mut rest, char::is_whitespace)
        };
        pairs.push((name, value));
    }
    if pairs.is_empty() { Err(SyntaxError::Neither) } else { Ok(pairs) }
}

/// Skips blanks. Returns whether anything is left.
fn skip_blanks(rest: &mut Peekable<impl Iterator<Item = char>>) -> bool {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
    rest.peek().is_some()
}

/// Takes the text before the first character that `ends` accepts. A backslash escapes the next character.
fn until(rest: &mut Peekable<impl Iterator<Item = char>>, ends: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next_if(|c| !ends(*c)) {
        text.extend(if c == '\\' { rest.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ConnectionString {
        ConnectionString::parse(text).unwrap()
    }

    #[test]
    fn takes_tls_parameters_out_of_a_url() {
        let parsed = parse("postgres://u:p@h/d?sslmode=verify-full&port=1&sslrootcert=%2Fa%20b");
        assert_eq!(parsed.rest, "postgres://u:p@h/d?port=1");
        assert_eq!(parsed.get("sslmode"), Some("verify-full"));
        assert_eq!(parsed.get("sslrootcert"), Some("/a b"));
    }

    #[test]
    fn takes_tls_parameters_out_of_pairs() {
        let parsed = parse(r"host = h password='it\'s \\ me' sslmode=require  user=a\ b");
        assert_eq!(parsed.rest, r"host='h' password='it\'s \\ me' user='a b'");
        assert_eq!(parsed.get("sslmode"), Some("require"));
        assert_eq!(parsed.get("password"), Some(r"it's \ me"));
    }

    #[test]
    fn the_last_of_two_values_counts() {
        assert_eq!(parse("sslmode=disable sslmode=require").get("sslmode"), Some("require"));
    }

    #[test]
    fn errors_show_no_secret() {
        for (text, error) in [
            ("", SyntaxError::Neither),
            ("localhost", SyntaxError::Neither),
            ("host=h password='open", SyntaxError::Neither),
            ("host=h password=my secret=1", SyntaxError::Unknown),
            ("postgres://u:se?cret@h/d", SyntaxError::Unknown),
            ("postgres://u:p@h/d?sslcert=x", SyntaxError::Unsupported("sslcert")),
        ] {
            assert_eq!(ConnectionString::parse(text), Err(error), "{text}");
        }
    }
}
