//! Errors as problem details (RFC 9457), which both people and programs can read.

mod write;

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::access::{Denied, Missing, principal::Refused};

/// An error response: a status, and a sentence that says what was wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds for the header `Retry-After`.
    retry_after: Option<u32>,
    /// The current version of the stream, after a version conflict.
    current: Option<i64>,
    /// The reason in the audit log and in metrics, for refusals of a caller.
    reason: Option<&'static str>,
    bad_credentials: bool,
}

/// What the audit log records about a refusal. An extension of the response.
#[derive(Clone, Debug)]
pub(super) struct RefusalRecord {
    /// A metric label: one of a fixed set.
    pub(super) reason: &'static str,
    /// The credentials are not valid.
    pub(super) bad_credentials: bool,
    /// The detail of the problem.
    pub(super) detail: String,
}

impl Problem {
    /// 400: the request is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401: the request has no valid credentials, or names no consumer.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403: the principal lacks the right.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 401 or 503: authentication failed, or was not possible.
    #[must_use]
    pub fn denied(denied: Denied) -> Self {
        let problem = match denied.what {
            Missing::Unavailable => Self::unavailable(denied.detail),
            Missing::Credentials | Missing::GoodProof => Self::unauthorized(denied.detail),
        };
        let bad_credentials = denied.what == Missing::GoodProof;
        Self { reason: Some(denied.reason), bad_credentials, ..problem }
    }

    /// 403: a page of a foreign origin may have made the browser send the request.
    #[must_use]
    pub fn forged() -> Self {
        let detail = "this request may come from a page of another origin: if that page may write, list \
                      its origin in --cors-origins; or send Authorization: Bearer";
        Self { reason: Some("cross-site"), ..Self::forbidden(detail) }
    }

    /// 421: the request is for a host name that is not the gateway's.
    #[must_use]
    pub fn misdirected(host: &str) -> Self {
        let detail = format!(
            "the gateway does not serve the host name {host:?}, which a web page could have made \
             resolve to this machine (DNS rebinding): use localhost, or list the name in \
             --allowed-hosts"
        );
        Self { reason: Some("host"), ..Self::new(StatusCode::MISDIRECTED_REQUEST, detail) }
    }

    /// 429: a rate is exceeded. `wait` is rounded up to whole seconds, at least one.
    #[must_use]
    pub fn too_many(wait: Duration) -> Self {
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        let detail = format!("the rate limit is exceeded: try again in {seconds} s");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// 429: a limit other than a rate is exceeded; `detail` names it. `Retry-After` is one second.
    pub fn too_many_of(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// 404: the resource does not exist, or the principal may not know of it.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405: the resource does not support the method.
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 503: the request may succeed later. `Retry-After` is one second.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Some(1);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 500: the gateway has a bug.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// What the audit log records. `None` if the caller was not refused for who it is.
    fn refusal(&self) -> Option<RefusalRecord> {
        let reason = self.reason.or(match self.status {
            StatusCode::UNAUTHORIZED => Some("no-proof"),
            StatusCode::FORBIDDEN => Some("forbidden"),
            _ => None,
        });
        let (bad_credentials, detail) = (self.bad_credentials, self.detail.clone());
        reason.map(|reason| RefusalRecord { reason, bad_credentials, detail })
    }

    /// What was wrong, and what to do.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Prefixes the detail with the item that the problem is about, such as `event 3`.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }

    /// The problem as the JSON object of RFC 9457.
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
        Self {
            status,
            detail,
            retry_after: None,
            current: None,
            reason: None,
            bad_credentials: false,
        }
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
    fn retry_after_is_in_whole_seconds_and_at_least_one() {
        for (wait, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let response = Problem::too_many(Duration::from_millis(wait)).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{wait} ms");
        }
    }
}
