//! Limits how many callers use something at once, such as the connections that read: in all and for each
//! caller. Turns are given to callers in rotation, so that a caller that asks for much does not delay one
//! that asks for little.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, MutexGuard},
};

use crate::crash::Lock;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

/// The turns at one resource. See the [module](self).
#[derive(Debug)]
pub struct Turns {
    max_each: usize,
    waiting: Gauge,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    callers: HashMap<Arc<str>, Caller>,
    /// Callers that wait and may have a turn. The first one has waited longest for its turn.
    rotation: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Caller {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    in_rotation: bool,
}

/// A turn. It is given back when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    caller: Arc<str>,
}

impl Turns {
    /// Creates turns for `max` users at once, and `max_each` of each caller. The gauge shows how many are
    /// waiting.
    #[must_use]
    pub fn new(max: usize, max_each: usize, waiting: Gauge) -> Arc<Self> {
        let state = State { free: max, callers: HashMap::new(), rotation: VecDeque::new() };
        Arc::new(Self { max_each: max_each.clamp(1, max.max(1)), waiting, state: Lock::new(state) })
    }

    /// Waits for a turn of this caller.
    ///
    /// # Cancel safety
    /// If the future is dropped, a turn that was given to it in the meantime is given back.
    pub async fn turn(self: &Arc<Self>, caller: &Arc<str>) -> Turn {
        let (give, given) = oneshot::channel();
        let mut ask = Ask { turns: Arc::clone(self), caller: Arc::clone(caller), given };
        self.change(caller, |state, max_each| state.ask(caller, max_each, give));
        self.waiting.inc();
        // The sender is dropped only after it has given the turn, or with the state.
        let _ = (&mut ask.given).await;
        ask.taken()
    }

    fn change(&self, caller: &Arc<str>, change: impl FnOnce(&mut State, usize)) {
        let mut state = self.state();
        change(&mut state, self.max_each);
        state.give(self.max_each);
        state.forget(caller);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn ask(&mut self, caller: &Arc<str>, max_each: usize, give: oneshot::Sender<()>) {
        self.callers.entry(Arc::clone(caller)).or_default().waiting.push_back(give);
        self.rotate(caller, max_each);
    }

    fn give_back(&mut self, caller: &Arc<str>, max_each: usize) {
        self.free += 1;
        if let Some(its) = self.callers.get_mut(caller) {
            its.taken -= 1;
        }
        self.rotate(caller, max_each);
    }

    /// Puts a caller that waits into the rotation if it may have one more turn.
    fn rotate(&mut self, caller: &Arc<str>, max_each: usize) {
        let Some(its) = self.callers.get_mut(caller) else { return };
        if !its.in_rotation && its.taken < max_each && !its.waiting.is_empty() {
            its.in_rotation = true;
            self.rotation.push_back(Arc::clone(caller));
        }
    }

    /// Gives free turns to the callers in the rotation.
    fn give(&mut self, max_each: usize) {
        while self.free > 0 {
            let Some(caller) = self.rotation.pop_front() else { return };
            if let Some(its) = self.callers.get_mut(&caller) {
                its.in_rotation = false;
                let given = std::iter::from_fn(|| its.waiting.pop_front());
                // Receivers that were dropped are passed over.
                if given.map(|give| give.send(())).any(|given| given.is_ok()) {
                    its.taken += 1;
                    self.free -= 1;
                }
            }
            self.rotate(&caller, max_each);
            self.forget(&caller);
        }
    }

    /// Removes a caller that has no turn and waits for none.
    fn forget(&mut self, caller: &Arc<str>) {
        let idle = |its: &Caller| its.taken == 0 && its.waiting.is_empty() && !its.in_rotation;
        if self.callers.get(caller).is_some_and(idle) {
            self.callers.remove(caller);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.change(&self.caller, |state, max_each| {
            state.give_back(&self.caller, max_each);
        });
    }
}

/// A caller that waits.
struct Ask {
    turns: Arc<Turns>,
    caller: Arc<str>,
    given: oneshot::Receiver<()>,
}

impl Ask {
    fn taken(self) -> Turn {
        let turn = Turn { turns: Arc::clone(&self.turns), caller: Arc::clone(&self.caller) };
        drop(self);
        turn
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.turns.waiting.dec();
        self.given.close();
        if self.given.try_recv().is_ok() {
            // The turn was given after the last poll.
            drop(Turn { turns: Arc::clone(&self.turns), caller: Arc::clone(&self.caller) });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::BoxFuture};

    use super::*;

    type Waiting = BoxFuture<'static, Turn>;

    fn ask(turns: &Arc<Turns>, caller: &str) -> Waiting {
        let (turns, caller) = (Arc::clone(turns), Arc::from(caller));
        let mut waiting = async move { turns.turn(&caller).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "it has to wait");
        waiting
    }

    fn now(turns: &Arc<Turns>, caller: &str) -> Option<Turn> {
        turns.turn(&Arc::from(caller)).now_or_never()
    }

    #[test]
    fn a_caller_at_its_share_leaves_turns_for_others() {
        let turns = Turns::new(4, 2, Gauge::default());
        let taken: Vec<_> = (0..2).map(|_| now(&turns, "bad").unwrap()).collect();
        assert!(now(&turns, "bad").is_none());
        let good = now(&turns, "good").unwrap();
        drop(taken);
        assert!(now(&turns, "bad").is_some());
        drop(good);
        assert!(turns.state().callers.is_empty() && turns.state().free == 4);
        assert_eq!(turns.waiting.get(), 0);
    }

    #[test]
    fn a_caller_is_next_however_many_wait_of_another() {
        let turns = Turns::new(1, 1, Gauge::default());
        let first = now(&turns, "bad").unwrap();
        let mut bad: Vec<_> = (0..100).map(|_| ask(&turns, "bad")).collect();
        let mut good = ask(&turns, "good");
        assert_eq!(turns.waiting.get(), 101);
        drop(first);
        let next: Vec<_> = bad.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert!(next.len() <= 1, "one at a time");
        drop(next);
        assert!(
            (&mut good).now_or_never().is_some(),
            "after one turn of the other caller, not a hundred"
        );
    }

    #[test]
    fn a_turn_given_to_a_dropped_future_comes_back() {
        let turns = Turns::new(1, 1, Gauge::default());
        let first = now(&turns, "a").unwrap();
        let (given, left) = (ask(&turns, "b"), ask(&turns, "c"));
        drop(left);
        drop(first);
        drop(given);
        assert_eq!(turns.state().free, 1);
        assert!(turns.state().callers.is_empty());
        assert!(now(&turns, "d").is_some());
    }
}
