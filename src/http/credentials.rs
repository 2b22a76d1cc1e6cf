//! What a request shows of who sends it, gathered from its head: where nothing may be
//! ambiguous.

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

/// The other end of the connection that the request came by.
pub(super) fn peer(request: &Request) -> Peer {
    let known = request.extensions().get::<Peer>().copied();
    known.unwrap_or(Peer::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// Where the request came from first, as far as those say so who are trusted.
pub(super) fn origin(access: &Access, request: &Request) -> Peer {
    let peer = peer(request);
    if !access.trusts(peer) {
        return peer;
    }
    let lists = request.headers().get_all(FORWARDED_FOR).iter().rev();
    let hops = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
    // Each proxy adds whom it has seen at the end: the last one that is no proxy of ours.
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

/// It came straight from its peer, by no proxy that says so.
pub(super) fn is_direct(request: &Request) -> bool {
    let headers = request.headers();
    ["x-forwarded-for", "forwarded", "via", "x-real-ip", identity::CONSUMER]
        .iter()
        .all(|name| !headers.contains_key(*name))
}

/// For whom the request is, as it says: in its address, or in the header `Host`.
pub(super) fn hosts(request: &Request) -> impl Iterator<Item = &str> {
    let written = request.headers().get_all(header::HOST).iter();
    let written = written.map(|host| host.to_str().unwrap_or_default());
    request.uri().host().into_iter().chain(written.map(host_of))
}

/// The name without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// What the request shows.
pub(super) fn extract(access: &Access, request: &Request) -> Result<Credentials, Problem> {
    let (headers, query) = (request.headers(), Query::of(request.uri())?);
    if query.first("access_token").is_some() {
        // RFC 6750, section 5.3: addresses end up in logs.
        return Err(Problem::denied(Denied::bad(
            "token-in-address",
            "a token does not belong into an address: expected Authorization: Bearer, or ?ticket= of POST /tickets",
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
        return Err(Problem::bad_request("there is a token and a ticket: expected one of them"));
    }
    let shown = has_bearer(headers) || credentials.ticket.is_some();
    if is_ambient(access, &credentials) && !shown {
        not_forged(access, request)?;
    }
    Ok(credentials)
}

/// A browser adds credentials of every scheme but this one by itself.
fn has_bearer(headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = value.and_then(|value| value.split(' ').next());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
}

/// Whether a browser may have been made to send this credentials: a cookie; nothing, where nothing is
/// asked for; or the header of a proxy, which may know its caller by a cookie or a password that
/// the browser keeps.
fn is_ambient(access: &Access, credentials: &Credentials) -> bool {
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
    // What is no bearer's token stays what it is: a credentials that nobody believes.
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let token = if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { value };
    Ok(Some(token.to_owned()))
}

fn cookie(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    // Other cookies may hold anything; a token of bytes that none has is one that nobody believes.
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
        return Err(Problem::bad_request("there are several tickets: expected one"));
    }
    if !Class::of(request).opens_stream(request) {
        let detail = "a ticket opens an event stream, and nothing else";
        return Err(Problem::denied(Denied::bad("ticket", detail)));
    }
    let cursor = request.headers().get(LAST_EVENT_ID);
    let again = cursor.is_some_and(|cursor| !cursor.as_bytes().trim_ascii().is_empty());
    Ok(Some((ticket.to_owned(), again)))
}

/// A browser sends credentials with whatever a foreign page makes it ask for, and reaches this
/// machine's loopback from there. So a request that changes something must come from a page of
/// ours, by the headers that browsers send and pages cannot forge. Where the credentials is no cookie
/// of ours, programs that are no browsers send neither header.
fn not_forged(access: &Access, request: &Request) -> Result<(), Problem> {
    if request.method().is_safe() {
        return Ok(());
    }
    let headers = request.headers();
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Said::Nothing,
            (Some(value), None) => value.to_str().map_or(Said::Unclear, Said::This),
            _ => Said::Unclear,
        }
    };
    let ours = match (once("sec-fetch-site"), once("origin")) {
        (Said::Unclear, _) | (_, Said::Unclear) => false,
        (Said::This("same-origin"), _) => true,
        (_, Said::This(origin)) => is_our_origin(access, request, origin),
        (Said::Nothing, Said::Nothing) => !has_cookie_of_ours(access, headers),
        (Said::This(_), Said::Nothing) => false,
    };
    if ours { Ok(()) } else { Err(Problem::forged()) }
}

/// What a header says that may be there once.
enum Said<'a> {
    Nothing,
    This(&'a str),
    Unclear,
}

fn has_cookie_of_ours(access: &Access, headers: &HeaderMap) -> bool {
    access.cookie().is_some_and(|name| !matches!(cookie(headers, name), Ok(None)))
}

/// Behind a proxy, the name that the browser knows is in `X-Forwarded-Host`: pages cannot set it.
fn is_our_origin(access: &Access, request: &Request, origin: &str) -> bool {
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
