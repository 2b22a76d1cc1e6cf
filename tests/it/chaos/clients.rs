//! Clients of every kind. Each keeps a diary of what it got; what it was owed is not its
//! business.

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
pub(super) struct Habits {
    pub(super) name: &'static str,
    pub(super) consumers: Vec<String>,
    /// It reads everybody's events, in strict order.
    pub(super) strict: bool,
    /// Only these types; none: all.
    pub(super) kinds: Vec<&'static str>,
    /// It wants the whole log, rather than what comes from now on.
    pub(super) from_the_beginning: bool,
    /// It comes when so much of the time has passed, in hundredths.
    pub(super) comes_at: u32,
    /// It leaves by itself after so long, in milliseconds, and comes back.
    pub(super) leaves: Option<Range<u64>>,
    /// It leaves its first connections as soon as it has a cursor.
    pub(super) flees: u32,
    /// It comes back to any gateway, rather than to the same.
    pub(super) hops: bool,
    /// It waits so long before each frame, in milliseconds.
    pub(super) dawdles: Option<Range<u64>>,
}

/// Every kind at once, over consumers that the dice choose.
pub(super) fn everybody(dice: &mut Rng) -> Vec<Habits> {
    let mut one = || vec![format!("c{}", dice.usize(0..CONSUMERS))];
    let plain = Habits::default;
    let (quick, leisurely) = (Some(5..150), Some(200..2_000));
    vec![
        Habits { name: "steady", consumers: one(), ..plain() },
        Habits { name: "steady elsewhere", consumers: one(), ..plain() },
        Habits { name: "from 0", consumers: one(), from_the_beginning: true, ..plain() },
        Habits {
            name: "late from 0",
            comes_at: 60,
            from_the_beginning: true,
            consumers: one(),
            ..plain()
        },
        Habits { name: "late", comes_at: 40, consumers: one(), ..plain() },
        Habits { name: "restless", leaves: quick.clone(), consumers: one(), ..plain() },
        Habits {
            name: "hopping",
            leaves: leisurely.clone(),
            hops: true,
            consumers: one(),
            ..plain()
        },
        Habits { name: "hopping fast", leaves: quick, hops: true, consumers: one(), ..plain() },
        Habits { name: "cut before any event", flees: 5, hops: true, consumers: one(), ..plain() },
        Habits { name: "slow", dawdles: Some(0..60), consumers: one(), ..plain() },
        Habits {
            name: "stalling",
            dawdles: Some(0..4_000),
            consumers: one(),
            hops: true,
            ..plain()
        },
        Habits {
            name: "typed",
            kinds: KINDS[..1].into(),
            consumers: one(),
            leaves: leisurely.clone(),
            ..plain()
        },
        Habits {
            name: "several",
            consumers: all(),
            leaves: leisurely.clone(),
            hops: true,
            ..plain()
        },
        Habits {
            name: "several from 0",
            consumers: all(),
            from_the_beginning: true,
            leaves: leisurely.clone(),
            ..plain()
        },
        Habits { name: "strict", strict: true, consumers: all(), ..plain() },
        Habits {
            name: "strict from 0",
            strict: true,
            consumers: all(),
            from_the_beginning: true,
            leaves: leisurely,
            hops: true,
            ..plain()
        },
        Habits { name: "several typed", consumers: all(), kinds: KINDS[1..].into(), ..plain() },
    ]
}

fn all() -> Vec<String> {
    (0..CONSUMERS).map(|number| format!("c{number}")).collect()
}

/// An event as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    pub(super) row: i64,
    /// Its `id:` says that it is of a late transaction.
    pub(super) late: bool,
    /// Of its type and its payload.
    pub(super) digest: u64,
    /// On which of the client's connections it came.
    pub(super) connection: usize,
}

/// All that a client can tell.
#[derive(Debug, Default)]
pub(super) struct Diary {
    /// The first cursor that it had: from there on it is owed everything.
    pub(super) begin: Option<String>,
    pub(super) got: Vec<Got>,
    /// One line for each connection: how it began and ended.
    pub(super) connections: Vec<String>,
    /// What a gateway said that it should not have.
    pub(super) complaints: Vec<String>,
}

/// How an event is compared.
pub(super) fn digest(kind: &str, payload: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, payload).hash(&mut hasher);
    hasher.finish()
}

/// An event as it is among everybody's.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// A client at work.
pub(super) struct Client {
    pub(super) habits: Habits,
    pub(super) gateways: Vec<SocketAddr>,
    pub(super) dice: Rng,
    pub(super) diary: Arc<Mutex<Diary>>,
    /// Once it is told to finish, it reads what is left without any habits.
    pub(super) finish: watch::Receiver<bool>,
}

