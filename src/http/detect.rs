//! Detects the protocol of a new connection by peeking at its first bytes.
//!
//! Most connections of a gateway carry one event stream and nothing else, for hours. They do not need
//! hyper after the response has begun, so they are detected here and served by
//! [`raw_stream`](super::raw_stream).

use std::{io, time::Duration};

use axum::{body::Body, http};
use tokio::{net::TcpStream, time::sleep};

/// The protocol of a connection, by its first bytes.
pub(super) enum Protocol {
    /// HTTP/2 in clear text with prior knowledge (RFC 9113, section 3.3).
    Http2,
    /// One complete request for an event stream, and no bytes after it.
    Stream {
        /// The request.
        request: Box<http::Request<Body>>,
        /// The length of the request in bytes.
        len: usize,
    },
    /// Everything else, which hyper handles as HTTP/1.1.
    Http1,
}

/// The path of the route whose streams are served without hyper.
pub(super) const STREAM_PATH: &str = "/events";

/// The first bytes of an HTTP/2 connection. No method of HTTP/1.1 begins with them.
const PREFACE: &[u8] = b"PRI";

/// How many bytes are peeked. Larger requests are left to hyper.
const PEEK_BYTES: usize = 8 << 10;

/// The number of headers that are parsed, more than a browser sends. Requests with more are left to hyper.
const MAX_HEADERS: usize = 64;

/// The pauses between peeks at a connection whose first bytes may be HTTP/2. The preface normally arrives
/// in one piece. A client that sends `P` and nothing more is checked less and less often.
const FIRST_PEEK_PAUSE: Duration = Duration::from_millis(1);
const MAX_PEEK_PAUSE: Duration = Duration::from_secs(1);

/// Peeks at the socket until the protocol is known.
pub(super) async fn protocol(socket: &TcpStream) -> io::Result<Protocol> {
    // On the heap: a buffer on the stack would become part of the task, for as long as it runs.
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
        // The peeked bytes stay in the socket, which therefore remains readable. So readiness does not
        // signal that more bytes have arrived.
        sleep(pauses.next().unwrap_or(MAX_PEEK_PAUSE)).await;
    }
}

fn peek_pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_PEEK_PAUSE), |pause| Some((2 * *pause).min(MAX_PEEK_PAUSE)))
}

/// The request, if the bytes are exactly one complete request for an event stream, without a body.
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
    // A request without a Host is left to hyper and the router, which refuses it (RFC 9112, section 3.2).
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
        fn never_panics_and_takes_nothing_after_the_request(
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
    fn peeks_only_a_few_times_at_an_unclear_beginning() {
        let mut passed = Duration::ZERO;
        let peeks = peek_pauses().take_while(|pause| {
            passed += *pause;
            passed <= Duration::from_secs(10)
        });
        let peeks = peeks.count();
        assert!(peeks <= 20, "{peeks} peeks in ten seconds");
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
    fn detects_one_complete_request_for_events() {
        assert!(is_stream("GET /events HTTP/1.1\r\nHost: x\r\nX-Consumer-Id: toto\r\n\r\n"));
        assert!(is_stream("GET /events?consumer=a HTTP/1.1\r\nhost: x\r\n\r\n"));
    }

    #[test]
    fn leaves_everything_else_to_hyper() {
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
