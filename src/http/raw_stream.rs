//! An event stream on a bare socket.
//!
//! The request is routed, authorised and answered by the same router as any other. But when
//! the answer is a stream, its head is written here, and then its frames, by a task that
//! holds a socket and a session and nothing more. hyper's connection would hold some
//! 10 KiB of buffers and state for as long as the stream is open.
//!
//! Each write is a chunk. A stream that ends on purpose ends with the last chunk; without it, the
//! client knows that the stream was cut.

use std::{
    io::{self, Write},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    select,
    time::timeout,
};
use tower::ServiceExt;

use super::{chunked, event_stream, send_progress::StallLimit, session::Session};
use crate::{crash::Lock, live::subscription::Subscription};

/// A session that can be handed over to a bare socket.
pub(super) type BoxedSession = Box<Session<Subscription>>;

/// Marks a request whose answer may be [`RawStream`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RawStreamAllowed;

/// The session that an answer streams, beside an empty body.
#[derive(Clone)]
pub(super) struct RawStream(Arc<Lock<Option<BoxedSession>>>);

impl RawStream {
    fn new(session: Session<Subscription>) -> Self {
        Self(Arc::new(Lock::new(Some(Box::new(session)))))
    }

    fn take(&self) -> Option<BoxedSession> {
        self.0.lock().take()
    }
}

/// The answer to a request whose connection is handed over with the session.
pub(super) fn response(session: Session<Subscription>) -> Response<Body> {
    (event_stream::headers(), Extension(RawStream::new(session))).into_response()
}

/// Answers the request, whose head takes `len` bytes that are still in the socket. Answers
/// the session to go on with, when the answer is a stream.
pub(super) async fn respond(
    socket: &mut TcpStream,
    router: Router,
    mut request: Request<Body>,
    len: usize,
    stall_limit: &StallLimit,
) -> io::Result<Option<BoxedSession>> {
    socket.read_exact(&mut vec![0; len]).await?;
    request.extensions_mut().insert(RawStreamAllowed);
    let close_requested = requests_close(request.headers());
    let Ok(mut response) = router.oneshot(request).await;
    let session = response.extensions().get::<RawStream>().and_then(RawStream::take);
    if session.is_some() {
        // The router measured the empty body that stands in for the stream.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        let chunked = HeaderValue::from_static("chunked");
        response.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
    }
    // A stream says nothing of a close that the client has not asked for: Node's fetch takes a cut
    // for an end behind it.
    let closes = session.is_none() || close_requested;
    let (head, body) = (head(&response, closes)?, response.into_body());
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    stall_limit.socket(&mut *socket).write_all(&[head.as_slice(), &body].concat()).await?;
    Ok(session)
}

fn requests_close(headers: &HeaderMap) -> bool {
    let options = headers.get_all(header::CONNECTION).iter().filter_map(|it| it.to_str().ok());
    let mut options = options.flat_map(|list| list.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn head(response: &Response<Body>, closes: bool) -> io::Result<Vec<u8>> {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = Vec::with_capacity(512);
    write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_str())?;
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if !response.headers().contains_key(header::DATE) {
        let now = std::time::SystemTime::now();
        write!(head, "date: {}\r\n", httpdate::fmt_http_date(now))?;
    }
    if closes {
        write!(head, "connection: close\r\n")?;
    }
    write!(head, "\r\n")?;
    Ok(head)
}

/// Tells a client that still reads from one that has gone: the operating system of the latter
/// answers it with a reset. A comment, which clients skip.
pub(super) const PROBE: &[u8] = b":\n\n";

/// Writes the stream until it ends, or the client has gone.
pub(super) async fn run(
    mut socket: TcpStream,
    mut session: BoxedSession,
    stall_limit: StallLimit,
) -> io::Result<()> {
    let mut half_closed = false;
    loop {
        select! {
            bytes = session.next() => {
                let Some(bytes) = bytes else {
                    stall_limit.socket(&mut socket).write_all(chunked::LAST).await?;
                    return socket.shutdown().await;
                };
                let write = pin!(chunked::write(&mut socket, bytes, &stall_limit));
                let written = unless_ended(&mut session, write).await;
                written.inspect_err(|error| {
                    if error.kind() == io::ErrorKind::TimedOut {
                        session.stalled();
                    }
                })?;
            }
            ended = input_ended(&socket), if !half_closed => if ended? {
                half_closed = true;
                chunked::write(&mut socket, Bytes::from_static(PROBE), &stall_limit).await?;
            },
            _ = socket.ready(Interest::ERROR), if half_closed => return Ok(()),
        }
    }
}

/// Once the session is to end, a client has so long to take what it is being sent.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

/// Writes for as long as the session lasts, and a little longer: a client that takes nothing
/// does not keep alive what was revoked.
async fn unless_ended(
    session: &mut BoxedSession,
    mut write: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> io::Result<()> {
    select! {
        biased;
        written = write.as_mut() => return written,
        () = session.ended() => {}
    }
    let revoked = || Err(io::Error::new(io::ErrorKind::TimedOut, "it ended meanwhile"));
    timeout(CLOSING_GRACE, write).await.unwrap_or_else(|_| revoked())
}

/// Waits until the client sends something, and says whether that is the end of what it sends:
/// it has gone, or it has closed its sending side and still reads (RFC 9293, section 3.6). What
/// else it sends behind its request is ignored.
async fn input_ended(socket: &TcpStream) -> io::Result<bool> {
    socket.readable().await?;
    match socket.try_read(&mut [0; 256]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
