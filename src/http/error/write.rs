//! Refusals of those who write.

use axum::http::StatusCode;

use super::Problem;
use crate::write::Refusal;

impl Problem {
    /// It cannot be, as things are.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// It is understood, and refused for what it says.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// It is larger than it may be.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// The body is of a kind that is not understood.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    /// It took too long to arrive.
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, detail)
    }

    /// A precondition in a header fails: the stream is at this version.
    pub fn precondition_failed(detail: impl Into<String>, current: i64) -> Self {
        let failed = Self::new(StatusCode::PRECONDITION_FAILED, detail);
        Self { current: Some(current), ..failed }
    }

    /// The same as the failure of a precondition in a header, where the stream was not where
    /// it was expected (RFC 9110, section 13.1).
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
        let said = refusal.to_string();
        let again = |status, seconds| Self { retry_after: Some(seconds), ..Self::new(status, "") };
        match refusal {
            Refusal::Version { current, .. } => Self {
                current: Some(current),
                ..Self::new(
                    StatusCode::CONFLICT,
                    format!("{said}: look at what is there, and decide again; nothing was written"),
                )
            },
            Refusal::Uid { .. } => Self::new(
                StatusCode::CONFLICT,
                format!("{said}: a uid is for one event; nothing was written"),
            ),
            Refusal::Refused(_) | Refusal::Unusable { passing: false, .. } => {
                Self::unprocessable(said)
            }
            Refusal::Swallowed | Refusal::Redirected { .. } => {
                Self::unprocessable(format!("{said}; nothing was written"))
            }
            Refusal::Misfit(_) => Self::conflict(said),
            Refusal::Conflict(_) => Self::conflict(format!("{said}; nothing was written")),
            Refusal::Forbidden(_) => Self::new(
                StatusCode::FORBIDDEN,
                format!("{said}: grant it event_piper_writer, or start with --writing off"),
            ),
            Refusal::Full => Self {
                detail: format!("{said} already: nothing was written; try again in a second"),
                ..again(StatusCode::TOO_MANY_REQUESTS, 1)
            },
            Refusal::Contended
            | Refusal::Hindered(_)
            | Refusal::Unusable { .. }
            | Refusal::Away => Self {
                detail: format!("{said}: nothing was written; try again"),
                ..again(StatusCode::SERVICE_UNAVAILABLE, 1)
            },
            Refusal::Unknown => Self {
                detail: format!(
                    "{said}; ask again with the same uid (or Idempotency-Key), which writes it \
                     once; without one, look first"
                ),
                ..again(StatusCode::SERVICE_UNAVAILABLE, 1)
            },
        }
    }
}
