//! The metrics, named by the conventions of Prometheus.

pub mod pump;
mod registering;
pub mod writing;

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

pub use self::registering::Fraction;
use self::{registering::Adder, writing::Writing};

/// Every metric of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Seconds from COMMIT, by PostgreSQL's clock, until the event was delivered to its subscriptions.
    pub commit_to_delivery: Histogram,
    /// Rows read from the tail of the log.
    pub events_read: Counter,
    /// Events delivered to subscriptions, replayed ones included.
    pub deliveries: Counter,
    /// Open subscriptions by state.
    pub subscriptions: Family<State, Gauge>,
    /// Replays from the table that were started.
    pub replays: Counter,
    /// Rows read by replays.
    pub replayed_rows: Counter,
    /// Subscriptions that resumed from memory, without a query.
    pub resumed_from_recent: Counter,
    /// Subscriptions that fell behind the recent events and read from the table.
    pub slow_clients: Counter,
    /// Requests that were refused because of a limit, by limit.
    pub refused: Family<Reason, Counter>,
    /// Requests that failed authentication or authorization, by reason.
    pub denied: Family<Reason, Counter>,
    /// Tickets issued.
    pub tickets: Counter,
    /// Bytes of responses in preparation or in transit.
    pub answer_bytes: Gauge,
    /// Responses, streams and connections that were closed because the client read nothing.
    pub stalled: Counter,
    /// Queries that are waiting for their turn.
    pub queries_waiting: Gauge,
    /// Subscriptions that ended, by reason.
    pub disconnects: Family<Reason, Counter>,
    /// The greatest id that the reader has decided on.
    pub head: Gauge,
    /// Ids drawn beyond the head.
    pub lag: Gauge,
    /// Bytes of recent events in memory.
    pub recent_bytes: Gauge,
    /// Holes for which delivery was held.
    pub holds: Counter,
    /// Seconds for which delivery has been held now; 0 if it is not held.
    pub held: Fraction,
    /// Seconds for which delivery was held in total.
    pub held_total: Counter<f64, AtomicU64>,
    /// Open transactions that later events have overtaken.
    pub late: Gauge,
    /// Rows found behind the head, which bypassed the trigger.
    pub found_behind: Counter,
    /// Times that the log was replaced.
    pub resets: Counter,
    /// Times that the listening connection was lost.
    pub reconnects: Counter,
    /// Polls in which the safety poll found events without a notification.
    pub unannounced: Counter,
    /// 1 for the current state of the doorbell.
    pub doorbell: Family<State, Gauge>,
    /// Usage of PostgreSQL's notification queue, from 0 to 1.
    pub notification_queue: Fraction,
    /// Connections of the pool, by state.
    pub pool: Family<State, Gauge>,
    /// HTTP requests by route and status.
    pub requests: Family<Route, Counter>,
    /// The metrics of the pumps.
    pub pumps: pump::Pumps,
    /// The metrics of writing through this gateway.
    pub writing: Writing,
}

/// The label of a metric with several states.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// The state, such as `live`.
    pub state: &'static str,
}

/// The label of a metric with several reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The reason, such as `streams`.
    pub reason: &'static str,
}

/// The labels of HTTP requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Route {
    /// The pattern of the route, such as `/events/{id}`.
    pub route: String,
    /// The method.
    pub method: &'static str,
    /// The status code of the response.
    pub status: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates and registers all metrics, with the value 0.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            commit_to_delivery: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            events_read: Counter::default(),
            deliveries: Counter::default(),
            subscriptions: Family::default(),
            replays: Counter::default(),
            replayed_rows: Counter::default(),
            resumed_from_recent: Counter::default(),
            slow_clients: Counter::default(),
            refused: Family::default(),
            denied: Family::default(),
            tickets: Counter::default(),
            answer_bytes: Gauge::default(),
            stalled: Counter::default(),
            queries_waiting: Gauge::default(),
            disconnects: Family::default(),
            head: Gauge::default(),
            lag: Gauge::default(),
            recent_bytes: Gauge::default(),
            holds: Counter::default(),
            held: Fraction::default(),
            held_total: Counter::default(),
            late: Gauge::default(),
            found_behind: Counter::default(),
            resets: Counter::default(),
            reconnects: Counter::default(),
            unannounced: Counter::default(),
            doorbell: Family::default(),
            notification_queue: Fraction::default(),
            pool: Family::default(),
            requests: Family::default(),
            pumps: pump::Pumps::default(),
            writing: Writing::new(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("event_piper");
        let mut add = Adder(registry);
        let help = "Time from COMMIT to the subscriptions; requires track_commit_timestamp";
        add.metric("commit_to_delivery_seconds", help, &self.commit_to_delivery);
        add.metric("events_read", "Rows read from the tail of the log", &self.events_read);
        add.metric("deliveries", "Events delivered to subscriptions", &self.deliveries);
        add.metric("subscriptions", "Open subscriptions by state", &self.subscriptions);
        add.metric("replays", "Replays from the table", &self.replays);
        add.metric("replayed_rows", "Rows read by replays", &self.replayed_rows);
        add.metric(
            "resumed_from_recent",
            "Subscriptions that resumed from memory",
            &self.resumed_from_recent,
        );
        add.metric(
            "slow_clients",
            "Subscriptions that fell behind and read from the table",
            &self.slow_clients,
        );
        add.metric("refused", "Requests refused because of a limit, by limit", &self.refused);
        add.metric(
            "denied",
            "Requests that failed authentication or authorization, by reason",
            &self.denied,
        );
        add.metric("tickets", "Tickets issued", &self.tickets);
        add.metric(
            "answer_bytes",
            "Bytes of responses in preparation or in transit",
            &self.answer_bytes,
        );
        add.metric("stalled", "Connections closed because the client read nothing", &self.stalled);
        add.metric(
            "queries_waiting",
            "Queries that are waiting for their turn",
            &self.queries_waiting,
        );
        add.metric("disconnects", "Ended subscriptions by reason", &self.disconnects);
        add.metric("head", "The greatest id that the reader has decided on", &self.head);
        add.metric("lag", "Ids drawn beyond the head", &self.lag);
        add.metric("recent_bytes", "Bytes of recent events in memory", &self.recent_bytes);
        add.metric("holds", "Holes for which delivery was held", &self.holds);
        add.metric("held_seconds", "How long delivery has been held now", &self.held);
        add.metric("hold_seconds", "How long delivery was held in total", &self.held_total);
        add.metric(
            "late_transactions",
            "Open transactions that later events have overtaken",
            &self.late,
        );
        add.metric(
            "found_behind",
            "Rows found behind the head, which bypassed the trigger",
            &self.found_behind,
        );
        add.metric("log_resets", "Times that the log was replaced", &self.resets);
        add.metric("listener_reconnects", "Lost listening connections", &self.reconnects);
        add.metric(
            "unannounced",
            "Polls in which only the safety poll found events",
            &self.unannounced,
        );
        add.metric("doorbell", "1 for the current state of the doorbell", &self.doorbell);
        add.metric(
            "notification_queue_usage",
            "Usage of PostgreSQL's notification queue, 0 to 1",
            &self.notification_queue,
        );
        add.metric("pool_connections", "Pooled connections by state", &self.pool);
        add.metric("http_requests", "Requests by route and status", &self.requests);
        self.pumps.register(&mut add);
        self.writing.register(&mut add);
    }

    /// Returns all metrics in the text format of Prometheus.
    ///
    /// # Panics
    /// Never: writing to a `String` does not fail.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}
