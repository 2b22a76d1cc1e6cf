//! A request in progress: what is still to be written of it, and the channel for its answer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use super::refusal::{Answer, Refusal};
use crate::{
    backoff::Policy,
    event::{
        draft::{Draft, Expected, Place},
        name::StreamName,
    },
    store::append::{Found, Written},
};

/// A request to write events, until it is answered.
#[derive(Debug)]
pub(super) struct PendingWrite {
    drafts: Vec<Draft>,
    /// The place of each draft in the log, once it is known.
    places: Vec<Option<Written>>,
    answer: oneshot::Sender<Answer>,
    since: Instant,
    /// It must not share its transaction, because something was wrong with it or blocked it.
    pub(super) isolated: bool,
    /// It was sent to PostgreSQL before, and may have been committed.
    pub(super) maybe_committed: bool,
    /// How often it was not written although nothing in the log explains that.
    unexplained: u32,
    /// How often it was scheduled to be retried.
    retries: u32,
    /// The time of the next attempt, while it backs off.
    pub(super) retry_at: Option<Instant>,
    _slot: OwnedSemaphorePermit,
}

/// The result of looking up a request that was not written.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is in the log already, or can never be, and was answered.
    Answered,
    /// It can still be written.
    Again(PendingWrite),
}

impl PendingWrite {
    /// A request that was blocked by others for longer than this is refused.
    const MAX_WAIT: Duration = Duration::from_secs(10);
    const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(1), Duration::from_millis(500));
    /// The number of unexplained failures after which an attempt has to find out the reason.
    const RACES_BEFORE_CERTAINTY: u32 = 3;

    pub(super) fn new(
        drafts: Vec<Draft>,
        answer: oneshot::Sender<Answer>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let places = vec![None; drafts.len()];
        Self {
            drafts,
            places,
            answer,
            since: Instant::now(),
            isolated: false,
            maybe_committed: false,
            unexplained: 0,
            retries: 0,
            retry_at: None,
            _slot: slot,
        }
    }

    /// Schedules the next attempt, which is isolated, after a pause. The pauses grow with each retry.
    pub(super) fn backed_off(mut self) -> Self {
        self.retry_at = Some(Instant::now() + Self::RETRY_BACKOFF.after(self.retries));
        self.retries += 1;
        self.isolated = true;
        self
    }

    /// Counts a failure that nothing in the log explains.
    pub(super) fn count_unexplained(&mut self) {
        self.unexplained += 1;
    }

    /// Whether it failed more often than lost races can explain. Then something that is not visible in the
    /// log is the reason.
    pub(super) fn is_inexplicable(&self) -> bool {
        self.unexplained > 3 * Self::RACES_BEFORE_CERTAINTY
    }

    /// Whether the next attempt has to find out why it is not written. Between writers of one stream, another
    /// writer may just have been faster each time. That is no explanation if triggers of others
    /// (`neighbours`) may drop rows, or if an event has no stream to race for.
    pub(super) fn wants_certainty(&self, neighbours: bool) -> bool {
        let races = self.missing().all(|draft| draft.place.is_some());
        let enough = if neighbours || !races { 1 } else { Self::RACES_BEFORE_CERTAINTY };
        self.unexplained >= enough
    }

    /// The drafts that are still to be written.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Draft> {
        let drafts = self.drafts.iter().zip(&self.places);
        drafts.filter(|(_, place)| place.is_none()).map(|(draft, _)| draft)
    }

    pub(super) fn bytes(&self) -> usize {
        self.missing().map(Draft::weight).fold(0, usize::saturating_add)
    }

    /// The streams that it still has to write to.
    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.missing().filter_map(Draft::stream)
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = Uuid> {
        self.missing().filter_map(|draft| draft.uid)
    }

    /// Whether it expects a stream to be at some version, or to exist.
    pub(super) fn expects(&self) -> bool {
        let expects = |place: &Place| place.expected != Expected::Any;
        self.missing().any(|draft| draft.place.as_ref().is_some_and(expects))
    }

    /// Whether it can be sent again without creating duplicates, because every event has a `uid`.
    pub(super) fn is_idempotent(&self) -> bool {
        self.missing().all(|draft| draft.uid.is_some())
    }

    /// Whether its caller has stopped waiting.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.since.elapsed() > Self::MAX_WAIT
    }

    /// Answers that all missing events were written, with these places.
    pub(super) fn written(mut self, places: impl IntoIterator<Item = Written>) {
        let missing = self.places.iter_mut().filter(|place| place.is_none());
        missing.zip(places).for_each(|(place, written)| *place = Some(written));
        self.done();
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        let refusal = match refusal {
            Refusal::Unavailable | Refusal::Contended if self.maybe_committed => Refusal::Unknown,
            refusal => refusal,
        };
        // The caller may have stopped waiting.
        let _ = self.answer.send(Err(refusal));
    }

    /// Decides by what was found in the log where the missing events were to be written.
    pub(super) fn judge(mut self, found: &[Found]) -> Verdict {
        let missing: Vec<usize> =
            (0..self.drafts.len()).filter(|at| self.places[*at].is_none()).collect();
        for (&at, found) in missing.iter().zip(found) {
            match found.written {
                Some(written) if found.same => self.places[at] = Some(written),
                Some(_) => {
                    let uid = self.drafts[at].uid.unwrap_or_default();
                    self.refuse(Refusal::Uid { uid });
                    return Verdict::Answered;
                }
                None => {}
            }
        }
        if let Some(refusal) = self.version_conflict(&missing, found) {
            self.refuse(refusal);
            return Verdict::Answered;
        }
        if self.places.iter().all(Option::is_some) {
            self.done();
            return Verdict::Answered;
        }
        Verdict::Again(self)
    }

    /// The refusal for the first stream that is not at the expected version. Each missing event counts as
    /// appended for the events after it.
    fn version_conflict(&self, missing: &[usize], found: &[Found]) -> Option<Refusal> {
        let mut ends: HashMap<&StreamName, i64> = HashMap::new();
        for (&at, found) in missing.iter().zip(found) {
            let place = self.drafts[at].place.as_ref().filter(|_| self.places[at].is_none());
            let Some(Place { stream, expected }) = place else { continue };
            let end = ends.entry(stream).or_insert(found.current);
            let right = match expected {
                Expected::Any => true,
                Expected::Exists => *end > 0,
                Expected::Version(version) => end.checked_add(1) == Some(*version),
            };
            if !right {
                return Some(Refusal::Version { stream: stream.clone(), current: found.current });
            }
            *end = end.saturating_add(1);
        }
        None
    }

    fn done(self) {
        let _ = self.answer.send(Ok(self.places.into_iter().flatten().collect()));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::event::{EventId, json::Json};

    /// A request with an event for each of these streams, and the receiver of its answer.
    pub(in super::super) fn pending_write(
        streams: &[&str],
        expected: Expected,
    ) -> (PendingWrite, oneshot::Receiver<Answer>) {
        pending_write_of("1", streams, expected)
    }

    /// Like [`pending_write`], with this payload.
    pub(in super::super) fn pending_write_of(
        payload: &str,
        streams: &[&str],
        expected: Expected,
    ) -> (PendingWrite, oneshot::Receiver<Answer>) {
        let draft = |(stream, expected): (&&str, Expected)| Draft {
            kind: "t".parse().unwrap(),
            subscriber: None,
            payload: Json::examine(payload).unwrap(),
            timestamp: None,
            uid: None,
            metadata: None,
            place: Some(Place { stream: stream.parse().unwrap(), expected }),
            amends: None,
        };
        let expectations =
            std::iter::successors(Some(expected), |expected| Some(expected.following()));
        let drafts = streams.iter().zip(expectations).map(draft).collect();
        let (answer, waits) = oneshot::channel();
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (PendingWrite::new(drafts, answer, slot), waits)
    }

    fn found(current: i64) -> Found {
        Found { written: None, same: false, in_place: false, current }
    }

    #[test]
    fn expects_each_event_after_those_before_it() {
        let (request, _waits) = pending_write(&["a", "a"], Expected::Version(4));
        assert!(matches!(request.judge(&[found(3), found(3)]), Verdict::Again(_)));
        let (request, mut waits) = pending_write(&["a", "a"], Expected::Version(4));
        assert!(matches!(request.judge(&[found(4), found(4)]), Verdict::Answered));
        let refusal = waits.try_recv().unwrap().unwrap_err();
        assert_eq!(refusal, Refusal::Version { stream: "a".parse().unwrap(), current: 4 });
    }

    #[test]
    fn a_uid_identifies_one_event() {
        let written = Some(Written { id: EventId::new(7), version: Some(1) });
        for (same, answered) in [(true, true), (false, false)] {
            let (request, mut waits) = pending_write(&["a"], Expected::Any);
            request.judge(&[Found { written, same, in_place: true, current: 1 }]);
            assert_eq!(waits.try_recv().unwrap().is_ok(), answered);
        }
    }

    #[test]
    fn a_write_that_may_be_committed_is_refused_as_unknown() {
        for refusal in [Refusal::Unavailable, Refusal::Contended] {
            let (mut request, mut waits) = pending_write(&["a"], Expected::Any);
            request.maybe_committed = true;
            request.refuse(refusal);
            assert_eq!(waits.try_recv().unwrap(), Err(Refusal::Unknown));
        }
    }
}
