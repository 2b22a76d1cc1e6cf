//! Clients of every kind. Each records what it receives; `check` decides what it had to receive.

use std::{
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::TcpSocket,
    select,
    sync::watch,
    time::{sleep, timeout},
};

use super::writers::{CONSUMERS, KINDS};
use crate::support::sse_client::{Frame, Stream};

/// How a client behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Behavior {
    pub(super) name: &'static str,
    pub(super) consumers: Vec<String>,
    /// Reads all events, in strict order.
    pub(super) strict: bool,
    /// Reads only events of these types; empty: all types.
    pub(super) kinds: Vec<&'static str>,
    /// Reads the whole log, rather than starting with the next event.
    pub(super) from_the_beginning: bool,
    /// Joins when this percentage of the run has passed.
    pub(super) joins_at_percent: u32,
    /// Disconnects by itself after this time, and reconnects.
    pub(super) leaves_after_ms: Option<Range<u64>>,
    /// The number of first connections that it closes as soon as it has a cursor.
    pub(super) cut_connections: u32,
    /// Reconnects to a random gateway, rather than to the same.
    pub(super) hops: bool,
    /// Waits this long before it reads each frame.
    pub(super) read_delay_ms: Option<Range<u64>>,
}

/// One client of every kind, with random consumers.
pub(super) fn all_clients(random: &mut Rng) -> Vec<Behavior> {
    let mut one = || vec![format!("c{}", random.usize(0..CONSUMERS))];
    let plain = Behavior::default;
    let (quick, leisurely) = (Some(5..150), Some(200..2_000));
    vec![
        Behavior { name: "steady", consumers: one(), ..plain() },
        Behavior { name: "steady elsewhere", consumers: one(), ..plain() },
        Behavior { name: "from 0", consumers: one(), from_the_beginning: true, ..plain() },
        Behavior {
            name: "late from 0",
            joins_at_percent: 60,
            from_the_beginning: true,
            consumers: one(),
            ..plain()
        },
        Behavior { name: "late", joins_at_percent: 40, consumers: one(), ..plain() },
        Behavior { name: "restless", leaves_after_ms: quick.clone(), consumers: one(), ..plain() },
        Behavior {
            name: "hopping",
            leaves_after_ms: leisurely.clone(),
            hops: true,
            consumers: one(),
            ..plain()
        },
        Behavior {
            name: "hopping fast",
            leaves_after_ms: quick,
            hops: true,
            consumers: one(),
            ..plain()
        },
        Behavior {
            name: "cut before any event",
            cut_connections: 5,
            hops: true,
            consumers: one(),
            ..plain()
        },
        Behavior { name: "slow", read_delay_ms: Some(0..60), consumers: one(), ..plain() },
        Behavior {
            name: "stalling",
            read_delay_ms: Some(0..4_000),
            consumers: one(),
            hops: true,
            ..plain()
        },
        Behavior {
            name: "typed",
            kinds: KINDS[..1].into(),
            consumers: one(),
            leaves_after_ms: leisurely.clone(),
            ..plain()
        },
        Behavior {
            name: "several",
            consumers: all(),
            leaves_after_ms: leisurely.clone(),
            hops: true,
            ..plain()
        },
        Behavior {
            name: "several from 0",
            consumers: all(),
            from_the_beginning: true,
            leaves_after_ms: leisurely.clone(),
            ..plain()
        },
        Behavior { name: "strict", strict: true, consumers: all(), ..plain() },
        Behavior {
            name: "strict from 0",
            strict: true,
            consumers: all(),
            from_the_beginning: true,
            leaves_after_ms: leisurely,
            hops: true,
            ..plain()
        },
        Behavior { name: "several typed", consumers: all(), kinds: KINDS[1..].into(), ..plain() },
    ]
}

fn all() -> Vec<String> {
    (0..CONSUMERS).map(|number| format!("c{number}")).collect()
}

/// A received event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    pub(super) row: i64,
    /// Whether its `id:` says that it belongs to a late transaction.
    pub(super) late: bool,
    /// The digest of its type and payload.
    pub(super) digest: u64,
    /// The number of the client's connection on which it arrived.
    pub(super) connection: usize,
}

/// Everything that a client has recorded.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The first cursor that it had. It must get all its events after that.
    pub(super) begin: Option<String>,
    pub(super) got: Vec<Got>,
    /// One line for each connection, with its start and end.
    pub(super) connections: Vec<String>,
    /// Signals that a gateway should not have sent.
    pub(super) complaints: Vec<String>,
}

/// The digest by which events are compared.
pub(super) fn digest(kind: &str, payload: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, payload).hash(&mut hasher);
    hasher.finish()
}

