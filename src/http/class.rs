//! What a route is: said once, where the route is declared. What stands before the routes reads it there, and
//! looks at no address.

use axum::{
    extract::Request,
    http::{HeaderMap, Method, header},
};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    streams: Streams,
    without_proof: WithoutProof,
    needs: Needs,
}

/// Whether a GET is answered with an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Never,
    Always,
    /// Where the client accepts one.
    Accepted,
}

/// Who is let in without a proof, where one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutProof {
    /// The route needs a proof.
    Nobody,
    /// The route is the page at which people give a proof.
    Everybody,
    /// The route shows metrics, which some addresses may see (`--metrics-from`).
    Operators,
}

/// The right that everybody needs who is let in. What a right is needed for that depends on the request, as on
/// the consumer or the stream that it names, the handler asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// None.
    Nothing,
    /// To write something, and that writing is switched on.
    ToWrite,
    /// To read everything.
    ToReadAll,
    /// To see the metrics.
    ToSeeMetrics,
}

impl Class {
    /// An answer for those who show a proof.
    pub(super) const PLAIN: Self = Self {
        streams: Streams::Never,
        without_proof: WithoutProof::Nobody,
        needs: Needs::Nothing,
    };
    /// What writes events.
    pub(super) const WRITE: Self = Self { needs: Needs::ToWrite, ..Self::PLAIN };
    /// An event stream.
    pub(super) const STREAM: Self = Self { streams: Streams::Always, ..Self::PLAIN };
    /// An event stream of the whole log.
    pub(super) const STREAM_OF_ALL: Self = Self { needs: Needs::ToReadAll, ..Self::STREAM };
    /// An event stream for those who accept one, and a page for others.
    pub(super) const PAGE_OR_STREAM: Self = Self { streams: Streams::Accepted, ..Self::PLAIN };
    /// The page at which people show a proof.
    pub(super) const ENTRANCE: Self =
        Self { without_proof: WithoutProof::Everybody, ..Self::PLAIN };
    /// What is for operators.
    pub(super) const OPERATORS: Self =
        Self { without_proof: WithoutProof::Operators, needs: Needs::ToSeeMetrics, ..Self::PLAIN };

    /// The class of the route that the request has come to; of one that asks for no proof, plain.
    pub(super) fn of(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or(Self::PLAIN)
    }

    /// Who is let in without a proof.
    pub(super) fn without_proof(self) -> WithoutProof {
        self.without_proof
    }

    /// The right that everybody needs.
    pub(super) fn needs(self) -> Needs {
        self.needs
    }

    /// The request is for an event stream. Its client takes any status but a 200 for a reason never to
    /// come back.
    pub(super) fn opens_stream(self, request: &Request) -> bool {
        request.method() == Method::GET
            && match self.streams {
                Streams::Never => false,
                Streams::Always => true,
                Streams::Accepted => accepts_events(request.headers()),
            }
    }
}

/// The client reads event streams: a browser's `EventSource` says so.
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
    fn a_stream_is_opened_by_a_get_to_a_route_that_streams() {
        let request = |method: &Method, accept: &str| {
            let request = Request::builder().method(method).header(header::ACCEPT, accept);
            request.body(Body::empty()).unwrap()
        };
        let events = "text/event-stream, */*";
        for (class, method, accept, opens) in [
            (Class::PLAIN, Method::GET, events, false),
            (Class::ENTRANCE, Method::GET, events, false),
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
