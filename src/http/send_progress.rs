//! Detects clients that stop reading a response which hyper sends.
//!
//! hyper polls the body of a response when it can send more. If it does not poll for a long time, the client
//! is not reading. Over HTTP/2 there is no other sign, because a client can close the window of one stream
//! and keep the connection alive. Such a response is dropped. So is a stalled response whose client's
//! credentials have become invalid.

use std::{
    pin::Pin,
    sync::{Arc, MutexGuard},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::{
    body::{Frame, SizeHint},
    rt::Executor,
};
use prometheus_client::metrics::counter::Counter;
use tokio::{select, spawn, task_local, time::sleep};

use super::write_timeout::WriteTimeout;
use crate::{access::budget::Share, crash::Lock};

/// The size of the pieces that hyper gets, so that at most one piece at a time is not accounted for.
const PIECE_BYTES: usize = 16 << 10;

/// How often the progress of a response is checked, at least.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

task_local! {
    /// The response that the current task sends.
    static CURRENT: SendProgress;
}

/// The progress of sending a response.
#[derive(Clone, Default)]
pub(super) struct SendProgress(Arc<Lock<State>>);

#[derive(Default)]
struct State {
    /// Since when the response waits for the client to read. `None`: the client waits for the gateway.
    since: Option<Instant>,
    permitted: Option<StillPermitted>,
}

/// Returns whether the client's credentials are still valid.
pub(super) type StillPermitted = Box<dyn Fn() -> bool + Send + Sync>;

impl SendProgress {
    /// The progress of the response that this task sends. `None` outside of [`StallLimit::during`].
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Sets the check whether the client's credentials are still valid.
    pub(super) fn set_permitted(&self, permitted: StillPermitted) {
        self.state().permitted = Some(permitted);
    }

    fn set_waiting(&self, waiting: bool) {
        self.state().since = waiting.then(Instant::now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn must_be_cut(&self, within: Duration, tick: Duration) -> bool {
        let state = self.state();
        let Some(since) = state.since else { return false };
        let stalled = since.elapsed();
        stalled >= within
            || stalled >= tick && state.permitted.as_ref().is_some_and(|still| !still())
    }
}

/// How long a client may read nothing, and the counter of clients that exceeded it.
#[derive(Clone)]
pub(super) struct StallLimit {
    pub(super) within: Duration,
    pub(super) cut: Counter,
}

impl StallLimit {
    /// Wraps a socket, so that its writes fail after this time without progress.
    pub(super) fn socket<S>(&self, socket: S) -> WriteTimeout<S> {
        WriteTimeout::new(socket, self.within, self.cut.clone())
    }

    /// Runs `sending`, and drops it if the client reads nothing for too long.
    pub(super) async fn during(&self, sending: impl Future<Output = ()>) {
        let progress = SendProgress::default();
        let tick = CHECK_INTERVAL.min(self.within / 4).max(Duration::from_millis(1));
        let given_up = async {
            while !progress.must_be_cut(self.within, tick) {
                sleep(tick).await;
            }
        };
        select! {
            () = CURRENT.scope(progress.clone(), sending) => {}
            () = given_up => {
                self.cut.inc();
            }
        }
    }
}

/// Runs each stream of an HTTP/2 connection in its own task, with this limit.
impl<F> Executor<F> for StallLimit
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (stall_limit, stream) = (self.clone(), Box::pin(stream));
        spawn(async move { stall_limit.during(async { drop(stream.await) }).await });
    }
}

/// A body that reports its progress, and keeps its bytes accounted for until they have been sent.
pub(super) struct TrackedBody {
    body: Body,
    /// The rest of the last frame.
    rest: Bytes,
    progress: Option<SendProgress>,
    _share: Option<Share>,
}

impl TrackedBody {
    /// Wraps a body. `share` is held until the body is dropped.
    pub(super) fn body(body: Body, progress: Option<SendProgress>, share: Option<Share>) -> Body {
        Body::new(Self { body, rest: Bytes::new(), progress, _share: share })
    }

    fn set_waiting(&self, waiting: bool) {
        if let Some(progress) = &self.progress {
            progress.set_waiting(waiting);
        }
    }

    /// The next piece of the rest. Copied, because a slice would keep the whole frame in memory.
    fn piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        Bytes::copy_from_slice(&piece)
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.set_waiting(false);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.len() > PIECE_BYTES => self.rest = data,
                    Ok(data) => {
                        self.set_waiting(true);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.piece();
        self.set_waiting(true);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn sends_a_large_body_in_pieces() {
        let text: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut body = TrackedBody::body(Body::from(text.clone()), None, None);
        assert_eq!(body.size_hint().exact(), Some(100_000));
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            received.extend_from_slice(&data);
            assert_eq!(body.size_hint().exact(), Some((100_000 - received.len()) as u64));
        }
        assert_eq!(received, text);
    }

    #[tokio::test]
    async fn drops_a_stalled_response_but_not_a_quiet_one() {
        let stall_limit = StallLimit { within: Duration::from_millis(20), cut: Counter::default() };
        let quiet = async {
            let body = Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>());
            let mut body = TrackedBody::body(body, SendProgress::current(), None);
            select! {
                _ = body.frame() => unreachable!("the body has no frames"),
                () = sleep(Duration::from_millis(100)) => {}
            }
        };
        stall_limit.during(quiet).await;
        assert_eq!(stall_limit.cut.get(), 0);
        let full = async {
            let mut body =
                TrackedBody::body(Body::from(vec![0; 50_000]), SendProgress::current(), None);
            body.frame().await.unwrap().unwrap();
            std::future::pending::<()>().await;
        };
        stall_limit.during(full).await;
        assert_eq!(stall_limit.cut.get(), 1);
    }

    #[tokio::test]
    async fn drops_a_stalled_response_of_invalid_credentials() {
        let stall_limit = StallLimit { within: Duration::from_mins(10), cut: Counter::default() };
        let full = async {
            let progress = SendProgress::current().unwrap();
            progress.set_permitted(Box::new(|| false));
            let mut body =
                TrackedBody::body(Body::from(vec![0; 50_000]), Some(progress.clone()), None);
            body.frame().await.unwrap().unwrap();
            progress.state().since = Instant::now().checked_sub(2 * CHECK_INTERVAL);
            std::future::pending::<()>().await;
        };
        stall_limit.during(full).await;
        assert_eq!(stall_limit.cut.get(), 1);
    }
}
