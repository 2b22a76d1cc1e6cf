//! Answers as their clients take them, where hyper sends them.
//!
//! hyper asks an answer's body for more when there is room for more on the way. A body that is not
//! asked for long has a client that takes nothing: over HTTP/2, where it can close the window of one
//! stream and keep the connection alive, nothing else tells. Such an answer is given up. So is one
//! that cannot be sent while what its client has shown counts no more.

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

/// A body is handed over in pieces of this size: more is never on the way without being counted.
const PIECE_BYTES: usize = 16 << 10;

/// How often an answer is looked at that is being sent.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

task_local! {
    /// The answer that the current task sends.
    static CURRENT: SendProgress;
}

/// How far the client is in taking an answer.
#[derive(Clone, Default)]
pub(super) struct SendProgress(Arc<Lock<State>>);

#[derive(Default)]
struct State {
    /// Since when the client could have taken more. None: it waits for us.
    since: Option<Instant>,
    permitted: Option<StillPermitted>,
}

/// Whether what the client has shown still counts.
pub(super) type StillPermitted = Box<dyn Fn() -> bool + Send + Sync>;

impl SendProgress {
    /// The answer that this task sends.
    pub(super) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The answer is for somebody, for as long as this says so.
    pub(super) fn permitted(&self, permitted: StillPermitted) {
        self.state().permitted = Some(permitted);
    }

    fn set_waiting(&self, waiting: bool) {
        self.state().since = waiting.then(Instant::now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn is_to_be_cut(&self, within: Duration, tick: Duration) -> bool {
        let state = self.state();
        let Some(since) = state.since else { return false };
        let waits = since.elapsed();
        waits >= within || waits >= tick && state.permitted.as_ref().is_some_and(|still| !still())
    }
}

/// How long a client may take nothing, and what counts those who did.
#[derive(Clone)]
pub(super) struct StallLimit {
    pub(super) within: Duration,
    pub(super) cut: Counter,
}

impl StallLimit {
    /// A socket that is written to with this patience.
    pub(super) fn socket<S>(&self, socket: S) -> WriteTimeout<S> {
        WriteTimeout::new(socket, self.within, self.cut.clone())
    }

    /// Does what sends answers, unless a client takes nothing for too long.
    pub(super) async fn during(&self, sending: impl Future<Output = ()>) {
        let progress = SendProgress::default();
        let tick = LOOKED_AT_EVERY.min(self.within / 4).max(Duration::from_millis(1));
        let given_up = async {
            while !progress.is_to_be_cut(self.within, tick) {
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

/// Runs each stream of an HTTP/2 connection in a task of its own.
impl<F> Executor<F> for StallLimit
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (stall_limit, stream) = (self.clone(), Box::pin(stream));
        spawn(async move { stall_limit.during(async { drop(stream.await) }).await });
    }
}

/// A body that counts while it is on its way.
pub(super) struct TrackedBody {
    body: Body,
    /// What is left of its last frame.
    rest: Bytes,
    progress: Option<SendProgress>,
    _share: Option<Share>,
}

impl TrackedBody {
    /// This body, and the bytes that are counted for it.
    pub(super) fn body(body: Body, progress: Option<SendProgress>, share: Option<Share>) -> Body {
        Body::new(Self { body, rest: Bytes::new(), progress, _share: share })
    }

    fn set_waiting(&self, waiting: bool) {
        if let Some(progress) = &self.progress {
            progress.set_waiting(waiting);
        }
    }

    /// The next piece of the rest, copied: a slice would keep all of it in memory until it is sent.
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
    async fn a_large_body_goes_in_pieces_and_comes_whole() {
        let text: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut body = TrackedBody::body(Body::from(text.clone()), None, None);
        assert_eq!(body.size_hint().exact(), Some(100_000));
        let mut came = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            came.extend_from_slice(&data);
            assert_eq!(body.size_hint().exact(), Some((100_000 - came.len()) as u64));
        }
        assert_eq!(came, text);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up_and_one_that_has_nothing_to_say_is_not() {
        let stall_limit = StallLimit { within: Duration::from_millis(20), cut: Counter::default() };
        let quiet = async {
            let body = Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>());
            let mut body = TrackedBody::body(body, SendProgress::current(), None);
            select! {
                _ = body.frame() => unreachable!("it has nothing to say"),
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
    async fn an_answer_that_cannot_be_sent_ends_with_the_proof() {
        let stall_limit = StallLimit { within: Duration::from_mins(10), cut: Counter::default() };
        let full = async {
            let progress = SendProgress::current().unwrap();
            progress.permitted(Box::new(|| false));
            let mut body =
                TrackedBody::body(Body::from(vec![0; 50_000]), Some(progress.clone()), None);
            body.frame().await.unwrap().unwrap();
            progress.state().since = Instant::now().checked_sub(2 * LOOKED_AT_EVERY);
            std::future::pending::<()>().await;
        };
        stall_limit.during(full).await;
        assert_eq!(stall_limit.cut.get(), 1);
    }
}
