//! Extracts credentials from the head of a request. Ambiguous credentials are refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority},
};

use super::{
    class::Class, cors, error::Problem, identity, last_event_id::LAST_EVENT_ID, query::Query,
};
use crate::access::{Access, Credentials, Denied, networks::Peer};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection.
pub(super) fn peer(request: &Request) -> Peer {
    let known = request.extensions().get::<Peer>().copied();
    known.unwrap_or(Peer::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// The address of the client, as trusted proxies report it in `X-Forwarded-For`.
pub(super) fn origin(access: &Access, request: &Request) -> Peer {
    let peer = peer(request);
    if !access.trusts(peer) {
        return peer;
    }
    let lists = request.headers().get_all(FORWARDED_FOR).iter().rev();
    let hops = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
    // Each proxy appends the address of its peer. The client is the last address that is not a trusted proxy.
    let mut origin = peer;
    for hop in hops {
        let Some(address) = address(hop.trim()) else { break };
        origin = Peer::Ip(address);
        if !access.trusts(origin) {
            break;
        }
    }
    origin
}

fn address(hop: &str) -> Option<IpAddr> {
    let bare = || hop.trim_matches(['[', ']']).parse().ok();
    bare().or_else(|| hop.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

/// Whether the request has no header that a proxy adds.
pub(super) fn is_direct(request: &Request) -> bool {
    let headers = request.headers();
    ["x-forwarded-for", "forwarded", "via", "x-real-ip", identity::CONSUMER]
        .iter()
        .all(|name| !headers.contains_key(*name))
}

/// The host names that the request is for: of its URI, and of the header `Host`.
pub(super) fn hosts(request: &Request) -> impl Iterator<Item = &str> {
    let written = request.headers().get_all(header::HOST).iter();
    let written = written.map(|host| host.to_str().unwrap_or_default());
    request.uri().host().into_iter().chain(written.map(host_of))
}

/// The host name without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The credentials of the request.
///
/// # Errors
/// 400 for ambiguous ones; 401 for those that are in the wrong place; 403 if a page of another origin may
/// have made a browser send them.
pub(super) fn extract(access: &Access, request: &Request) -> Result<Credentials, Problem> {
    let (headers, query) = (request.headers(), Query::of(request.uri())?);
    if query.first("access_token").is_some() {
        // URIs are written to logs (RFC 6750, section 5.3).
        return Err(Problem::denied(Denied::bad(
            "token-in-address",
            "a token must not be sent in the address: send Authorization: Bearer, or ?ticket= with a \
             ticket of POST /tickets",
        )));
    }
    let credentials = Credentials {
        peer: peer(request),
        consumer: identity::header(headers)?,
        bearer: bearer(headers)?,
        cookie: access.cookie().map(|name| cookie(headers, name)).transpose()?.flatten(),
        ticket: ticket(request, &query)?,
    };
    if credentials.bearer.is_some() && credentials.ticket.is_some() {
        return Err(Problem::bad_request(
            "the request has both a token and a ticket: send one of them",
        ));
    }
    let explicit = has_bearer(headers) || credentials.ticket.is_some();
    if may_be_ambient(access, &credentials) && !explicit {
        check_origin(access, request)?;
    }
    Ok(credentials)
}

/// Whether the request has a bearer token. Browsers add credentials of every other scheme by themselves.
fn has_bearer(headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = value.and_then(|value| value.split(' ').next());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
}

/// Whether a foreign page could have made a browser send these credentials: a cookie; none, in the open
/// mode; or the header of a proxy, which may identify its client by a cookie or a password that the
/// browser stores.
fn may_be_ambient(access: &Access, credentials: &Credentials) -> bool {
    let modes = access.modes();
    let named = modes.trusted_header && credentials.consumer.is_some();
    credentials.cookie.is_some() || named || modes.is_open()
}

fn bearer(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request("the header Authorization was sent more than once"));
    }
    let value = value.to_str().unwrap_or_default();
    // Other schemes are passed on as a whole, and fail to authenticate.
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let token = if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { value };
    Ok(Some(token.to_owned()))
}

fn cookie(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    // Other cookies may hold any bytes. A token that is not UTF-8 becomes empty, and fails to authenticate.
    let lists = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = lists.flat_map(|list| list.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let named = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let mut values = named.map(|value| std::str::from_utf8(value).unwrap_or_default());
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("the cookie {name} was sent more than once")));
    }
    Ok(first.map(|value| value.trim_matches('"').to_owned()))
}

fn ticket(request: &Request, query: &Query) -> Result<Option<(String, bool)>, Problem> {
    let mut tickets = query.all("ticket");
    let Some(ticket) = tickets.next() else { return Ok(None) };
    if tickets.next().is_some() {
        return Err(Problem::bad_request("the request has several tickets: send one"));
    }
    if !Class::of(request).opens_stream(request) {
        let detail = "a ticket is valid for opening an event stream only";
        return Err(Problem::denied(Denied::bad("ticket", detail)));
    }
    let cursor = request.headers().get(LAST_EVENT_ID);
    let again = cursor.is_some_and(|cursor| !cursor.as_bytes().trim_ascii().is_empty());
    Ok(Some((ticket.to_owned(), again)))
}

/// Refuses cross-site request forgery. A foreign page can make a browser send requests with the browser's
/// credentials, also to this machine's loopback address. So a request that changes something must come
/// from an allowed origin, by headers that browsers send and pages cannot forge. Programs other than
/// browsers send neither header; they are admitted unless the request has the gateway's cookie.
fn check_origin(access: &Access, request: &Request) -> Result<(), Problem> {
    if request.method().is_safe() {
        return Ok(());
    }
    let headers = request.headers();
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => SingleHeader::Absent,
            (Some(value), None) => {
                value.to_str().map_or(SingleHeader::Invalid, SingleHeader::Value)
            }
            _ => SingleHeader::Invalid,
        }
    };
    let allowed = match (once("sec-fetch-site"), once("origin")) {
        (SingleHeader::Invalid, _) | (_, SingleHeader::Invalid) => false,
        (SingleHeader::Value("same-origin"), _) => true,
        (_, SingleHeader::Value(origin)) => is_allowed_origin(access, request, origin),
        (SingleHeader::Absent, SingleHeader::Absent) => !has_gateway_cookie(access, headers),
        (SingleHeader::Value(_), SingleHeader::Absent) => false,
    };
    if allowed { Ok(()) } else { Err(Problem::forged()) }
}

/// The value of a header that may occur once.
enum SingleHeader<'a> {
    Absent,
    Value(&'a str),
    /// Not text, or sent more than once.
    Invalid,
}

fn has_gateway_cookie(access: &Access, headers: &HeaderMap) -> bool {
    access.cookie().is_some_and(|name| !matches!(cookie(headers, name), Ok(None)))
}

/// Whether the origin is listed, or is the host of the request. Behind a trusted proxy, the host that the
/// browser sees is in `X-Forwarded-Host`, which pages cannot set.
fn is_allowed_origin(access: &Access, request: &Request, origin: &str) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
    let host = header("host").or_else(|| request.uri().authority().map(Authority::as_str));
    let forwarded = header("x-forwarded-host").filter(|_| access.trusts(peer(request)));
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let is_named = |host: Option<&str>| authority.is_some() && authority == host;
    access.allows_origin(origin)
        || is_named(host)
        || is_named(forwarded)
        || access.modes().is_open() && cors::is_loopback(origin)
}
