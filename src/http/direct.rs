//! An event stream on a bare socket.
//!
//! The request is routed, authorised and answered by the same router as any other. But when
//! the answer is a stream, its head is written here, and then its frames, by a task that
//! holds a socket and a subscription and nothing more. hyper's connection would hold some
//! 10 KiB of buffers and state for as long as the stream is open.
//!
//! The body ends with the connection (RFC 9112, section 6.3), so frames go out as they are.

use std::{
    io::{self, Write},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, header},
};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    select,
    time::timeout,
};
use tower::ServiceExt;

use super::taking::Patience;
use crate::gateway::subscription::Subscription;

/// Marks a request whose answer may be [`Detached`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Detachable;

/// The subscription that an answer streams, beside an empty body.
#[derive(Clone)]
pub(super) struct Detached(Arc<Mutex<Option<Box<Subscription>>>>);

impl Detached {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(subscription)))))
    }

    fn take(&self) -> Option<Box<Subscription>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Answers the request, whose head takes `len` bytes that are still in the socket. Answers
/// the subscription to go on with, when the answer is a stream.
pub(super) async fn answer(
    socket: &mut TcpStream,
    router: Router,
    mut request: Request<Body>,
    len: usize,
    patience: &Patience,
) -> io::Result<Option<Box<Subscription>>> {
    socket.read_exact(&mut vec![0; len]).await?;
    request.extensions_mut().insert(Detachable);
    let Ok(mut response) = router.oneshot(request).await;
    let subscription = response.extensions().get::<Detached>().and_then(Detached::take);
    if subscription.is_some() {
        // The router measured the empty body that stands in for the stream.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let (head, body) = (head(&response)?, response.into_body());
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    patience.steady(&mut *socket).write_all(&[head.as_slice(), &body].concat()).await?;
    Ok(subscription)
}

fn head(response: &Response<Body>) -> io::Result<Vec<u8>> {
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
    write!(head, "connection: close\r\n\r\n")?;
    Ok(head)
}

/// Writes the stream until it ends, or the client has gone.
pub(super) async fn stream(
    mut socket: TcpStream,
    mut subscription: Box<Subscription>,
    patience: Patience,
) -> io::Result<()> {
    loop {
        select! {
            bytes = subscription.next() => match bytes {
                Some(bytes) => {
                    let mut steady = patience.steady(&mut socket);
                    let written = unless_ended(&mut subscription, steady.write_all(&bytes)).await;
                    written.inspect_err(|error| {
                        if error.kind() == io::ErrorKind::TimedOut {
                            subscription.stalled();
                        }
                    })?;
                }
                None => return socket.shutdown().await,
            },
            gone = has_gone(&socket) => if gone? { return Ok(()) },
        }
    }
}

/// Once the subscription is to end, a client has so long to take what it is being sent.
const FAREWELL: Duration = Duration::from_secs(5);

/// Writes for as long as the subscription lasts, and a little longer: a client that takes nothing
/// does not keep alive what was revoked.
async fn unless_ended(
    subscription: &mut Subscription,
    write: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut write = pin!(write);
    select! {
        biased;
        written = &mut write => return written,
        () = subscription.ended() => {}
    }
    let revoked = || Err(io::Error::new(io::ErrorKind::TimedOut, "it ended meanwhile"));
    timeout(FAREWELL, write).await.unwrap_or_else(|_| revoked())
}

/// Waits for the client to say something. It has nothing to say any more but good-bye;
/// anything else is ignored.
async fn has_gone(socket: &TcpStream) -> io::Result<bool> {
    socket.readable().await?;
    match socket.try_read(&mut [0; 256]) {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
