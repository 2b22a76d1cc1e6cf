//! Errors of requests that write.

use axum::http::StatusCode;

use super::Problem;
use crate::write::Refusal;

impl Problem {
    /// 409: the request conflicts with the current state.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 422: the request is well-formed, but its content is refused.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 413: the content is larger than allowed.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415: the media type or coding of the body is not supported.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    /// 408: the body took too long to arrive.
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, detail)
    }

    /// 412: a precondition in a header failed. `current` is the version of the stream.
    pub fn precondition_failed(detail: impl Into<String>, current: i64) -> Self {
        let failed = Self::new(StatusCode::PRECONDITION_FAILED, detail);
        Self { current: Some(current), ..failed }
    }

    /// Turns a version conflict into a failed precondition, for requests that state the expected version in
    /// a header (RFC 9110, section 13.1).
    #[must_use]
    pub fn as_precondition(mut self) -> Self {
        if self.current.is_some() {
            self.status = StatusCode::PRECONDITION_FAILED;
        }
        self
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let retry = |status, seconds| Self { retry_after: Some(seconds), ..Self::new(status, "") };
        match refusal {
            Refusal::Version { current, .. } => Self {
                current: Some(current),
                ..Self::new(
                    StatusCode::CONFLICT,
                    format!("{text}: read the stream, then decide again; nothing was written"),
                )
            },
            Refusal::Uid { .. } => Self::new(
                StatusCode::CONFLICT,
                format!("{text}: a uid identifies one event; nothing was written"),
            ),
            Refusal::Refused(_) | Refusal::Unusable { passing: false, .. } => {
                Self::unprocessable(text)
            }
            Refusal::DroppedByTrigger | Refusal::ChangedByTrigger { .. } => {
                Self::unprocessable(format!("{text}; nothing was written"))
            }
            Refusal::Misfit(_) => Self::conflict(text),
            Refusal::Conflict(_) => Self::conflict(format!("{text}; nothing was written")),
            Refusal::Forbidden(_) => Self::new(
                StatusCode::FORBIDDEN,
                format!("{text}: grant it event_piper_writer, or start with --writing off"),
            ),
            Refusal::Full => Self {
                detail: format!("{text} already: nothing was written; try again in a second"),
                ..retry(StatusCode::TOO_MANY_REQUESTS, 1)
            },
            Refusal::Contended
            | Refusal::Failed(_)
            | Refusal::Unusable { .. }
            | Refusal::Unavailable => Self {
                detail: format!("{text}: nothing was written; try again"),
                ..retry(StatusCode::SERVICE_UNAVAILABLE, 1)
            },
            Refusal::Unknown => Self {
                detail: format!(
                    "{text}; send it again with the same uid or Idempotency-Key, which writes it \
                     once; without one, check first whether it was written"
                ),
                ..retry(StatusCode::SERVICE_UNAVAILABLE, 1)
            },
        }
    }
}