/// An event of `/all`.
#[derive(Deserialize)]
struct FullEvent<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A running client.
pub(super) struct Client {
    pub(super) behavior: Behavior,
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) random: Rng,
    pub(super) journal: Arc<Mutex<Journal>>,
    /// When this becomes true, the client reads the rest without delays and disconnects.
    pub(super) finish: watch::Receiver<bool>,
}

/// A client treats the connection as dead if nothing arrives for this long, which is several heartbeats.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Small, so that data that is not read is buffered by the gateway.
const RECEIVE_BUFFER_BYTES: u32 = 4_096;

impl Client {
    /// Follows its events forever.
    pub(super) async fn run(mut self) {
        let mut gateway = self.random.usize(0..self.gateways.len());
        let mut cursor = self.behavior.from_the_beginning.then(|| "0".to_owned());
        self.journal().begin.clone_from(&cursor);
        loop {
            let opened =
                timeout(SILENCE_TIMEOUT, self.open(self.gateways[gateway], cursor.as_deref()));
            if let Ok(Ok(mut stream)) = opened.await {
                let began = Instant::now();
                let ended = self.read(&mut stream, &mut cursor).await;
                let lasted = began.elapsed().as_millis();
                self.note_end(&format!("{ended} after {lasted} ms at {cursor:?}"));
            } else {
                sleep(Duration::from_millis(self.random.u64(10..60))).await;
            }
            if self.behavior.hops || self.random.u8(0..4) == 0 {
                gateway = self.random.usize(0..self.gateways.len());
            }
        }
    }

    async fn open(&self, gateway: SocketAddr, cursor: Option<&str>) -> std::io::Result<Stream> {
        let socket = TcpSocket::new_v4()?;
        if self.behavior.read_delay_ms.is_some() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        }
        let path = self.path();
        let resume = cursor.map(|cursor| ("Last-Event-ID", cursor));
        let stream = Stream::open_on(socket.connect(gateway).await?, &path, resume.as_slice());
        let stream = stream.await?;
        let line = format!("{gateway} after {cursor:?}");
        self.journal().connections.push(line);
        Ok(stream)
    }

    fn path(&self) -> String {
        if self.behavior.strict {
            return "/all".to_owned();
        }
        let mut path = String::from("/events");
        for (at, consumer) in self.behavior.consumers.iter().enumerate() {
            let separator = if at == 0 { '?' } else { '&' };
            write!(path, "{separator}consumer={consumer}").unwrap();
        }
        if !self.behavior.kinds.is_empty() {
            write!(path, "&types={}", self.behavior.kinds.join(",")).unwrap();
        }
        path
    }

    /// Reads until the connection ends for any reason. Returns the reason.
    async fn read(&mut self, stream: &mut Stream, cursor: &mut Option<String>) -> &'static str {
        let leaves = self.behavior.leaves_after_ms.clone().map(|range| self.random.u64(range));
        let leaves = sleep(Duration::from_millis(leaves.unwrap_or(u64::MAX >> 20)));
        tokio::pin!(leaves);
        loop {
            self.delay_read().await;
            let finishing = *self.finish.borrow();
            select! {
                frame = timeout(SILENCE_TIMEOUT, stream.next()) => match frame {
                    Ok(Some(frame)) => self.note(&frame),
                    Ok(None) => return "cut",
                    Err(_) => return "silent",
                },
                () = &mut leaves, if !finishing => return "left",
            }
            if !stream.last_id.is_empty() {
                *cursor = Some(stream.last_id.clone());
                self.journal().begin.get_or_insert_with(|| stream.last_id.clone());
                if self.behavior.cut_connections > 0 {
                    self.behavior.cut_connections -= 1;
                    return "closed after the cursor";
                }
            }
        }
    }

    async fn delay_read(&mut self) {
        let Some(range) = self.behavior.read_delay_ms.clone() else { return };
        let pause = sleep(Duration::from_millis(self.random.u64(range)));
        select! {
            () = pause => {}
            _ = self.finish.wait_for(|finish| *finish) => {}
        }
    }

    fn note(&self, frame: &Frame) {
        let whole = self.behavior.strict && frame.is_logged();
        let whole =
            whole.then(|| serde_json::from_str::<FullEvent>(&frame.data).expect("an event"));
        let payload = whole.as_ref().map_or(frame.data.as_str(), |whole| whole.payload.get());
        let mut journal = self.journal();
        let connection = journal.connections.len();
        if frame.is_logged() {
            journal.got.push(Got {
                row: frame.row(),
                late: frame.id.as_ref().is_some_and(|id| id.contains('@')),
                digest: digest(&frame.event, payload),
                connection,
            });
        } else if frame.event == "$gap" {
            journal.complaints.push(format!("on connection {connection}: {frame:?}"));
        }
    }

    fn note_end(&self, how: &str) {
        let mut journal = self.journal();
        let line = journal.connections.last_mut().expect("a connection that ends was opened");
        line.push_str(": ");
        line.push_str(how);
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }
}
