//! State that the handlers share: the engines, access control and the settings.

use std::{sync::Arc, time::Duration};

use super::tls::Tls;
use crate::{
    access::{Access, budget::Budget},
    gateway::Gateway,
};

/// Settings of the HTTP interface.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Web origins that may read across origins. If empty: loopback origins in the open mode, none
    /// otherwise.
    pub cors_origins: Vec<String>,
    /// Request headers that pages of these origins may send in addition to the usual ones; `*` for any.
    pub cors_headers: Vec<String>,
    /// The interval between heartbeats on a stream without events.
    pub heartbeat: Duration,
    /// How long a shutdown waits for open requests before it cuts them. The reconnects of clients are
    /// spread over the same time.
    pub drain: Duration,
    /// Upper bounds.
    pub limits: Limits,
    /// The certificate for TLS. `None`: clients connect in clear text.
    pub tls: Option<Arc<Tls>>,
    /// The path at which the predecessor's append service is served. `None`: it is not served.
    pub append_path: Option<String>,
}

/// Upper bounds, so that one client cannot use up the resources of the others.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. Further ones are closed at once.
    pub connections: usize,
    /// Open streams. Further clients are asked to try again in some seconds.
    pub streams: usize,
    /// Open streams that follow one consumer.
    pub streams_of_a_consumer: usize,
    /// The time within which the head of a request must arrive. On a connection that is kept alive it
    /// also bounds the wait for the next request. Slower connections are closed.
    pub head_within: Duration,
    /// Bytes of the head of a request.
    pub head: usize,
    /// Bytes of a body that is written as a whole.
    pub body: usize,
    /// Bytes of one event.
    pub event: usize,
    /// Events in one page of a stream.
    pub page: i64,
    /// The longest pause between two parts of a request body.
    pub body_within: Duration,
    /// How long a client may read nothing of a response that has data to send.
    pub write_within: Duration,
    /// Bytes of all responses that are being built or sent.
    pub answers: usize,
    /// Bytes of the responses of one principal that are being built or sent.
    pub answers_each: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000 + Self::SPARE,
            streams: 100_000,
            streams_of_a_consumer: 100_000,
            head_within: Duration::from_secs(10),
            head: 16 << 10,
            body: 8 << 20,
            event: 1 << 20,
            page: 1000,
            body_within: Duration::from_secs(10),
            write_within: Duration::from_mins(1),
            answers: 256 << 20,
            answers_each: 64 << 20,
        }
    }
}

impl Limits {
    /// Connections in addition to the limit of streams: for health checks and metrics, and to tell
    /// clients to come back later.
    pub const SPARE: usize = 1024;

    /// Lowers the limits of connections and streams to what fits into `files` open files. If connections
    /// took the last file descriptor, the gateway could not reconnect to PostgreSQL.
    #[must_use]
    pub fn within(self, files: usize) -> Self {
        let connections = self.connections.min(files);
        let spare = Self::SPARE.min(connections / 4);
        Self { connections, streams: self.streams.min(connections - spare), ..self }
    }
}

/// State that the handlers share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) gateway: Arc<Gateway>,
    pub(super) access: Arc<Access>,
    pub(super) settings: Settings,
    /// The bytes of responses that are being built or sent.
    pub(super) answers: Arc<Budget>,
}
