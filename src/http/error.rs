//! Refusals as people and programs can read them: problem details (RFC 9457).

mod write;

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::access::{Denied, Missing, principal::Refused};

/// A refusal: a status, and a sentence that says what was wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<u32>,
    /// The version of the stream that it is about.
    current: Option<i64>,
    reason: Option<&'static str>,
    bad_proof: bool,
}

/// Beside the answer, for whoever writes down who was refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// In a word: one of a few.
    pub(super) reason: &'static str,
    /// What says who is asking cannot be believed.
    pub(super) bad_proof: bool,
    /// For people.
    pub(super) detail: String,
}

impl Problem {
    /// The request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Nobody was named.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// Somebody was named who may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// Who is asking was not found out.
    #[must_use]
    pub fn denied(denied: Denied) -> Self {
        let problem = match denied.what {
            Missing::Means => Self::unavailable(denied.detail),
            Missing::Proof | Missing::GoodProof => Self::unauthorized(denied.detail),
        };
        let bad_proof = denied.what == Missing::GoodProof;
        Self { reason: Some(denied.reason), bad_proof, ..problem }
    }

    /// A foreign page may have made the browser ask.
    #[must_use]
    pub fn forged() -> Self {
        let detail = "nothing says that a page of ours asks for this: list its origin in \
                      --cors-origins if it may, or send Authorization: Bearer";
        Self { reason: Some("cross-site"), ..Self::forbidden(detail) }
    }

    /// It is for somebody else, by the name that it asks for.
    #[must_use]
    pub fn misdirected(host: &str) -> Self {
        let detail = format!(
            "nothing here answers to the name {host:?}: a web page could have made it point to \
             this machine (DNS rebinding). Ask for localhost, or list the name in --allowed-hosts"
        );
        Self { reason: Some("host"), ..Self::new(StatusCode::MISDIRECTED_REQUEST, detail) }
    }

    /// Too much of it.
    #[must_use]
    pub fn too_many(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        let detail = format!("too much was asked for at once: try again in {seconds} s");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// The same of something that is not a rate: it says of what.
    pub fn too_many_of(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// There is no such thing, or none for the one who asks.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// There is such a thing, but not with this method.
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// Not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Some(1);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// A fault of ours.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// What is to be written down about it.
    fn refusal(&self) -> Option<Refusal> {
        let reason = self.reason.or(match self.status {
            StatusCode::UNAUTHORIZED => Some("no-proof"),
            StatusCode::FORBIDDEN => Some("forbidden"),
            _ => None,
        });
        let (bad_proof, detail) = (self.bad_proof, self.detail.clone());
        reason.map(|reason| Refusal { reason, bad_proof, detail })
    }

    /// What was wrong, and what to do.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The same, where it is one of several things that this may be about.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }

    /// As programs read it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(current) = self.current {
            json["version"] = current.into();
        }
        json
    }

    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, detail, retry_after: None, current: None, reason: None, bad_proof: false }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::forbidden(refused.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, self.json().to_string()).into_response();
        if let Some(refusal) = self.refusal() {
            response.extensions_mut().insert(refusal);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_too_much_comes_back_in_whole_seconds_and_not_at_once() {
        for (wait, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let response = Problem::too_many(Duration::from_millis(wait)).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{wait} ms");
        }
    }
}
