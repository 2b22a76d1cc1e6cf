//! The metrics of pumps, by aggregator.

use std::collections::BTreeMap;

use crate::crash::Lock;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registering::{Adder, Fraction};

/// The label of an aggregator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// The aggregator's name.
    pub aggregator: String,
}

/// The labels of an aggregator and the state of its pump.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateOf {
    /// The aggregator's name.
    pub aggregator: String,
    /// The state, such as `live`.
    pub state: &'static str,
}

/// Every metric of the pumps of one process.
#[derive(Debug, Default)]
pub struct Pumps {
    /// 1 for the current state of a pump.
    pub state: Family<StateOf, Gauge>,
    /// The position of the checkpoint.
    pub position: Family<Of, Gauge>,
    /// The number of ids after the position.
    pub lag: Family<Of, Gauge>,
    /// The age in seconds of the first waiting event, by its own timestamp.
    pub lag_seconds: Family<Of, Fraction>,
    /// Events that were confirmed.
    pub events: Family<Of, Counter>,
    /// Batches that were confirmed.
    pub batches: Family<Of, Counter>,
    /// Failed attempts, which are retried.
    pub retries: Family<Of, Counter>,
    /// Responses that refused events.
    pub refusals: Family<Of, Counter>,
    /// Refused events that were not skipped.
    pub dead_letters: Family<Of, Gauge>,
    /// Times that this process got the lease.
    pub takeovers: Family<Of, Counter>,
    states: Lock<BTreeMap<String, &'static str>>,
}

impl Pumps {
    /// Sets the state of one pump.
    pub fn enter(&self, aggregator: &str, state: &'static str) {
        let mut states = self.states.lock();
        let gauge = |state| {
            self.state.get_or_create_owned(&StateOf { aggregator: aggregator.to_owned(), state })
        };
        if let Some(before) = states.insert(aggregator.to_owned(), state) {
            gauge(before).set(0);
        }
        gauge(state).set(1);
    }

    /// Removes the position and lag of an aggregator, because another process may hold the lease.
    pub fn forget(&self, of: &Of) {
        self.position.remove(of);
        self.lag.remove(of);
        self.lag_seconds.remove(of);
        self.dead_letters.remove(of);
    }

    /// Returns the state of every pump, by aggregator.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, &'static str> {
        self.states.lock().clone()
    }

    pub(super) fn register(&self, add: &mut Adder<'_>) {
        add.metric("pump_state", "1 for the current state of a pump", &self.state);
        add.metric("pump_position", "The last id delivered to an aggregator", &self.position);
        add.metric("pump_lag_events", "Ids after the last delivered one", &self.lag);
        add.metric("pump_lag_seconds", "Age of the first waiting event", &self.lag_seconds);
        add.metric("pump_events", "Events that aggregators confirmed", &self.events);
        add.metric("pump_batches", "Batches that aggregators confirmed", &self.batches);
        add.metric("pump_retries", "Failed attempts", &self.retries);
        add.metric("pump_refusals", "Responses that refused events", &self.refusals);
        add.metric("pump_dead_letters", "Refused events that were not skipped", &self.dead_letters);
        add.metric("pump_takeovers", "Times that this process got the lease", &self.takeovers);
    }
}
