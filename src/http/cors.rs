//! Which web origins may read across origins.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::app::Settings;
use crate::access::{Modes, hosts};

/// Headers that pages may send: ours, those of tracing, and what the usual client libraries add.
const REQUEST_HEADERS: &[&str] = &[
    "accept",
    "accept-language",
    "authorization",
    "baggage",
    "b3",
    "cache-control",
    "content-language",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "pragma",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-consumer-id",
    "x-correlation-id",
    "x-request-id",
    "x-requested-with",
];

/// What answers say beside their bodies, for pages to read: where an event is, its stream's version,
/// when to come back, what is expected of who asks.
const RESPONSE_HEADERS: [&str; 6] =
    ["allow", "date", "etag", "location", "retry-after", "www-authenticate"];

/// Browsers need not ask again before each request for so long.
const PREFLIGHT_VALID: Duration = Duration::from_mins(10);

/// The layer for these settings. Credentials go with exact origins only. In the open mode
/// pages on this very machine may read, so that a page under development just works.
pub(super) fn layer(settings: &Settings, modes: Modes) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(request_headers(&settings.cors_headers))
        .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
        .max_age(PREFLIGHT_VALID);
    let origins = &settings.cors_origins;
    if origins.iter().any(|origin| origin == "*") {
        layer.allow_origin(AllowOrigin::any())
    } else if !origins.is_empty() {
        let exact = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        layer.allow_origin(AllowOrigin::list(exact)).allow_credentials(true)
    } else if modes.is_open() {
        layer.allow_origin(AllowOrigin::predicate(|origin, _| {
            origin.to_str().is_ok_and(is_loopback)
        }))
    } else {
        layer
    }
}

/// Those that are listed beside the usual ones; with `*`, whatever a page asks for.
fn request_headers(listed: &[String]) -> AllowHeaders {
    if listed.iter().any(|name| name == "*") {
        return AllowHeaders::mirror_request();
    }
    let usual = REQUEST_HEADERS.iter().copied();
    let names = usual.chain(listed.iter().map(String::as_str));
    AllowHeaders::list(names.filter_map(|name| name.parse::<HeaderName>().ok()))
}

/// An origin on this very machine.
pub(super) fn is_loopback(origin: &str) -> bool {
    origin.parse::<Uri>().is_ok_and(|origin| origin.host().is_some_and(hosts::is_loopback))
}
