//! What a fresh connection is for, found out by looking at its first bytes without taking
//! them.
//!
//! Most connections of a gateway carry one event stream and nothing else, for hours. Those
//! need no connection machinery behind the first answer, so they are told apart here: see
//! [`raw_stream`](super::raw_stream).

use std::{io, time::Duration};

use axum::{body::Body, http};
use tokio::{net::TcpStream, time::sleep};

/// What the first bytes say.
pub(super) enum Protocol {
    /// HTTP/2 without TLS, known beforehand (RFC 9113, section 3.3).
    Http2,
    /// One whole request for an event stream, and nothing behind it.
    Stream {
        /// The request.
        request: Box<http::Request<Body>>,
        /// The bytes that it takes.
        len: usize,
    },
    /// Anything else.
    Http1,
}

/// Where the route is whose streams need no connection machinery.
pub(super) const STREAM_PATH: &str = "/events";

/// The first bytes of an HTTP/2 connection; no method of HTTP/1.1 begins like that.
const PREFACE: &[u8] = b"PRI";

/// A request for a stream is hardly larger; one that is goes the long way.
const PEEK_BYTES: usize = 8 << 10;

/// More headers than a browser sends.
const MAX_HEADERS: usize = 64;

/// The bytes of a beginning that may be HTTP/2 come together, or nearly so: a client that sends `P`
/// and nothing more is looked at less and less often.
const FIRST_PEEK_PAUSE: Duration = Duration::from_millis(1);
const MAX_PEEK_PAUSE: Duration = Duration::from_secs(1);

/// Looks at the socket until it is clear what it is for.
pub(super) async fn protocol(socket: &TcpStream) -> io::Result<Protocol> {
    // On the heap: what an async function holds over an await, its task holds to the end.
    let mut first = vec![0; PEEK_BYTES];
    let mut pauses = peek_pauses();
    loop {
        let seen = socket.peek(&mut first).await?;
        let seen = &first[..seen];
        if seen.starts_with(PREFACE) {
            return Ok(Protocol::Http2);
        }
        if seen.is_empty() || !PREFACE.starts_with(seen) {
            return Ok(stream_request(seen).unwrap_or(Protocol::Http1));
        }
        // The bytes are left in the socket, which therefore stays readable: nothing tells when more
        // of them come.
        sleep(pauses.next().unwrap_or(MAX_PEEK_PAUSE)).await;
    }
}

fn peek_pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_PEEK_PAUSE), |pause| Some((2 * *pause).min(MAX_PEEK_PAUSE)))
}

/// The request, if it is exactly one, for an event stream, whole, and without a body.
fn stream_request(seen: &[u8]) -> Option<Protocol> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = head.parse(seen).ok()? else { return None };
    let (method, path, version) = (head.method?, head.path?, head.version?);
    let plain = version == 1 && method == "GET" && len == seen.len();
    if !plain || path.split('?').next() != Some(STREAM_PATH) {
        return None;
    }
    let mut request = http::Request::get(path);
    for header in head.headers.iter() {
        if ["content-length", "transfer-encoding", "upgrade", "expect"]
            .iter()
            .any(|body| header.name.eq_ignore_ascii_case(body))
        {
            return None;
        }
        request = request.header(header.name, header.value);
    }
    // A request without a Host is refused (RFC 9112, section 3.2): the long way does that.
    let hosts = request.headers_ref()?.get_all(http::header::HOST).iter().count();
    let request = request.body(Body::empty()).ok()?;
    (hosts == 1).then(|| Protocol::Stream { request: Box::new(request), len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_none_behind_the_request_are_taken(
            head in "(GET|POST) /(events|x)[?=&%a-z0-9]{0,12} HTTP/1\\.[01]\r\n(Host: x\r\n)?",
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [head.as_bytes(), &rest].concat();
            if let Some(Protocol::Stream { len, .. }) = stream_request(&bytes) {
                prop_assert_eq!(len, bytes.len());
            }
            let _ = stream_request(&rest);
        }
    }

    #[test]
    fn a_beginning_that_stays_unclear_is_looked_at_a_few_times_only() {
        let mut passed = Duration::ZERO;
        let looks = peek_pauses().take_while(|pause| {
            passed += *pause;
            passed <= Duration::from_secs(10)
        });
        let looks = looks.count();
        assert!(looks <= 20, "{looks} looks in ten seconds");
        assert_eq!(
            peek_pauses().next(),
            Some(FIRST_PEEK_PAUSE),
            "a preface in two pieces is not delayed"
        );
    }

    fn is_stream(text: &str) -> bool {
        matches!(stream_request(text.as_bytes()), Some(Protocol::Stream { len, .. }) if len == text.len())
    }

    #[test]
    fn one_whole_request_for_events_is_told_apart() {
        assert!(is_stream("GET /events HTTP/1.1\r\nHost: x\r\nX-Consumer-Id: toto\r\n\r\n"));
        assert!(is_stream("GET /events?consumer=a HTTP/1.1\r\nhost: x\r\n\r\n"));
    }

    #[test]
    fn whatever_else_it_is_goes_the_long_way() {
        for other in [
            "",
            "GET /events HTTP/1.1\r\nHost: x\r\n",
            "GET /events HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /events HTTP/1.0\r\nHost: x\r\n\r\n",
            "HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "GET /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
            "GET /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /events/1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /events HTTP/1.1\r\n\r\n",
            "GET /events HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /events HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
        ] {
            assert!(stream_request(other.as_bytes()).is_none(), "{other:?}");
        }
    }
}
