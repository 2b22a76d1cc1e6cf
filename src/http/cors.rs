//! Which web origins may read across origins.

use axum::http::{HeaderName, HeaderValue, Method, Uri, request::Parts};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{Auth, Settings};

/// The layer for these settings. Credentials go with exact origins only. In the open mode
/// pages on this very machine may read, so that a page under development just works.
pub(super) fn layer(settings: &Settings) -> CorsLayer {
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
    let origins = &settings.cors_origins;
    if origins.iter().any(|origin| origin == "*") {
        layer.allow_origin(AllowOrigin::any())
    } else if !origins.is_empty() {
        let exact = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        layer.allow_origin(AllowOrigin::list(exact)).allow_credentials(true)
    } else if settings.auth == Auth::Open {
        layer.allow_origin(AllowOrigin::predicate(is_loopback))
    } else {
        layer
    }
}

/// Whether pages of this origin may make a browser write.
pub(super) fn allows(settings: &Settings, origin: &HeaderValue) -> bool {
    let listed = |known: &String| known == "*" || known.as_bytes() == origin.as_bytes();
    settings.cors_origins.iter().any(listed)
        || settings.auth == Auth::Open && is_loopback_origin(origin)
}

fn is_loopback(origin: &HeaderValue, _: &Parts) -> bool {
    is_loopback_origin(origin)
}

fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let host = |uri: Uri| uri.host().map(ToOwned::to_owned);
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = origin.and_then(host).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
