//! What is counted of writing.

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
    /// Requests to write, by what became of them.
    pub requests: Family<Outcome, Counter>,
    /// Write requests that are waiting for a connection.
    pub queue: Gauge,
    /// Bytes of requests that have arrived and are not answered.
    pub buffered: Gauge,
    /// Events that shared a transaction.
    pub batch: Histogram,
    /// How long a transaction took, its commit included.
    pub seconds: Histogram,
}

/// What became of a request to write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// Its name.
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
