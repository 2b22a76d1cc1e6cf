//! Applies amendments: later events that correct earlier ones.
//!
//! The writers of amendments decide how much time and memory it takes to apply them. Small ones are applied
//! at once. Larger ones are applied on a blocking thread, and only a few events at a time in the whole
//! process. Callers take turns in rotation, as they do when they read amended events, so that a caller with
//! many amendments does not delay the others.

use std::{borrow::Cow, collections::HashMap, mem, num::NonZero, sync::Arc, thread};

use prometheus_client::metrics::gauge::Gauge;
use tokio::task::spawn_blocking;

use crate::{
    amendment::{PatchError, PatchedPayload, Unamended},
    event::{EventId, json::Json},
    store::{
        erase::TOMBSTONE,
        event_log::PageSize,
        history::{Amendment, History, HistoryError},
        turns::{Turn, Turns},
    },
};

/// The corrections of some events, by event. An event without amendments has none.
pub type Corrections = HashMap<EventId, Correction>;

/// The correction of one event.
#[derive(Clone, Debug)]
pub struct Correction {
    /// The amendments, in the order in which they apply.
    pub amendments: Vec<EventId>,
    /// The corrected payload, as compact JSON; or the reason why the event is shown as it was written.
    pub payload: Result<String, Unamended>,
}

/// Looks up amendments, and applies them.
#[derive(Debug)]
pub struct Patcher {
    turns: Arc<Turns>,
}

/// The corrections of a page of events, or of the first of them.
#[derive(Debug)]
pub struct Corrected {
    /// The corrections.
    pub corrections: Corrections,
    /// The last event that was looked up, if the corrected payloads became too large for the whole page.
    pub upto: Option<EventId>,
}

/// The size of a page of amendments: the amendments in memory at once, in addition to the patched payload.
const AMENDMENT_PAGE: PageSize = PageSize { rows: 500, bytes: 1 << 20 };
/// The size of corrected payloads after which a page ends: that of a page of events, exceeded by one event
/// at most.
const MAX_CORRECTED_BYTES: usize = 1 << 20;
/// A payload and its patches of up to this size together are applied in less than a millisecond.
const MAX_INLINE_BYTES: usize = 4 << 10;

impl Patcher {
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with_turns((cores / 2).max(1))
    }

    fn with_turns(turns: usize) -> Self {
        Self { turns: Turns::new(turns, turns.div_ceil(2), Gauge::default()) }
    }

    /// Looks up the amendments of these events and applies them, in the name of the caller of `history`.
    pub async fn corrections<'a>(
        &self,
        history: &History,
        events: impl Iterator<Item = (EventId, &'a [u8])>,
    ) -> Result<Corrected, HistoryError> {
        let payloads: HashMap<EventId, &[u8]> = events.filter(|(_, it)| !is_erased(it)).collect();
        let ids: Vec<EventId> = payloads.keys().copied().collect();
        let mut done = Corrected { corrections: Corrections::new(), upto: None };
        let (mut bytes, mut current) = (0, None::<PatchedEvent>);
        let mut after = (EventId::ZERO, EventId::ZERO);
        while !ids.is_empty() {
            let page = history.amendments(&ids, after, AMENDMENT_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.target, last.id);
            for (target, patches) in by_target(page) {
                if let Some(other) = current.take_if(|patched| patched.target != target) {
                    bytes += other.finish_into(&mut done.corrections).await;
                    if bytes > MAX_CORRECTED_BYTES {
                        done.upto = done.corrections.keys().max().copied();
                        return Ok(done);
                    }
                }
                let patched = if let Some(patched) = &mut current {
                    patched
                } else {
                    let payload = payloads.get(&target).copied().unwrap_or_default();
                    current.insert(PatchedEvent::new(self, history.caller(), target, payload))
                };
                patched.apply(patches).await;
            }
        }
        if let Some(patched) = current {
            patched.finish_into(&mut done.corrections).await;
        }
        Ok(done)
    }

    /// Checks whether patches can be applied to an event, one after another, after the amendments that it
    /// has, with a result of at most `max_bytes` bytes. The inner error is the index of the patch that does
    /// not apply, and the reason.
    pub async fn try_patches(
        &self,
        history: &History,
        (event, payload): (EventId, &str),
        patches: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<(), (usize, String)>, HistoryError> {
        let mut patched = PatchedEvent::new(self, history.caller(), event, payload.as_bytes());
        let mut after = (EventId::ZERO, EventId::ZERO);
        loop {
            let page = history.amendments(&[event], after, AMENDMENT_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.target, last.id);
            for (_, amendments) in by_target(page) {
                patched.apply(amendments).await;
            }
        }
        if let Some(amendment) = patched.failed {
            let error = patched.finish().await.payload.err().map(|it| it.error.to_string());
            let why =
                format!("amendment {amendment} does not apply: {}", error.unwrap_or_default());
            return Ok(Err((0, why)));
        }
        let last = patches.len().saturating_sub(1);
        // The patches have no ids yet; their indexes stand in for these.
        let indexed = (0..).map(EventId::new).zip(patches);
        patched.apply(indexed.collect()).await;
        let failed = patched.failed.map(|at| usize::try_from(at.get()).unwrap_or_default());
        Ok(match patched.finish().await.payload {
            Err(unamended) => Err((failed.unwrap_or(last), unamended.error.to_string())),
            Ok(payload) => match printed_bytes(&payload) {
                bytes if bytes > max_bytes => {
                    let why =
                        format!("the corrected payload would be larger than {max_bytes} bytes");
                    Err((last, why))
                }
                _ => Ok(()),
            },
        })
    }
}

