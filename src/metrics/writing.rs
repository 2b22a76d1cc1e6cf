//! The metrics of writing.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use super::registering::Adder;

/// The metrics of writing through a gateway.
#[derive(Debug)]
pub struct Writing {
    /// Write requests, by outcome.
    pub requests: Family<Outcome, Counter>,
    /// Write requests that are waiting for a connection.
    pub queue: Gauge,
    /// Bytes of write requests that were received and not yet answered.
    pub buffered: Gauge,
    /// The number of events that shared a transaction.
    pub batch: Histogram,
    /// The duration of a transaction in seconds, including its commit.
    pub seconds: Histogram,
}

/// The label of the outcome of a write request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// The outcome, such as `written`.
    pub outcome: &'static str,
}

impl Writing {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            queue: Gauge::default(),
            buffered: Gauge::default(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
        }
    }

    pub(super) fn register(&self, add: &mut Adder<'_>) {
        add.metric("writes", "Write requests by outcome", &self.requests);
        add.metric("write_queue", "Write requests that are waiting for a connection", &self.queue);
        let help = "Bytes of write requests that were not answered yet";
        add.metric("write_buffer_bytes", help, &self.buffered);
        add.metric("write_batch_events", "Events that shared a transaction", &self.batch);
        add.metric(
            "write_seconds",
            "Duration of write transactions, including the commit",
            &self.seconds,
        );
    }
}
