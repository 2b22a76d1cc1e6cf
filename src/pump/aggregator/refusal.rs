//! What an aggregator answers in place of what it should.

use std::time::{Duration, SystemTime};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};

/// An answer that is not the one of the contract.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing} was answered {status}{}{says}", if says.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// What was being done.
    pub doing: String,
    /// The status.
    pub status: StatusCode,
    /// The beginning of what came with it.
    pub says: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Of what was answered, while something was being done.
    pub(super) fn new(
        doing: String,
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let text = String::from_utf8_lossy(body);
        let says = text.chars().take(LONGEST_SAYING);
        let says = says.map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        Self { doing, status, says: says.trim().to_owned(), retry_after }
    }

    /// The events themselves are what it does not like. Any other status speaks of the pump,
    /// the address or the aggregator's own trouble, and would be the same for any event.
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

/// Of what comes with a refusal as much is shown.
const LONGEST_SAYING: usize = 300;
/// Nobody is waited for longer than this, whatever is asked for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// When to come back: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse().map(Duration::from_secs).ok();
    let date = || httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok();
    Some(seconds.or_else(date)?.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, says: &str) -> Refusal {
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::new("POST events".into(), status, None, says.as_bytes())
    }

    #[test]
    fn some_refusals_are_about_the_events_and_no_others() {
        let about = |status: &u16| refusal(*status, "").is_about_the_events();
        let statuses: Vec<u16> = (200..600).filter(about).collect();
        assert_eq!(statuses, [400, 409, 410, 413, 415, 422]);
    }

    #[test]
    fn what_an_aggregator_says_becomes_one_short_line() {
        assert_eq!(refusal(400, " no\r\nroom\x1b[31m ").says, "no  room [31m");
        let long = "é".repeat(LONGEST_SAYING + 1);
        assert_eq!(refusal(400, &long).says.chars().count(), LONGEST_SAYING);
    }

    #[test]
    fn who_is_asked_to_come_back_does_within_an_hour() {
        let retry_after =
            |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(LONGEST_RETRY_AFTER));
        let date = |secs| {
            let then = SystemTime::now() + Duration::from_secs(secs);
            retry_after(&httpdate::fmt_http_date(then)).unwrap()
        };
        assert!((60..=100).contains(&date(100).as_secs()));
        assert_eq!(date(86_400), LONGEST_RETRY_AFTER);
        for nothing in ["soon", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(retry_after(nothing), None, "{nothing}");
        }
    }
}
