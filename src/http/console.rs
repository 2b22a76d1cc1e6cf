//! The page for people: a page, its style and its script, all out of this binary.

use axum::{
    Extension,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};

use super::{error::Problem, query::Parameter};
use crate::access::principal::{Kind, Principal};

const PAGE: &str = include_str!("console.html");
const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");

/// The page brings all that it needs, and speaks to nobody but its own server. What comes
/// with events can neither become a script nor an element.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// What the query of the page may say. Its script reads it, and leaves out what is empty.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::many("consumer").or_empty(),
    Parameter::many("types").or_empty(),
    Parameter::one("from").or_empty(),
    Parameter::one("lastEventId").or_empty(),
];

/// `GET /`. Who shows no proof gets the page too, and is asked for one by it: the page itself
/// says nothing about anybody.
pub(super) async fn page(Extension(who): Extension<Principal>) -> Result<Response, Problem> {
    if *who.kind() != Kind::Nobody {
        who.may_see_console()?;
    }
    Ok(served("text/html; charset=utf-8", PAGE))
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
