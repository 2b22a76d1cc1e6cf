//! A request on its way: what is still to be written of it, and who waits for the answer.

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

/// See the module.
#[derive(Debug)]
pub(super) struct PendingWrite {
    drafts: Vec<Draft>,
    /// Of each draft, where it stands in the log, once that is known.
    places: Vec<Option<Written>>,
    answer: oneshot::Sender<Answer>,
    since: Instant,
    /// It shares its transaction with nobody: something is wrong with it, or was in its way.
    pub(super) isolated: bool,
    /// It was sent before, and may have been written.
    pub(super) maybe_committed: bool,
    /// How often it was not written although nothing in the log speaks against it.
    unexplained: u32,
    /// How often it has waited before it was tried again, and until when it waits.
    retries: u32,
    pub(super) retry_at: Option<Instant>,
    _slot: OwnedSemaphorePermit,
}

/// What the log says of a request that was not written.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is in the log already, or can never be: it was answered.
    Answered,
    /// It can still be written.
    Again(PendingWrite),
}

impl PendingWrite {
    /// Who has waited for so long because others were in the way waits no longer.
    const MAX_WAIT: Duration = Duration::from_secs(10);
    const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(1), Duration::from_millis(500));
    /// So many races are lost before an attempt has to say what is in the way.
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

    /// It goes by itself, and not before a pause, which grows.
    pub(super) fn backed_off(mut self) -> Self {
        self.retry_at = Some(Instant::now() + Self::RETRY_BACKOFF.after(self.retries));
        self.retries += 1;
        self.isolated = true;
        self
    }

    /// It was not written, and nothing in the log says why.
    pub(super) fn count_unexplained(&mut self) {
        self.unexplained += 1;
    }

    /// It has lost more races than anybody loses: the log is not as it is seen.
    pub(super) fn is_inexplicable(&self) -> bool {
        self.unexplained > 3 * Self::RACES_BEFORE_CERTAINTY
    }

    /// Whether an attempt has to say what is in its way: between writers of one stream it may be that
    /// each time another one was faster; but not if somebody's trigger may have dropped the row, or
    /// nothing can be faster.
    pub(super) fn wants_certainty(&self, neighbours: bool) -> bool {
        let races = self.missing().all(|draft| draft.place.is_some());
        let enough = if neighbours || !races { 1 } else { Self::RACES_BEFORE_CERTAINTY };
        self.unexplained >= enough
    }

    /// What is still to be written.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Draft> {
        let drafts = self.drafts.iter().zip(&self.places);
        drafts.filter(|(_, place)| place.is_none()).map(|(draft, _)| draft)
    }

    pub(super) fn bytes(&self) -> usize {
        self.missing().map(Draft::weight).fold(0, usize::saturating_add)
    }

    /// The streams that it writes to.
    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.missing().filter_map(Draft::stream)
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = Uuid> {
        self.missing().filter_map(|draft| draft.uid)
    }

    /// Whether it may find a stream otherwise than it expects it.
    pub(super) fn expects(&self) -> bool {
        let expects = |place: &Place| place.expected != Expected::Any;
        self.missing().any(|draft| draft.place.as_ref().is_some_and(expects))
    }

    /// Whether it can be written again without being there twice.
    pub(super) fn is_idempotent(&self) -> bool {
        self.missing().all(|draft| draft.uid.is_some())
    }

    /// Nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.since.elapsed() > Self::MAX_WAIT
    }

    /// All that was missing has been written, in these places.
    pub(super) fn written(mut self, places: impl IntoIterator<Item = Written>) {
        let missing = self.places.iter_mut().filter(|place| place.is_none());
        missing.zip(places).for_each(|(place, written)| *place = Some(written));
        self.done();
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        let refusal = match refusal {
            Refusal::Away | Refusal::Contended if self.maybe_committed => Refusal::Unknown,
            refusal => refusal,
        };
        // Who has gone does not hear it.
        let _ = self.answer.send(Err(refusal));
    }

    /// Takes what was found in the log where the missing events were to be written.
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
        if let Some(refusal) = self.mistaken(&missing, found) {
            self.refuse(refusal);
            return Verdict::Answered;
        }
        if self.places.iter().all(Option::is_some) {
            self.done();
            return Verdict::Answered;
        }
        Verdict::Again(self)
    }

    /// The first stream that is not where it is expected, where each missing event is the next
    /// one behind those before it.
    fn mistaken(&self, missing: &[usize], found: &[Found]) -> Option<Refusal> {
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

    /// A request of an event for each of these streams, and who waits for it.
    pub(in super::super) fn pending_write(
        streams: &[&str],
        expected: Expected,
    ) -> (PendingWrite, oneshot::Receiver<Answer>) {
        pending_write_of("1", streams, expected)
    }

    /// The same, of events with this payload.
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
    fn each_event_is_expected_behind_those_before_it() {
        let (request, _waits) = pending_write(&["a", "a"], Expected::Version(4));
        assert!(matches!(request.judge(&[found(3), found(3)]), Verdict::Again(_)));
        let (request, mut waits) = pending_write(&["a", "a"], Expected::Version(4));
        assert!(matches!(request.judge(&[found(4), found(4)]), Verdict::Answered));
        let refusal = waits.try_recv().unwrap().unwrap_err();
        assert_eq!(refusal, Refusal::Version { stream: "a".parse().unwrap(), current: 4 });
    }

    #[test]
    fn under_a_uid_stands_one_event_and_no_other() {
        let written = Some(Written { id: EventId::new(7), version: Some(1) });
        for (same, answered) in [(true, true), (false, false)] {
            let (request, mut waits) = pending_write(&["a"], Expected::Any);
            request.judge(&[Found { written, same, in_place: true, current: 1 }]);
            assert_eq!(waits.try_recv().unwrap().is_ok(), answered);
        }
    }

    #[test]
    fn of_what_may_have_been_written_nobody_says_that_it_was_not() {
        for refusal in [Refusal::Away, Refusal::Contended] {
            let (mut request, mut waits) = pending_write(&["a"], Expected::Any);
            request.maybe_committed = true;
            request.refuse(refusal);
            assert_eq!(waits.try_recv().unwrap(), Err(Refusal::Unknown));
        }
    }
}
