//! Supports clients that close their sending side after a request and still read the response (RFC 9293,
//! section 3.6).
//!
//! hyper treats the end of input as the end of the connection, and drops the request that it is handling. A
//! write could then be committed without a response. So the end of input is hidden from hyper while a
//! request is being handled. Such a client looks like one that has gone until data is sent to it:
//! streams send comments, and responses to reads are dropped after a deadline. Writes have deadlines of
//! their own.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderValue, Request, Response, header},
};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
    task::AtomicWaker,
};
use hyper::body::{Frame, Incoming};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::raw_stream::PROBE;

/// How long a read may take to be answered after the end of input.
const READ_RESPONSE_DEADLINE: Duration = Duration::from_secs(10);

/// The time between two probes. The first write to a client that has gone causes a reset, and the next one
/// fails.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The requests that are being handled on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Requests whose response has not been sent completely.
    open: AtomicUsize,
    /// Of these, the ones whose body has not arrived completely.
    arriving: AtomicUsize,
    /// Of these, the ones without a deadline after the end of input: writes and event streams.
    kept: AtomicUsize,
    input_ended: CancellationToken,
    reader: AtomicWaker,
}

type Counter = fn(&State) -> &AtomicUsize;

/// Increments a counter until it is dropped.
struct Counted(Arc<State>, Counter);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::SeqCst);
        self.0.reader.wake();
    }
}

impl Exchange {
    fn count(&self, counter: Counter) -> Counted {
        counter(&self.0).fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.0), counter)
    }

    /// Handles a request, and counts it until its response has been sent or dropped.
    pub(super) fn during<A, F>(
        &self,
        request: Request<Incoming>,
        answer: &A,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<A, F>
    where
        A: Fn(Request<Body>) -> F,
        F: Future<Output = Result<Response<Body>, Infallible>>,
    {
        let open = self.count(|state| &state.open);
        let write = (!request.method().is_safe()).then(|| self.count(|state| &state.kept));
        let arriving =
            (!request.body().is_end_stream()).then(|| self.count(|state| &state.arriving));
        let answer = answer(request.map(|body| held(Body::new(body), arriving)));
        let exchange = self.clone();
        async move {
            let response = answer.await?;
            let stream = is_event_stream(&response).then(|| exchange.count(|state| &state.kept));
            let probes = stream.is_some().then(|| exchange.probes());
            Ok(response.map(|body| {
                let body = match probes {
                    Some(probes) => Body::new(Probed { body, probes }),
                    None => body,
                };
                held(body, Some((open, write, stream)))
            }))
        }
    }

    /// The comments to send to a client whose input has ended.
    fn probes(&self) -> BoxStream<'static, Bytes> {
        let ended = self.0.input_ended.clone().cancelled_owned();
        let probe = |()| Bytes::from_static(PROBE);
        let first = stream::once(ended).map(probe);
        let second = stream::once(async { sleep(PROBE_INTERVAL).await }).map(probe);
        first.chain(second).boxed()
    }
}

fn is_event_stream(response: &Response<Body>) -> bool {
    let events = HeaderValue::from_static("text/event-stream");
    response.headers().get(header::CONTENT_TYPE) == Some(&events)
}

/// A body that drops `guard` when it ends or is dropped.
fn held<T: Send + Unpin + 'static>(body: Body, guard: Option<T>) -> Body {
    match guard {
        None => body,
        Some(guard) => Body::new(Held { body, guard: Some(guard) }),
    }
}

struct Held<T> {
    body: Body,
    guard: Option<T>,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// An event stream with comments between its frames.
struct Probed {
    body: Body,
    probes: BoxStream<'static, Bytes>,
}

impl HttpBody for Probed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.probes.as_mut().poll_next(cx) {
            Poll::Ready(Some(probe)) => Poll::Ready(Some(Ok(Frame::data(probe)))),
            _ => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A connection that reports the end of input only when no request is being handled.
pub(super) struct HalfClosable<S> {
    socket: S,
    exchange: Exchange,
    /// Ends the wait for the response. `None` until the input has ended.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> HalfClosable<S> {
    pub(super) fn new(socket: S, exchange: Exchange) -> Self {
        Self { socket, exchange, deadline: None }
    }

    fn poll_responded(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State { open, arriving, kept, reader, .. } = &*self.exchange.0;
        reader.register(cx.waker());
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        if count(open) == 0 || count(arriving) > 0 {
            return Poll::Ready(());
        }
        match &mut self.deadline {
            Some(deadline) if count(kept) == 0 => deadline.poll_unpin(cx),
            _ => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClosable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deadline.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.deadline = Some(Box::pin(sleep(READ_RESPONSE_DEADLINE)));
            this.exchange.0.input_ended.cancel();
        }
        this.poll_responded(cx).map(Ok)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClosable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
