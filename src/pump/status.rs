//! The state and the metrics of a pump.

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

/// The state of a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The pump has not tried to acquire the lease yet.
    Starting,
    /// Another pump holds the lease. This one waits to take over.
    Standby,
    /// The pump asks the aggregator for its latest event.
    Asking,
    /// The pump delivers the history in batches.
    Bootstrapping,
    /// The pump delivers new events.
    Live,
    /// The last attempt failed, and the pump waits before the next one.
    BackingOff,
    /// The aggregator refuses an event, or the log is another one. An operator must decide.
    Stopped,
}

impl State {
    /// The name of the state in metrics and in `/readyz`.
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

/// Reports the state of one pump to metrics and progress bars.
#[derive(Clone, Debug)]
pub struct Status {
    of: Of,
    metrics: Arc<Metrics>,
    bars: MultiProgress,
}

impl Status {
    /// The status of the pump for this aggregator.
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

    /// Shows progress among these bars, which share the terminal.
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

    /// The lease is lost. Another pump may deliver now, so the metrics of the position are removed.
    pub(super) fn lost(&self) {
        self.enter(State::Starting);
        self.pumps().forget(&self.of);
    }

    /// Reports the position, and the age in seconds of the first event that waits.
    pub(super) fn lag(&self, position: EventId, newest: EventId, age: f64) {
        let behind = newest.get().saturating_sub(position.get()).max(0);
        self.pumps().position.get_or_create(&self.of).set(position.get());
        self.pumps().lag.get_or_create(&self.of).set(behind);
        self.pumps().lag_seconds.get_or_create(&self.of).set(age.max(0.0));
    }
}
