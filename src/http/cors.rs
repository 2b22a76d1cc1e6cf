//! Which web origins may read across origins.

use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::Settings;
use crate::access::{Modes, hosts};

/// The layer for these settings. Credentials go with exact origins only. In the open mode
/// pages on this very machine may read, so that a page under development just works.
pub(super) fn layer(settings: &Settings, modes: Modes) -> CorsLayer {
    let layer =
        CorsLayer::new().allow_methods([Method::GET, Method::HEAD, Method::POST]).allow_headers(
            [
                "x-consumer-id",
                "last-event-id",
                "content-type",
                "authorization",
                "idempotency-key",
                "if-match",
                "if-none-match",
            ]
            .map(HeaderName::from_static),
        );
    // What answers say beside their bodies: where an event is, its stream's version, when to come back.
    let said = ["location", "etag", "retry-after"].map(HeaderName::from_static);
    let layer = layer.expose_headers(said);
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

/// An origin on this very machine.
pub(super) fn is_loopback(origin: &str) -> bool {
    origin.parse::<Uri>().is_ok_and(|origin| origin.host().is_some_and(hosts::is_loopback))
}
