//! One client's stream of frames: what it missed first, then live, and a heartbeat when it
//! is quiet.

mod source;

use std::{collections::BTreeSet, mem, ops::ControlFlow, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::{
    select,
    time::{Instant, Sleep, sleep},
};

use self::source::{Read, ReadPage, Reading, Wanted};
use super::{
    Gateway, amended,
    follower::{Follower, Live, Scan},
    frame,
    hub::{Hub, Seat, State},
    recent::Recent,
    signal::{GapReason, Signal, put_retry},
};
use crate::{
    access::budget::{Account, Share},
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    metrics::{Reason, State as Label},
    postgres::{event_log::Paging, history::History},
};

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose events; at least one consumer.
    pub consumers: Box<[ConsumerId]>,
    /// After which; none: from now on.
    pub cursor: Option<Cursor>,
    /// Of which types; none: all.
    pub kinds: Option<Kinds>,
    /// As later ones correct them, rather than as they were written.
    pub amended: bool,
}

/// Types that a client wants to see, as they stand on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(BTreeSet<Box<[u8]>>);

impl<'a> FromIterator<&'a str> for Kinds {
    fn from_iter<I: IntoIterator<Item = &'a str>>(kinds: I) -> Self {
        Self(kinds.into_iter().map(|kind| kind.as_bytes().into()).collect())
    }
}

/// See the module. It waits for the client: while [`next`](Self::next) is not called nothing
/// is read, and nothing piles up.
pub struct Subscription {
    gateway: Arc<Gateway>,
    history: Arc<History>,
    seat: Seat,
    kinds: Option<Kinds>,
    amended: bool,
    /// The client was told that it has all that it missed.
    caught_up: bool,
    stage: Stage,
    /// The log that the follower's cursor belongs to.
    epoch: u64,
    reading: Option<Reading>,
    paging: Paging,
    /// Where pages of the replay are counted, if they are.
    account: Option<Account>,
    /// Room for the page that the client is being sent.
    sending: Option<Box<Share>>,
    heartbeat: Pin<Box<Sleep>>,
    beat_due: bool,
    ending: Option<Ending>,
    gauge: Gauge,
}

/// Answers why, when a subscription is to end before its time.
pub type Ending = Pin<Box<dyn Future<Output = &'static str> + Send>>;

enum Stage {
    /// Nothing has been said yet.
    New(Box<Request>),
    /// The client was greeted. The reader has not started, or it is being found out whether
    /// the cursor is of this log.
    Opening(Box<Request>),
    Following {
        follower: Follower,
        /// What the client knows to be pruned, once its replay has read a page.
        pruned: Option<EventId>,
    },
    Ended,
}

/// What to do next.
enum Step {
    Say(Bytes),
    Wait,
    Again,
    End,
}

/// As much as is handed to the socket at once.
const CHUNK: usize = 64 << 10;

/// Clients that lose the connection come back after this, and up to as much later again.
const RETRY: Duration = Duration::from_secs(1);

impl Subscription {
    pub(super) fn new(gateway: Arc<Gateway>, request: Request) -> Self {
        Self {
            seat: gateway.hub.sit(request.consumers.clone()),
            kinds: request.kinds.clone(),
            amended: request.amended,
            caught_up: false,
            stage: Stage::New(Box::new(request)),
            epoch: 0,
            reading: None,
            paging: Paging::new(source::PAGE),
            account: None,
            sending: None,
            heartbeat: Box::pin(sleep(gateway.settings.heartbeat)),
            beat_due: false,
            ending: None,
            gauge: Gauge::new(Arc::clone(&gateway)),
            history: Arc::clone(&gateway.history),
            gateway,
        }
    }

    /// Says good-bye to the client when this is over, with the reason that it answers.
    #[must_use]
    pub fn ending_with(mut self, ending: Option<Ending>) -> Self {
        self.ending = ending;
        self
    }

