//! What the handlers share: the engine, who may do what, and the settings.

use std::{sync::Arc, time::Duration};

use super::tls::Tls;
use crate::{
    access::{Access, budget::Budget},
    gateway::Gateway,
};

/// What an operator can turn on the HTTP side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Web origins that may read cross-origin; empty: loopback origins in the open mode,
    /// none otherwise.
    pub cors_origins: Vec<String>,
    /// Headers that pages of these origins may send beside the usual ones; `*` for any.
    pub cors_headers: Vec<String>,
    /// A quiet stream hears a heartbeat this often.
    pub heartbeat: Duration,
    /// How long a shutdown may take before open requests are cut. Clients that are sent away come back spread
    /// over this time.
    pub drain: Duration,
    /// How much of everything there may be.
    pub limits: Limits,
    /// The certificate, where clients are to speak TLS.
    pub tls: Option<Arc<Tls>>,
    /// Where the predecessor's append service is served as well, if it is: a path.
    pub append_path: Option<String>,
}

/// How much of everything there may be, so that nobody can use it up for the others.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all: those beyond are closed at once.
    pub connections: usize,
    /// Streams in all. Who comes beyond that is asked to try again in some seconds.
    pub streams: usize,
    /// Streams that follow one consumer.
    pub streams_of_a_consumer: usize,
    /// A request's head has to arrive within this time, and the next request of a connection
    /// that is kept alive too: who sends byte by byte, or nothing, is cut off.
    pub head_within: Duration,
    /// The bytes of a request's head.
    pub head: usize,
    /// The bytes of a body that is written at once.
    pub body: usize,
    /// The bytes of one event.
    pub event: usize,
    /// Events in one page of a stream.
    pub page: i64,
    /// A body has to go on arriving: nothing of it may come for no longer than this.
    pub body_within: Duration,
    /// An answer, or a stream that has something to say, has to be taken: a client may take nothing
    /// of it for no longer than this.
    pub write_within: Duration,
    /// The bytes of answers that are being made or sent.
    pub answers: usize,
    /// The same of one principal's.
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
    /// Connections beyond the limit of streams that are served all the same: to ask for health
    /// and metrics, and to be told to come back later.
    pub const SPARE: usize = 1024;

    /// As much of it as fits into so many open files. A connection that takes the last one would
    /// cost everybody: the gateway could not come back to PostgreSQL after a lost connection.
    #[must_use]
    pub fn within(self, files: usize) -> Self {
        let connections = self.connections.min(files);
        let spare = Self::SPARE.min(connections / 4);
        Self { connections, streams: self.streams.min(connections - spare), ..self }
    }
}

/// What the handlers share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) gateway: Arc<Gateway>,
    pub(super) access: Arc<Access>,
    pub(super) settings: Settings,
    /// Answers that are being made or sent.
    pub(super) answers: Arc<Budget>,
}