/// The data to show of an event, and the amendment that does not apply, if there is one.
#[must_use]
pub fn shown<'a>(
    corrections: &'a Corrections,
    event: EventId,
    data: Cow<'a, [u8]>,
) -> (Cow<'a, [u8]>, Option<EventId>) {
    match corrections.get(&event).map(|correction| &correction.payload) {
        None => (data, None),
        Some(Ok(payload)) => (payload.as_bytes().into(), None),
        Some(Err(unamended)) => (data, Some(unamended.amendment)),
    }
}

/// Whether the event was erased. An erased event is not corrected any more, and an erased amendment corrects
/// nothing.
fn is_erased(payload: &[u8]) -> bool {
    payload == TOMBSTONE.as_bytes()
}

/// The size of a payload as PostgreSQL prints it, with numbers written out.
fn printed_bytes(payload: &str) -> usize {
    Json::examine(payload).map_or(usize::MAX, |json| json.printed_len())
}

/// Groups a page of amendments by the event that they amend. Those of one event are adjacent in it.
fn by_target(page: Vec<Amendment>) -> Vec<(EventId, Vec<(EventId, String)>)> {
    let mut runs: Vec<(EventId, Vec<(EventId, String)>)> = Vec::new();
    for Amendment { target, id, patch } in page {
        if is_erased(patch.as_bytes()) {
            continue;
        }
        match runs.last_mut() {
            Some((last, patches)) if *last == target => patches.push((id, patch)),
            _ => runs.push((target, vec![(id, patch)])),
        }
    }
    runs
}

/// One event, while its amendments are applied page by page.
struct PatchedEvent<'a> {
    patcher: &'a Patcher,
    caller: Arc<str>,
    target: EventId,
    amendments: Vec<EventId>,
    draft: State,
    failed: Option<EventId>,
    /// The size of the payload and all patches.
    bytes: usize,
    /// The turn of a large event, which it keeps until it is finished. So no more large events are in memory
    /// at once than there are turns.
    turn: Option<Turn>,
}

/// The payload. It is parsed with the first patch, since parsing belongs on the blocking thread, too.
enum State {
    Text(String),
    Patched(Result<PatchedPayload, PatchError>),
}

impl State {
    fn apply(self, patches: &[(EventId, String)]) -> (Self, Option<EventId>) {
        let mut draft = match self {
            Self::Text(payload) => PatchedPayload::of(&payload),
            Self::Patched(draft) => draft,
        };
        for (id, patch) in patches {
            let applied = match &mut draft {
                Ok(draft) => draft.apply(patch),
                Err(misfit) => Err(misfit.clone()),
            };
            if let Err(misfit) = applied {
                return (Self::Patched(Err(misfit)), Some(*id));
            }
        }
        (Self::Patched(draft), None)
    }

