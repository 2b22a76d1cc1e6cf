//! How metrics are registered.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Metric, Registry},
};

/// A gauge with a fractional value.
pub type Fraction = Gauge<f64, AtomicU64>;

/// Registers clones of metrics, which share their values.
pub(super) struct Adder<'a>(pub(super) &'a mut Registry);

impl Adder<'_> {
    pub(super) fn metric(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }
}