    /// Reads in the name of this caller.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts the pages of a replay here, from before they are read until the client has taken them:
    /// where there is no room the replay waits, with heartbeats.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// Waits until this is to end before its time; [`next`](Self::next) says good-bye then. For
    /// those who are busy with a client that does not take what it is sent.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&mut self) {
        let Some(ending) = &mut self.ending else { return std::future::pending().await };
        let reason = ending.await;
        self.gauge.ended = reason;
        self.ending = Some(Box::pin(std::future::ready(reason)));
    }

    /// Notes that the client was cut off, for it took nothing.
    pub fn stalled(&mut self) {
        if self.gauge.ended == CLIENT {
            self.gauge.ended = "stalled";
        }
    }

    /// The next bytes for the client, who has taken those before; `None` after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.sending = None;
        loop {
            // A stream that always has something to say never waits.
            let ended = self.ending.as_mut().and_then(FutureExt::now_or_never);
            let step = match ended {
                Some(reason) => self.leave(reason),
                None => self.step(),
            };
            let step = match step {
                Step::Wait => self.wait().await,
                step => step,
            };
            match step {
                Step::Say(bytes) => {
                    let next = Instant::now() + self.gateway.settings.heartbeat;
                    self.heartbeat.as_mut().reset(next);
                    return Some(bytes);
                }
                Step::End => return None,
                Step::Again | Step::Wait => {}
            }
        }
    }

    /// Does what can be done without waiting.
    fn step(&mut self) -> Step {
        let hub = Arc::clone(&self.gateway.hub);
        match &self.stage {
            Stage::New(_) => self.greet(&hub),
            Stage::Ended => Step::End,
            Stage::Opening(_) | Stage::Following { .. } => self.move_on(&hub),
        }
    }

    /// Waits for a page, for events, or for the heartbeat's time.
    async fn wait(&mut self) -> Step {
        let reading = async {
            match &mut self.reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        let ending = async {
            match &mut self.ending {
                Some(ending) => ending.await,
                None => std::future::pending().await,
            }
        };
        select! {
            reason = ending => self.leave(reason),
            read = reading => {
                self.reading = None;
                self.take(read)
            }
            () = self.seat.woken() => Step::Again,
            () = &mut self.heartbeat => {
                self.beat_due = true;
                Step::Again
            }
        }
    }

    /// The client hears at once when to come back after a loss, and where it is.
    fn greet(&mut self, hub: &Hub) -> Step {
        let Stage::New(request) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return Step::End;
        };
        let cursor = request.cursor.clone();
        self.stage = Stage::Opening(request);
        let mut out = String::new();
        put_retry(&mut out, RETRY, RETRY);
        if cursor.is_none()
            && let Step::Say(hello) = self.move_on(hub)
        {
            // Without a cursor of its own, it is where the reader is.
            return Step::Say([out.as_bytes(), &hello].concat().into());
        }
        Signal::Heartbeat.put(&mut out, cursor.as_ref());
        Step::Say(out.into())
    }

    fn move_on(&mut self, hub: &Hub) -> Step {
        let state = hub.state();
        if state.closing {
            return self.close("shutdown");
        }
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening(request) => self.open(&state, request),
            Stage::Following { follower, pruned } => self.follow(&state, follower, pruned),
            Stage::New(_) | Stage::Ended => Step::End,
        }
    }

    /// Joins the recent events, once the reader has started, and the cursor is known to be
    /// of this log.
    fn open(&mut self, state: &State, request: Box<Request>) -> Step {
        let started = state.epoch > 0;
        let head = state.recent.position().head;
        let ahead = request.cursor.as_ref().is_some_and(|cursor| cursor.head() > head);
        if started && !ahead {
            return self.join(state, &request);
        }
        if started && self.reading.is_none() {
            self.read(Wanted::Drawn);
        }
        let cursor = request.cursor.clone();
        self.stage = Stage::Opening(request);
        self.beat(cursor.as_ref())
    }

    fn join(&mut self, state: &State, request: &Request) -> Step {
        let resumed = request.cursor.is_some();
        let consumers = request.consumers.clone();
        let mut follower = Follower::join(&state.recent, consumers, request.cursor.clone());
        if self.amended {
            follower = follower.from_table(&state.recent);
        }
        let replaying = follower.wants().is_some();
        if resumed && !replaying {
            self.gateway.metrics.resumed_from_recent.inc();
        }
        let hello = say(Signal::Heartbeat, follower.cursor());
        self.epoch = state.epoch;
        self.begin(follower);
        if resumed { Step::Again } else { hello }
    }

    /// Follows on, from the table or live.
    fn begin(&mut self, follower: Follower) {
        let replaying = follower.wants().is_some();
        if replaying {
            self.gateway.metrics.replays.inc();
        }
        self.gauge.set(if replaying { "replaying" } else { "live" });
        self.stage = Stage::Following { follower, pruned: None };
    }

    fn follow(&mut self, state: &State, mut follower: Follower, pruned: Option<EventId>) -> Step {
        if state.epoch != self.epoch {
            return self.restart(state, follower);
        }
        if let Some(scan) = follower.wants() {
            if self.reading.is_none() {
                self.read(self.wanted(scan.clone(), &follower));
            }
            let cursor = follower.cursor().clone();
            self.stage = Stage::Following { follower, pruned };
            return self.beat(Some(&cursor));
        }
        let mut chunk = Chunk::new(self.kinds.as_ref());
        let live = follower.live(&state.recent, |entry, cursor| {
            chunk.add(entry.frame.kind(), || entry.frame.bytes_at(cursor))
        });
        self.gateway.metrics.deliveries.inc_by(chunk.events);
        self.say_live(&state.recent, follower, live, chunk.frames)
    }

    fn say_live(
        &mut self,
        recent: &Recent,
        mut follower: Follower,
        live: Live,
        mut frames: Vec<Bytes>,
    ) -> Step {
        if live == Live::Lagging {
            self.gateway.metrics.slow_clients.inc();
            follower.rejoin(recent);
            self.begin(follower);
            return Step::Again;
        }
        if live == Live::ToRead {
            self.stage = Stage::Following { follower, pruned: None };
            return Step::Again;
        }
        let cursor = follower.cursor().clone();
        self.stage = Stage::Following { follower, pruned: None };
        if live == Live::CaughtUp {
            self.gauge.set("live");
        }
        // Who reads all from the table catches up again and again.
        if live == Live::CaughtUp && !(self.amended && mem::replace(&mut self.caught_up, true)) {
            frames.push(text(Signal::CaughtUp, &cursor));
        }
        match joined(frames) {
            Some(bytes) => Step::Say(bytes),
            None if live == Live::Stopped => Step::Again,
            None => self.beat(Some(&cursor)),
        }
    }

    /// The log was replaced. The client is told, and goes on where it is another one.
    fn restart(&mut self, state: &State, mut follower: Follower) -> Step {
        self.epoch = state.epoch;
        self.reading = None;
        let from = follower.cursor().head();
        follower.restart(&state.recent, state.origin);
        let cursor = follower.cursor().clone();
        self.begin(follower);
        say(Signal::Gap { from, to: cursor.head(), reason: GapReason::Reset }, &cursor)
    }

    fn wanted(&self, scan: Scan, follower: &Follower) -> Wanted {
        let consumers = follower.consumers().into();
        let patcher = self.amended.then(|| Arc::clone(&self.gateway.patcher));
        let account = self.account.clone();
        Wanted::Page { scan, consumers, paging: self.paging, patcher, account }
    }

    fn read(&mut self, wanted: Wanted) {
        self.reading = Some(source::read(Arc::clone(&self.history), wanted));
    }

    /// PostgreSQL reads the next page while this one is put into frames and sent.
    fn read_ahead(&self, scan: Scan, follower: &Follower) -> Reading {
        let history = Arc::clone(&self.history);
        source::read_ahead(history, self.wanted(scan, follower))
    }

    /// Takes what was read.
    fn take(&mut self, read: Read) -> Step {
        match (read, std::mem::replace(&mut self.stage, Stage::Ended)) {
            (Read::Drawn(drawn), Stage::Opening(request)) => self.take_drawn(drawn, &request),
            (Read::Page(read), Stage::Following { follower, pruned }) => {
                self.take_page(read, pruned, follower)
            }
            (_, stage) => {
                self.stage = stage;
                Step::Again
            }
        }
    }

    /// The client's cursor is ahead of this gateway. Perhaps another instance was faster;
    /// if its id was never drawn, the cursor is of a log that is no more.
    fn take_drawn(&mut self, drawn: Option<EventId>, request: &Request) -> Step {
        let hub = Arc::clone(&self.gateway.hub);
        let state = hub.state();
        let from = request.cursor.as_ref().map_or(EventId::ZERO, Cursor::head);
        if drawn.is_none_or(|drawn| from <= drawn) {
            return self.join(&state, request);
        }
        let follower = Follower::join(&state.recent, request.consumers.clone(), None);
        let cursor = follower.cursor().clone();
        self.epoch = state.epoch;
        self.begin(follower);
        let gap = Signal::Gap { from, to: cursor.head(), reason: GapReason::Reset };
        Step::Say([text(gap, &cursor), text(Signal::CaughtUp, &cursor)].concat().into())
    }

    /// Takes a page of a replay. What was pruned before the client could have it is told: at the
    /// first page, and again when more was pruned meanwhile.
    fn take_page(
        &mut self,
        read: ReadPage,
        known: Option<EventId>,
        mut follower: Follower,
    ) -> Step {
        let ReadPage { page, pruned, corrections, share } = read;
        self.paging.learn(&page);
        if self.paging.are_small() {
            let next = follower.wants_behind(&page.rows, page.last);
            self.reading = next.map(|scan| self.read_ahead(scan, &follower));
        }
        let mut out = BytesMut::new();
        let from = follower.complete_upto();
        if pruned > from && known.is_none_or(|known| pruned > known) {
            let gap = Signal::Gap { from, to: pruned, reason: GapReason::Pruned };
            out.extend_from_slice(&text(gap, follower.cursor()));
        }
        let mut chunk = Chunk::new(self.kinds.as_ref());
        follower.page(&page.rows, page.last, |row, cursor| {
            let _ = chunk.add(row.kind().as_bytes(), || {
                let data = frame::data(row.amends(), row.payload());
                let (data, misfit) = amended::shown(&corrections, row.id(), data);
                frame::put(&mut out, row.id(), cursor, row.kind(), &data);
                if let Some(amendment) = misfit {
                    let said = Signal::Unamended { event: row.id(), amendment };
                    out.extend_from_slice(&text(said, cursor));
                }
                Bytes::new()
            });
        });
        self.gateway.metrics.replayed_rows.inc_by(page.rows.len() as u64);
        self.gateway.metrics.deliveries.inc_by(chunk.events);
        self.stage = Stage::Following { follower, pruned: Some(pruned) };
        if out.is_empty() {
            return Step::Again;
        }
        self.sending = share.map(|mut share| {
            share.settle(out.len());
            share.into()
        });
        Step::Say(out.freeze())
    }

    /// A heartbeat, when it is time for one.
    fn beat(&mut self, cursor: Option<&Cursor>) -> Step {
        if !std::mem::take(&mut self.beat_due) {
            return Step::Wait;
        }
        let mut out = String::new();
        Signal::Heartbeat.put(&mut out, cursor);
        Step::Say(out.into())
    }

    /// Says good-bye to this one client.
    fn leave(&mut self, reason: &'static str) -> Step {
        self.ending = None;
        self.reading = None;
        self.close(reason)
    }

    /// Says good-bye. Clients come back spread over the time in which this gateway drains.
    fn close(&mut self, reason: &'static str) -> Step {
        let cursor = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Following { follower, .. } => Some(follower.cursor().clone()),
            Stage::New(request) | Stage::Opening(request) => request.cursor,
            Stage::Ended => return Step::End,
        };
        let mut out = String::new();
        put_retry(&mut out, Duration::ZERO, self.gateway.settings.drain);
        Signal::Closing { reason }.put(&mut out, cursor.as_ref());
        self.gauge.ended = reason;
        Step::Say(out.into())
    }
}

