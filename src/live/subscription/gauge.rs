//! The metrics of one subscription.

use std::sync::Arc;

use crate::metrics::{Metrics, Reason, State as Label};

/// The reason for the end of a subscription that the gateway did not end.
pub(super) const CLIENT: &str = "client";

/// Counts a subscription by its state, and its end by the reason, in the metrics.
pub(super) struct Gauge {
    metrics: Arc<Metrics>,
    state: &'static str,
    pub(super) ended: &'static str,
}

impl Gauge {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let gauge = Self { metrics, state: "opening", ended: CLIENT };
        gauge.add(1);
        gauge
    }

    pub(super) fn set(&mut self, state: &'static str) {
        if self.state != state {
            self.add(-1);
            self.state = state;
            self.add(1);
        }
    }

    fn add(&self, one: i64) {
        let subscriptions = &self.metrics.subscriptions;
        subscriptions.get_or_create(&Label { state: self.state }).inc_by(one);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.add(-1);
        let reason = Reason { reason: self.ended };
        self.metrics.disconnects.get_or_create(&reason).inc();
    }
}
