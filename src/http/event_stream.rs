//! The head of an answer that is an event stream, and the shortest such answer.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

use super::encode::put_retry;

/// The headers of a stream. Nothing on the way may buffer or change it.
pub(super) fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// The answer is an event stream.
pub(super) fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes() == b"text/event-stream")
}

/// Who found no room may try again after this.
pub(super) const FULL: Duration = Duration::from_secs(5);

/// Asks the client to try again after so long, or up to twice that. An `EventSource` gives up for good at any
/// status but 200, so this is one.
pub(super) fn overloaded(wait: Duration) -> Response {
    let wait = wait.max(Duration::from_secs(1));
    let mut body = String::new();
    put_retry(&mut body, wait, wait);
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}
