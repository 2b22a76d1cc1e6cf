//! What a pump says of itself: its state in words, and its numbers.

use std::sync::Arc;

use indicatif::MultiProgress;

use crate::{
    event::EventId,
    metrics::{
        Metrics,
        pump::{Of, Pumps},
    },
    progress,
};

/// What a pump is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Starting,
    /// Another pump is at it; this one is ready to take over.
    Standby,
    /// It asks the aggregator where it is.
    Asking,
    /// It gives the aggregator all of history, in batches.
    Bootstrapping,
    /// It gives the aggregator each event as it comes.
    Live,
    /// The last attempt failed; it waits for the next one.
    BackingOff,
    /// The aggregator refuses an event, or the log is another one: somebody has to decide.
    Stopped,
}

impl State {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Asking => "asking",
            Self::Bootstrapping => "bootstrapping",
            Self::Live => "live",
            Self::BackingOff => "backing-off",
            Self::Stopped => "stopped",
        }
    }
}

/// Where one pump reports.
#[derive(Clone, Debug)]
pub struct Status {
    of: Of,
    metrics: Arc<Metrics>,
    bars: MultiProgress,
}

impl Status {
    /// Of the pump for this aggregator.
    #[must_use]
    pub fn new(name: &str, metrics: Arc<Metrics>) -> Self {
        let of = Of { aggregator: name.to_owned() };
        let status = Self { of, metrics, bars: progress::bars() };
        status.enter(State::Starting);
        status
    }

    fn pumps(&self) -> &Pumps {
        &self.metrics.pumps
    }

    /// On a terminal that it shares with these bars.
    #[must_use]
    pub fn beside(self, bars: &MultiProgress) -> Self {
        Self { bars: bars.clone(), ..self }
    }

    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    pub(super) fn enter(&self, state: State) {
        self.pumps().enter(&self.of.aggregator, state.as_str());
    }

    pub(super) fn took_over(&self) {
        self.pumps().takeovers.get_or_create(&self.of).inc();
    }

    pub(super) fn delivered(&self, events: usize, batches: u64) {
        self.pumps().events.get_or_create(&self.of).inc_by(events as u64);
        self.pumps().batches.get_or_create(&self.of).inc_by(batches);
    }

    pub(super) fn failed(&self) {
        self.pumps().retries.get_or_create(&self.of).inc();
    }

    pub(super) fn refused(&self) {
        self.pumps().refusals.get_or_create(&self.of).inc();
    }

    pub(super) fn dead_letters(&self, count: i64) {
        self.pumps().dead_letters.get_or_create(&self.of).set(count);
    }

    /// Another pump may be at it: what was true is no longer.
    pub(super) fn lost(&self) {
        self.enter(State::Starting);
        self.pumps().forget(&self.of);
    }

    /// How far it has got, and how old the first event is that waits.
    pub(super) fn lag(&self, position: EventId, newest: EventId, age: f64) {
        let behind = newest.get().saturating_sub(position.get()).max(0);
        self.pumps().position.get_or_create(&self.of).set(position.get());
        self.pumps().lag.get_or_create(&self.of).set(behind);
        self.pumps().lag_seconds.get_or_create(&self.of).set(age.max(0.0));
    }
}
