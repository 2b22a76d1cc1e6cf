//! Cross-origin resource sharing (CORS): which web origins may read responses.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::app::Settings;
use crate::access::{Modes, hosts};

/// Headers that pages may send: the gateway's, those of tracing, and those that common client libraries
/// add.
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

/// Response headers that pages may read.
const RESPONSE_HEADERS: [&str; 6] =
    ["allow", "date", "etag", "location", "retry-after", "www-authenticate"];

/// How long browsers may cache a preflight response.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_mins(10);

/// The CORS layer for these settings. Credentials are allowed for listed origins only, never with `*`. In
/// the open mode, pages of loopback origins may read, so that a page under development works without
/// settings.
pub(super) fn layer(settings: &Settings, modes: Modes) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(request_headers(&settings.cors_headers))
        .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
        .max_age(PREFLIGHT_MAX_AGE);
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

/// The usual headers and the listed ones; with `*`, any header that a page asks for.
fn request_headers(listed: &[String]) -> AllowHeaders {
    if listed.iter().any(|name| name == "*") {
        return AllowHeaders::mirror_request();
    }
    let usual = REQUEST_HEADERS.iter().copied();
    let names = usual.chain(listed.iter().map(String::as_str));
    AllowHeaders::list(names.filter_map(|name| name.parse::<HeaderName>().ok()))
}

/// Whether the origin is on a loopback address.
pub(super) fn is_loopback(origin: &str) -> bool {
    origin.parse::<Uri>().is_ok_and(|origin| origin.host().is_some_and(hosts::is_loopback))
}