/// A client that has heard nothing for so many heartbeats thinks that the connection is dead.
const SILENCE: Duration = Duration::from_millis(2_500);
/// So small that what a gateway cannot send piles up on its side.
const RECEIVE_BUFFER: u32 = 4_096;

impl Client {
    /// Follows its events for ever.
    pub(super) async fn run(mut self) {
        let mut gateway = self.dice.usize(0..self.gateways.len());
        let mut cursor = self.habits.from_the_beginning.then(|| "0".to_owned());
        self.diary().begin.clone_from(&cursor);
        loop {
            let opened = timeout(SILENCE, self.open(self.gateways[gateway], cursor.as_deref()));
            if let Ok(Ok(mut stream)) = opened.await {
                let began = Instant::now();
                let ended = self.read(&mut stream, &mut cursor).await;
                let lasted = began.elapsed().as_millis();
                self.note_end(&format!("{ended} after {lasted} ms at {cursor:?}"));
            } else {
                sleep(Duration::from_millis(self.dice.u64(10..60))).await;
            }
            if self.habits.hops || self.dice.u8(0..4) == 0 {
                gateway = self.dice.usize(0..self.gateways.len());
            }
        }
    }

    async fn open(&self, gateway: SocketAddr, cursor: Option<&str>) -> std::io::Result<Stream> {
        let socket = TcpSocket::new_v4()?;
        if self.habits.dawdles.is_some() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        let path = self.path();
        let resume = cursor.map(|cursor| ("Last-Event-ID", cursor));
        let stream = Stream::open_on(socket.connect(gateway).await?, &path, resume.as_slice());
        let stream = stream.await?;
        let line = format!("{gateway} after {cursor:?}");
        self.diary().connections.push(line);
        Ok(stream)
    }

    fn path(&self) -> String {
        if self.habits.strict {
            return "/all".to_owned();
        }
        let mut path = String::from("/events");
        for (at, consumer) in self.habits.consumers.iter().enumerate() {
            let separator = if at == 0 { '?' } else { '&' };
            write!(path, "{separator}consumer={consumer}").unwrap();
        }
        if !self.habits.kinds.is_empty() {
            write!(path, "&types={}", self.habits.kinds.join(",")).unwrap();
        }
        path
    }

    /// Reads until the connection ends, in whatever way; says in which.
    async fn read(&mut self, stream: &mut Stream, cursor: &mut Option<String>) -> &'static str {
        let leaves = self.habits.leaves.clone().map(|range| self.dice.u64(range));
        let leaves = sleep(Duration::from_millis(leaves.unwrap_or(u64::MAX >> 20)));
        tokio::pin!(leaves);
        loop {
            self.dawdle().await;
            let finishing = *self.finish.borrow();
            select! {
                frame = timeout(SILENCE, stream.next()) => match frame {
                    Ok(Some(frame)) => self.note(&frame),
                    Ok(None) => return "cut",
                    Err(_) => return "silent",
                },
                () = &mut leaves, if !finishing => return "left",
            }
            if !stream.last_id.is_empty() {
                *cursor = Some(stream.last_id.clone());
                self.diary().begin.get_or_insert_with(|| stream.last_id.clone());
                if self.habits.flees > 0 {
                    self.habits.flees -= 1;
                    return "fled";
                }
            }
        }
    }

    async fn dawdle(&mut self) {
        let Some(range) = self.habits.dawdles.clone() else { return };
        let pause = sleep(Duration::from_millis(self.dice.u64(range)));
        select! {
            () = pause => {}
            _ = self.finish.wait_for(|finish| *finish) => {}
        }
    }

    fn note(&self, frame: &Frame) {
        let whole = self.habits.strict && frame.is_logged();
        let whole = whole.then(|| serde_json::from_str::<Whole>(&frame.data).expect("an event"));
        let payload = whole.as_ref().map_or(frame.data.as_str(), |whole| whole.payload.get());
        let mut diary = self.diary();
        let connection = diary.connections.len();
        if frame.is_logged() {
            diary.got.push(Got {
                row: frame.row(),
                late: frame.id.as_ref().is_some_and(|id| id.contains('@')),
                digest: digest(&frame.event, payload),
                connection,
            });
        } else if frame.event == "$gap" {
            diary.complaints.push(format!("on connection {connection}: {frame:?}"));
        }
    }

    fn note_end(&self, how: &str) {
        let mut diary = self.diary();
        let line = diary.connections.last_mut().expect("a connection that ends has begun");
        line.push_str(": ");
        line.push_str(how);
    }

    fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().unwrap()
    }
}
