//! Responses of an aggregator that do not mean success.

use std::time::{Duration, SystemTime};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

/// A response that does not mean success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing} failed with {status}{}{message}", if message.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// What was being done.
    pub doing: String,
    /// The status.
    pub status: StatusCode,
    /// The beginning of the body, as one line.
    pub message: String,
    /// How long to wait before the next attempt, from `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Makes the error for a response.
    pub(super) fn new(
        doing: String,
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let text = String::from_utf8_lossy(body);
        let message = text.chars().take(MAX_MESSAGE_CHARS);
        let message = message.map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        Self { doing, status, message: message.trim().to_owned(), retry_after }
    }

    /// Whether the aggregator refuses the events themselves. Other statuses are about the pump, the
    /// address or the state of the aggregator, and would be the same for any event.
    #[must_use]
    pub fn is_about_the_events(&self) -> bool {
        [
            StatusCode::BAD_REQUEST,
            StatusCode::CONFLICT,
            StatusCode::GONE,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ]
        .contains(&self.status)
    }
}

/// The length of the shown part of the body.
const MAX_MESSAGE_CHARS: usize = 300;
/// The longest accepted `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Reads `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse().map(Duration::from_secs).ok();
    let date = || httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok();
    Some(seconds.or_else(date)?.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::new("POST events".into(), status, None, body.as_bytes())
    }

    #[test]
    fn some_statuses_are_about_the_events() {
        let about = |status: &u16| refusal(*status, "").is_about_the_events();
        let statuses: Vec<u16> = (200..600).filter(about).collect();
        assert_eq!(statuses, [400, 409, 410, 413, 415, 422]);
    }

    #[test]
    fn the_message_is_one_short_line() {
        assert_eq!(refusal(400, " no\r\nroom\x1b[31m ").message, "no  room [31m");
        let long = "é".repeat(MAX_MESSAGE_CHARS + 1);
        assert_eq!(refusal(400, &long).message.chars().count(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn retry_after_is_at_most_an_hour() {
        let retry_after =
            |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(MAX_RETRY_AFTER));
        let date = |secs| {
            let then = SystemTime::now() + Duration::from_secs(secs);
            retry_after(&httpdate::fmt_http_date(then)).unwrap()
        };
        assert!((60..=100).contains(&date(100).as_secs()));
        assert_eq!(date(86_400), MAX_RETRY_AFTER);
        for nothing in ["soon", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(retry_after(nothing), None, "{nothing}");
        }
    }
}
