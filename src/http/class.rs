//! The class of a route: whether it streams, and what it requires of the caller. The class is declared with
//! the route. Middleware reads it from the request and never compares paths.

use axum::{
    extract::Request,
    http::{HeaderMap, Method, header},
};

/// What a route does and requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    streams: Streams,
    anonymous: AnonymousAccess,
    required: RequiredRight,
}

/// Whether the response to a GET is an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Never,
    Always,
    /// If the client accepts `text/event-stream`.
    Accepted,
}

/// Which callers a route admits without credentials in modes that require them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnonymousAccess {
    /// None: the route requires credentials.
    Denied,
    /// All: the route is the console, where people enter their credentials.
    Allowed,
    /// Callers at the addresses of `--metrics-from`: the route shows metrics.
    Operators,
}

/// The right that a route requires of every caller. Rights that depend on the request, such as on its
/// consumer or stream, are checked by the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequiredRight {
    /// None.
    Nothing,
    /// To write something. Writing must also be enabled.
    Write,
    /// To read the whole log.
    ReadAll,
    /// To see the metrics.
    SeeMetrics,
}

impl Class {
    /// A plain response for authenticated callers.
    pub(super) const PLAIN: Self = Self {
        streams: Streams::Never,
        anonymous: AnonymousAccess::Denied,
        required: RequiredRight::Nothing,
    };
    /// A route that writes events.
    pub(super) const WRITE: Self = Self { required: RequiredRight::Write, ..Self::PLAIN };
    /// An event stream.
    pub(super) const STREAM: Self = Self { streams: Streams::Always, ..Self::PLAIN };
    /// An event stream of the whole log.
    pub(super) const STREAM_OF_ALL: Self =
        Self { required: RequiredRight::ReadAll, ..Self::STREAM };
    /// An event stream for clients that accept one, and a page for others.
    pub(super) const PAGE_OR_STREAM: Self = Self { streams: Streams::Accepted, ..Self::PLAIN };
    /// The console, where people enter their credentials.
    pub(super) const CONSOLE: Self = Self { anonymous: AnonymousAccess::Allowed, ..Self::PLAIN };
    /// A route for operators.
    pub(super) const OPERATORS: Self = Self {
        anonymous: AnonymousAccess::Operators,
        required: RequiredRight::SeeMetrics,
        ..Self::PLAIN
    };

    /// The class of the route that matched the request. `PLAIN` for routes without a class.
    pub(super) fn of(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or(Self::PLAIN)
    }

    /// Which callers the route admits without credentials.
    pub(super) fn anonymous(self) -> AnonymousAccess {
        self.anonymous
    }

    /// The right that every caller needs.
    pub(super) fn required(self) -> RequiredRight {
        self.required
    }

    /// Whether the request opens an event stream. An `EventSource` never reconnects after a status other
    /// than 200.
    pub(super) fn opens_stream(self, request: &Request) -> bool {
        request.method() == Method::GET
            && match self.streams {
                Streams::Never => false,
                Streams::Always => true,
                Streams::Accepted => accepts_events(request.headers()),
            }
    }
}

/// Whether the client accepts event streams, as a browser's `EventSource` declares.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter();
    let mut accept = accept.filter_map(|value| value.to_str().ok());
    accept.any(|value| value.contains("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_a_get_to_a_streaming_route_opens_a_stream() {
        let request = |method: &Method, accept: &str| {
            let request = Request::builder().method(method).header(header::ACCEPT, accept);
            request.body(Body::empty()).unwrap()
        };
        let events = "text/event-stream, */*";
        for (class, method, accept, opens) in [
            (Class::PLAIN, Method::GET, events, false),
            (Class::CONSOLE, Method::GET, events, false),
            (Class::STREAM, Method::GET, "*/*", true),
            (Class::STREAM, Method::HEAD, events, false),
            (Class::PAGE_OR_STREAM, Method::GET, "application/json", false),
            (Class::PAGE_OR_STREAM, Method::GET, events, true),
            (Class::PAGE_OR_STREAM, Method::POST, events, false),
        ] {
            let request = request(&method, accept);
            assert_eq!(class.opens_stream(&request), opens, "{class:?} {method} {accept}");
        }
    }
}
