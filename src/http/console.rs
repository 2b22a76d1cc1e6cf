//! The console: an HTML page with its style and script, all embedded in the program.

use axum::{
    Extension,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};

use super::{error::Problem, query::Parameter};
use crate::access::principal::{Kind, Principal};

const HTML: &str = include_str!("console.html");
const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");

/// The page loads nothing from elsewhere, and connects to its own server only. Text from events can become
/// neither a script nor an element.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Query parameters of the page. Its script reads them, and ignores empty ones.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::many("consumer").or_empty(),
    Parameter::many("types").or_empty(),
    Parameter::one("from").or_empty(),
    Parameter::one("lastEventId").or_empty(),
];

/// `GET /`. Callers without credentials get the page too, and it asks for a token. The page itself
/// contains no data.
pub(super) async fn page(Extension(who): Extension<Principal>) -> Result<Response, Problem> {
    if *who.kind() != Kind::Anonymous {
        who.may_see_console()?;
    }
    Ok(served("text/html; charset=utf-8", HTML))
}

/// `GET /console.css`.
pub(super) async fn style() -> Response {
    served("text/css; charset=utf-8", STYLE)
}

/// `GET /console.js`.
pub(super) async fn script() -> Response {
    served("text/javascript; charset=utf-8", SCRIPT)
}

fn served(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    (headers, text).into_response()
}
