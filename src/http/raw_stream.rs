//! An event stream that is served on the socket directly, without hyper.
//!
//! The request goes through the same router as every other request. If the response is a stream, this
//! module writes its head, and a task that holds only the socket and the session writes its frames. A
//! connection of hyper would hold some 10 KiB of buffers and state for as long as the stream is open.
//!
//! Each write is a chunk. A stream that the gateway ends has a last chunk. Without it, the client knows
//! that the stream was cut.

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

/// A session that can be served on a raw socket.
pub(super) type BoxedSession = Box<Session<Subscription>>;

/// Marks a request whose response may be a [`RawStream`].
#[derive(Clone, Copy, Debug)]
pub(super) struct RawStreamAllowed;

/// The session of a response whose body is empty. An extension of the response.
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

/// The response to a request whose connection will be served by [`run`].
pub(super) fn response(session: Session<Subscription>) -> Response<Body> {
    (event_stream::headers(), Extension(RawStream::new(session))).into_response()
}

/// Reads the `len` bytes of the request's head from the socket, routes the request, and writes the
/// response. Returns the session to continue with if the response is a stream.
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
        // The router measured the empty body, which is a placeholder for the stream.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        let chunked = HeaderValue::from_static("chunked");
        response.headers_mut().insert(header::TRANSFER_ENCODING, chunked);
    }
    // A stream has `Connection: close` only if the client asked for it: with that header, Node's fetch
    // takes a cut stream for a complete one.
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

/// A comment, which clients skip. Sent to find out whether the client still reads: if it has gone, its
/// operating system replies with a reset.
pub(super) const PROBE: &[u8] = b":\n\n";

/// Writes the stream until it ends or the client has gone.
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
                    stall_limit.socket(&mut socket).write_all(chunked::LAST_CHUNK).await?;
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

/// How long a write may continue after the session was told to end.
const CLOSING_GRACE: Duration = Duration::from_secs(5);

/// Writes until the session ends, and for [`CLOSING_GRACE`] after that. So a client that stops reading
/// cannot keep a stream open whose rights were revoked.
async fn unless_ended(
    session: &mut BoxedSession,
    mut write: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> io::Result<()> {
    select! {
        biased;
        written = write.as_mut() => return written,
        () = session.ended() => {}
    }
    let revoked =
        || Err(io::Error::new(io::ErrorKind::TimedOut, "the session ended during a write"));
    timeout(CLOSING_GRACE, write).await.unwrap_or_else(|_| revoked())
}

/// Waits for input, and returns whether the input has ended. If it has, the client has gone, or has closed
/// its sending side and still reads (RFC 9293, section 3.6). Other input after the request is ignored.
async fn input_ended(socket: &TcpStream) -> io::Result<bool> {
    socket.readable().await?;
    match socket.try_read(&mut [0; 256]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