    fn finish(self) -> Result<String, PatchError> {
        match self {
            Self::Text(payload) => Ok(payload),
            Self::Patched(draft) => draft.and_then(PatchedPayload::finish),
        }
    }
}

impl<'a> PatchedEvent<'a> {
    fn new(patcher: &'a Patcher, caller: &Arc<str>, target: EventId, payload: &[u8]) -> Self {
        Self {
            patcher,
            caller: Arc::clone(caller),
            target,
            amendments: Vec::new(),
            draft: State::Text(String::from_utf8_lossy(payload).into_owned()),
            failed: None,
            bytes: payload.len(),
            turn: None,
        }
    }

    async fn apply(&mut self, patches: Vec<(EventId, String)>) {
        self.amendments.extend(patches.iter().map(|(id, _)| *id));
        if self.failed.is_some() || patches.is_empty() {
            return;
        }
        self.bytes += patches.iter().map(|(_, patch)| patch.len()).sum::<usize>();
        let draft = mem::replace(&mut self.draft, State::Text(String::new()));
        (self.draft, self.failed) = self.off_thread(move || draft.apply(&patches)).await;
    }

    async fn finish(mut self) -> Correction {
        let draft = mem::replace(&mut self.draft, State::Text(String::new()));
        let payload = self.off_thread(move || draft.finish()).await;
        let last = self.amendments.last().copied();
        let amendment = self.failed.or(last).unwrap_or_default();
        let payload = payload.map_err(|error| Unamended { amendment, error });
        Correction { amendments: self.amendments, payload }
    }

    /// Adds the correction to `corrections`. Returns the size of the corrected payload in bytes.
    async fn finish_into(self, corrections: &mut Corrections) -> usize {
        let target = self.target;
        let correction = self.finish().await;
        let bytes = correction.payload.as_ref().map_or(0, String::len);
        corrections.insert(target, correction);
        bytes
    }

    /// Runs `work`: inline if the event is small, otherwise on a blocking thread, when it is the caller's
    /// turn.
    async fn off_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if self.bytes <= MAX_INLINE_BYTES {
            return work();
        }
        if self.turn.is_none() {
            self.turn = Some(self.patcher.turns.turn(&self.caller).await);
        }
        spawn_blocking(work).await.expect("applying amendments does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, future::join_all};

    use super::*;

    const LARGE: &[u8] = &[b'1'; MAX_INLINE_BYTES + 1];

    fn patched_event<'a>(patcher: &'a Patcher, caller: &str, payload: &[u8]) -> PatchedEvent<'a> {
        PatchedEvent::new(patcher, &caller.into(), EventId::new(1), payload)
    }

    #[tokio::test]
    async fn a_large_event_is_patched_on_another_thread() {
        let (patcher, here) = (Patcher::with_turns(1), thread::current().id());
        let small = patched_event(&patcher, "a", b"1").off_thread(|| thread::current().id()).await;
        assert_eq!(small, here);
        let large = patched_event(&patcher, "a", LARGE).off_thread(|| thread::current().id()).await;
        assert_ne!(large, here);
    }

    #[tokio::test]
    async fn a_caller_with_many_amendments_does_not_delay_others() {
        let (patcher, done) = (Patcher::with_turns(1), Arc::new(Mutex::new(Vec::new())));
        let mut first = patched_event(&patcher, "bad", LARGE);
        first.off_thread(|| ()).await;
        let work = |caller: &'static str, payload| {
            let (mut patched, done) = (patched_event(&patcher, caller, payload), Arc::clone(&done));
            async move { patched.off_thread(move || done.lock().unwrap().push(caller)).await }
                .boxed()
        };
        let bad = (0..9).map(|_| work("bad", LARGE));
        let mut waiting: Vec<_> = bad.chain([work("good", LARGE)]).collect();
        assert!(waiting.iter_mut().all(|it| it.now_or_never().is_none()), "there is only one turn");
        assert!(work("bad", b"1").now_or_never().is_some(), "a small event needs no turn");
        done.lock().unwrap().clear();
        drop(first);
        join_all(waiting).await;
        let place = done.lock().unwrap().iter().position(|caller| *caller == "good").unwrap();
        assert!(place <= 1, "should wait for one of the other's, not for nine: {place}");
    }
}
