//! The headers of an event stream, and the response that asks a client to retry.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

use super::encode::put_retry;

/// The headers of a stream. They tell proxies not to buffer or transform it.
pub(super) fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// Whether the response is an event stream.
pub(super) fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes() == b"text/event-stream")
}

/// When a client may retry after a limit of streams was reached.
pub(super) const RETRY_WHEN_FULL: Duration = Duration::from_secs(5);

/// Asks the client to retry after `wait` to `2 * wait`. The status is 200, because an `EventSource` never
/// reconnects after any other status.
pub(super) fn overloaded(wait: Duration) -> Response {
    let wait = wait.max(Duration::from_secs(1));
    let mut body = String::new();
    put_retry(&mut body, wait, wait);
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}
