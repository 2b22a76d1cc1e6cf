//! Turns at what few can use at once, as the connections that read: so many in all and for each caller,
//! and given to callers in rotation, so that one that asks for much does not delay one that asks for
//! little.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, MutexGuard},
};

use crate::crash::Lock;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug)]
pub struct Turns {
    most_each: usize,
    waiting: Gauge,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    callers: HashMap<Arc<str>, Caller>,
    /// Callers that wait and may have a turn, the one that had none for longest first.
    rotation: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Caller {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    in_rotation: bool,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    caller: Arc<str>,
}

impl Turns {
    /// So many at once, and so many for each caller; this gauge shows how many are waited for.
    #[must_use]
    pub fn new(most: usize, most_each: usize, waiting: Gauge) -> Arc<Self> {
        let state = State { free: most, callers: HashMap::new(), rotation: VecDeque::new() };
        Arc::new(Self {
            most_each: most_each.clamp(1, most.max(1)),
            waiting,
            state: Lock::new(state),
        })
    }

    /// Waits for a turn of this caller's.
    ///
    /// # Cancel safety
    /// Who leaves gives back the turn that it was given meanwhile.
    pub async fn turn(self: &Arc<Self>, caller: &Arc<str>) -> Turn {
        let (give, given) = oneshot::channel();
        let mut ask = Ask { turns: Arc::clone(self), caller: Arc::clone(caller), given };
        self.change(caller, |state, most_each| state.ask(caller, most_each, give));
        self.waiting.inc();
        // The sender is dropped only when it has given the turn, or with the state.
        let _ = (&mut ask.given).await;
        ask.taken()
    }

    fn change(&self, caller: &Arc<str>, change: impl FnOnce(&mut State, usize)) {
        let mut state = self.state();
        change(&mut state, self.most_each);
        state.give(self.most_each);
        state.forget(caller);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn ask(&mut self, caller: &Arc<str>, most_each: usize, give: oneshot::Sender<()>) {
        self.callers.entry(Arc::clone(caller)).or_default().waiting.push_back(give);
        self.rotate(caller, most_each);
    }

    fn give_back(&mut self, caller: &Arc<str>, most_each: usize) {
        self.free += 1;
        if let Some(its) = self.callers.get_mut(caller) {
            its.taken -= 1;
        }
        self.rotate(caller, most_each);
    }

    /// Puts a caller that waits into the rotation, where it may have one more.
    fn rotate(&mut self, caller: &Arc<str>, most_each: usize) {
        let Some(its) = self.callers.get_mut(caller) else { return };
        if !its.in_rotation && its.taken < most_each && !its.waiting.is_empty() {
            its.in_rotation = true;
            self.rotation.push_back(Arc::clone(caller));
        }
    }

    /// Gives what is free to those whose turn it is.
    fn give(&mut self, most_each: usize) {
        while self.free > 0 {
            let Some(caller) = self.rotation.pop_front() else { return };
            if let Some(its) = self.callers.get_mut(&caller) {
                its.in_rotation = false;
                let given = std::iter::from_fn(|| its.waiting.pop_front());
                // Who has left is passed over.
                if given.map(|give| give.send(())).any(|given| given.is_ok()) {
                    its.taken += 1;
                    self.free -= 1;
                }
            }
            self.rotate(&caller, most_each);
            self.forget(&caller);
        }
    }

    /// Forgets a caller that has nothing and waits for nothing.
    fn forget(&mut self, caller: &Arc<str>) {
        let idle = |its: &Caller| its.taken == 0 && its.waiting.is_empty() && !its.in_rotation;
        if self.callers.get(caller).is_some_and(idle) {
            self.callers.remove(caller);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.change(&self.caller, |state, most_each| {
            state.give_back(&self.caller, most_each);
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
            // It was given between the last look and now.
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
        assert!((&mut waiting).now_or_never().is_none(), "it waits");
        waiting
    }

    fn now(turns: &Arc<Turns>, caller: &str) -> Option<Turn> {
        turns.turn(&Arc::from(caller)).now_or_never()
    }

    #[test]
    fn one_caller_takes_its_share_and_another_finds_a_turn() {
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
    fn who_asks_for_little_is_next_however_many_wait_of_another() {
        let turns = Turns::new(1, 1, Gauge::default());
        let first = now(&turns, "bad").unwrap();
        let mut bad: Vec<_> = (0..100).map(|_| ask(&turns, "bad")).collect();
        let mut good = ask(&turns, "good");
        assert_eq!(turns.waiting.get(), 101);
        drop(first);
        let next: Vec<_> = bad.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert!(next.len() <= 1, "one at a time");
        drop(next);
        assert!((&mut good).now_or_never().is_some(), "behind one of the other's, not a hundred");
    }

    #[test]
    fn a_turn_that_was_given_to_one_who_has_left_comes_back() {
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