fn text(signal: Signal, cursor: &Cursor) -> Bytes {
    let mut out = String::new();
    signal.put(&mut out, Some(cursor));
    out.into()
}

fn say(signal: Signal, cursor: &Cursor) -> Step {
    Step::Say(text(signal, cursor))
}

/// Frames that go to the socket together.
struct Chunk<'a> {
    kinds: Option<&'a Kinds>,
    frames: Vec<Bytes>,
    bytes: usize,
    events: u64,
}

impl<'a> Chunk<'a> {
    fn new(kinds: Option<&'a Kinds>) -> Self {
        Self { kinds, frames: Vec::new(), bytes: 0, events: 0 }
    }

    /// Adds a frame of a type that is wanted; says stop when there is enough.
    fn add(&mut self, kind: &[u8], frame: impl FnOnce() -> Bytes) -> ControlFlow<()> {
        if self.kinds.is_none_or(|kinds| kinds.0.contains(kind)) {
            let frame = frame();
            self.bytes += frame.len();
            self.events += 1;
            self.frames.push(frame);
        }
        if self.bytes < CHUNK { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// One frame goes as it is, shared with all who get it; several are copied together, which
/// is cheaper than as many writes.
fn joined(mut frames: Vec<Bytes>) -> Option<Bytes> {
    match frames.len() {
        0 => None,
        1 => frames.pop(),
        _ => Some(frames.concat().into()),
    }
}

/// Why a subscription ended that nobody ended here.
const CLIENT: &str = "client";

/// Counts a subscription in the state that it is in, and its end.
struct Gauge {
    gateway: Arc<Gateway>,
    state: &'static str,
    ended: &'static str,
}

impl Gauge {
    fn new(gateway: Arc<Gateway>) -> Self {
        let gauge = Self { gateway, state: "opening", ended: CLIENT };
        gauge.add(1);
        gauge
    }

    fn set(&mut self, state: &'static str) {
        if self.state != state {
            self.add(-1);
            self.state = state;
            self.add(1);
        }
    }

    fn add(&self, one: i64) {
        let subscriptions = &self.gateway.metrics.subscriptions;
        subscriptions.get_or_create(&Label { state: self.state }).inc_by(one);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.add(-1);
        let reason = Reason { reason: self.ended };
        self.gateway.metrics.disconnects.get_or_create(&reason).inc();
    }
}
