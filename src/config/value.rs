//! Parsers of values. An error completes the sentence "expected ...".

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{
    http::ListenAddress,
    order::Hold,
    store::{error::ErrorChain, server::Server},
    tail::safety::Checks,
    telemetry::{Filter, Format},
};

/// What was expected, the end of an error message.
pub(super) type Expected = String;
type Parsed<T> = Result<T, Expected>;

/// The largest accepted number of connections. More are probably a typing error.
const LARGEST_POOL: usize = 1000;
/// The shortest accepted interval. More frequent heartbeats would overload the program.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// The longest accepted duration. Not every system can represent times further in the future.
const MAX_DURATION: Duration = Duration::from_hours(100 * 365 * 24);

pub(super) fn place(text: &str) -> Parsed<ListenAddress> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return self::path(path).map(ListenAddress::Unix);
    }
    let text =
        text.strip_prefix("localhost:").map_or(text.to_owned(), |it| format!("127.0.0.1:{it}"));
    let address = text.parse().map(ListenAddress::Tcp);
    address.map_err(|_| {
        "an address and a port, such as 127.0.0.1:4000 or [::1]:4000, or unix:/path".into()
    })
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let duration = humantime::parse_duration(text).ok().filter(|it| *it <= MAX_DURATION);
    duration.ok_or_else(|| "a duration of at most 100 years, such as 500ms or 10s".into())
}

pub(super) fn interval(text: &str) -> Parsed<Duration> {
    let long_enough = duration(text).ok().filter(|it| *it >= SHORTEST_INTERVAL);
    long_enough.ok_or_else(|| format!("a duration of at least {SHORTEST_INTERVAL:?}, such as 10s"))
}

pub(super) fn hold(text: &str) -> Parsed<Hold> {
    if text == "unlimited" {
        return Ok(Hold::Unlimited);
    }
    duration(text).map(Hold::For).map_err(|it| format!("{it}, or unlimited"))
}

pub(super) fn checks(text: &str) -> Parsed<Checks> {
    match text {
        "enforce" => Ok(Checks::Enforce),
        "warn" => Ok(Checks::Warn),
        _ => Err("enforce or warn".into()),
    }
}

pub(super) fn size(text: &str) -> Parsed<usize> {
    let bytes = text.parse::<bytesize::ByteSize>().ok().and_then(|it| usize::try_from(it.0).ok());
    bytes.ok_or_else(|| "a size, such as 64MiB or 1GiB".into())
}

pub(super) fn count(text: &str) -> Parsed<usize> {
    let number = text.parse().ok().filter(|number| (1..=LARGEST_POOL).contains(number));
    number.ok_or_else(|| format!("a number from 1 to {LARGEST_POOL}"))
}

pub(super) fn page(text: &str) -> Parsed<i64> {
    let number = text.parse().ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| "a number from 1 to 10000".into())
}

pub(super) fn limit(text: &str) -> Parsed<usize> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a number from 1".into())
}

/// The limit of a request head. The HTTP server needs at least the size of its buffer.
pub(super) fn head(text: &str) -> Parsed<usize> {
    let large_enough = size(text).ok().filter(|bytes| *bytes >= 8 << 10);
    large_enough.ok_or_else(|| "a size of at least 8KiB, such as 16KiB".into())
}

pub(super) fn port(text: &str) -> Parsed<u16> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "a port from 1 to 65535".into())
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    std::path::absolute(text).map_err(|_| "a path".into())
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| "true or false".into())
}

/// A path below which routes can be added. It consists of plain segments.
pub(super) fn url_path(text: &str) -> Parsed<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    let segments = text.strip_prefix('/').map(|rest| rest.trim_end_matches('/').split('/'));
    let sound = text == "/"
        || segments.is_some_and(|mut all| all.all(|it| !it.is_empty() && it.chars().all(plain)));
    let own = ["/events", "/streams", "/all"];
    let sound = sound && !own.contains(&text.trim_end_matches('/'));
    sound
        .then(|| text.to_owned())
        .ok_or_else(|| "a path that the gateway does not use, such as / or /append".into())
}

pub(super) fn on_or_off(text: &str) -> Parsed<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

pub(super) fn origins(text: &str) -> Parsed<Vec<String>> {
    let origins = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let origins: Option<_> = origins.map(|it| is_origin(it).then(|| it.to_owned())).collect();
    origins.ok_or_else(|| "origins separated by commas, such as https://app.example.com".into())
}

/// Whether a text is an origin as browsers send it: a scheme and a host, without a slash at the end.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty()
            && !host.contains(['/', '?', '#', '@', '*'])
            && host.parse::<axum::http::uri::Authority>().is_ok()
    })
}

pub(super) fn header_names(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let names: Option<_> = names.map(|it| is_header_name(it).then(|| it.to_owned())).collect();
    names.ok_or_else(|| "header names separated by commas, such as x-tenant, or *".into())
}

fn is_header_name(text: &str) -> bool {
    text == "*" || text.parse::<axum::http::HeaderName>().is_ok()
}

pub(super) fn format(text: &str) -> Parsed<Format> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("text or json".into()),
    }
}

pub(super) fn filter(text: &str) -> Parsed<Filter> {
    Filter::parse(text).map_err(|_| "a filter, such as info or warn,event_piper=debug".into())
}

/// The error contains the reason, since the value is a secret.
pub(super) fn database(text: &str) -> Parsed<(Server, SecretString)> {
    let server = Server::parse(text).map_err(|e| {
        format!("a URL such as postgres://user:password@host:5432/database ({})", ErrorChain(&e))
    })?;
    Ok((server, text.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn check<T>(
        parse: fn(&str) -> Parsed<T>,
        right: &[&str],
        wrong: &[&str],
    ) {
        for (texts, is_right) in [(right, true), (wrong, false)] {
            for text in texts {
                assert_eq!(parse(text).is_ok(), is_right, "{text:?}");
            }
        }
    }

    #[test]
    fn values_have_bounds() {
        check(interval, &["10ms", "1day"], &["9ms", "0s", "10"]);
        check(duration, &["0s", "36500days"], &["36501days", "18446744073709551615s", "-1s"]);
        check(hold, &["0s", "unlimited"], &["18446744073709551615s", "never"]);
        check(size, &["0", "64MiB"], &["18446744073709551616", "-1", "16 bananas"]);
        check(count, &["1", "1000"], &["0", "1001", "-1"]);
        check(page, &["1", "10000"], &["0", "10001"]);
        check(limit, &["1", "1000000"], &["0", "-1", ""]);
        check(head, &["8KiB", "1MiB"], &["8191", "0"]);
        check(port, &["1", "65535"], &["0", "65536"]);
    }

    #[test]
    fn a_path_for_appending_must_not_be_in_use() {
        let wrong = ["", "append", "//", "/a//b", "/a b", "/{a}", "/events", "/streams/", "/all"];
        check(url_path, &["/", "/append", "/a/b.c/", "/events/old"], &wrong);
    }

    #[test]
    fn header_names_are_a_list_or_a_star() {
        let right = ["", "X-Tenant", "x-tenant, baggage", "*"];
        check(header_names, &right, &["x tenant", "x:y", "ż", "a,b c"]);
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        let right = ["", "https://a.example", "http://a.example:8080, https://b"];
        let wrong =
            ["*", "a.example", "ftp://a", "https://", "https://a/", "https://u@a", "https://*.a"];
        check(origins, &right, &wrong);
    }
}
