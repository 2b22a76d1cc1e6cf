//! One client's events: first those that it missed, then live ones.

mod chunk;
mod gauge;
mod source;

use std::{mem, sync::Arc};

use tokio::select;

pub use self::chunk::{Chunk, Kinds};
use self::{
    gauge::{CLIENT, Gauge},
    source::{Read, ReadPage, Reading, Wanted},
};
use super::{
    follower::{Follower, Live, Reach, Scan},
    hub::{Hub, Registration, State},
    recent::Recent,
};
use crate::{
    access::budget::{Account, Share},
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    item::{
        frame,
        output::{Output, Progress, Source},
        signal::{GapReason, Signal},
    },
    metrics::Metrics,
    read::amended::{self, Patcher},
    store::{
        event_log::Paging,
        history::{History, SnapshotReach},
    },
};

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The consumers whose events it wants; at least one.
    pub consumers: Box<[ConsumerId]>,
    /// The cursor to resume after; `None`: from now on.
    pub cursor: Option<Cursor>,
    /// The event types that it wants; `None`: all.
    pub kinds: Option<Kinds>,
    /// Whether it wants events with their amendments applied, rather than as they were written.
    pub amended: bool,
}

/// The parts that all subscriptions share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) history: Arc<History>,
    pub(super) patcher: Arc<Patcher>,
    pub(super) metrics: Arc<Metrics>,
}

/// One client's events. It reads only as fast as the client takes events, so nothing piles up here.
pub struct Subscription {
    hub: Arc<Hub>,
    patcher: Arc<Patcher>,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    registration: Registration,
    kinds: Option<Kinds>,
    amended: bool,
    /// A client of amended events has been sent `CaughtUp`.
    caught_up: bool,
    stage: Stage,
    /// The epoch of the log that the follower's cursor belongs to.
    epoch: u64,
    reading: Option<Reading>,
    paging: Paging,
    /// The account that pages of the replay are counted in, if they are counted.
    account: Option<Account>,
    /// The memory share of the page that is being sent. It is released when the client asks for more.
    sending: Option<Box<Share>>,
    gauge: Gauge,
}

enum Stage {
    /// Either the reader has not started, or it is not known yet whether the cursor belongs to this log.
    Opening(Box<Request>),
    Following {
        follower: Follower,
        /// The greatest pruned id that the client was told of. `None` until its replay has read a page.
        pruned: Option<EventId>,
    },
    Ended,
}

/// What to do next.
enum Step {
    /// The output has something to send.
    Produced,
    Wait,
    Again,
    Ended(&'static str),
}

impl Subscription {
    pub(super) fn new(shared: Shared, request: Request) -> Self {
        let Shared { hub, history, patcher, metrics } = shared;
        Self {
            registration: hub.register(request.consumers.clone()),
            kinds: request.kinds.clone(),
            amended: request.amended,
            caught_up: false,
            stage: Stage::Opening(Box::new(request)),
            epoch: 0,
            reading: None,
            paging: Paging::new(source::REPLAY_PAGE),
            account: None,
            sending: None,
            gauge: Gauge::new(Arc::clone(&metrics)),
            history,
            hub,
            patcher,
            metrics,
        }
    }

    /// Sets the caller in whose name the table is read.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts the pages of a replay in this account, from before they are read until the client has taken
    /// them. While the account has no memory left, the replay waits, and the client gets heartbeats.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// Does as much as possible without waiting.
    fn step(&mut self, out: &mut impl Output) -> Step {
        let hub = Arc::clone(&self.hub);
        let state = hub.state();
        if state.closing {
            return Step::Ended("shutdown");
        }
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening(request) => self.open(&state, request, out),
            Stage::Following { follower, pruned } => self.follow(&state, follower, pruned, out),
            Stage::Ended => Step::Ended(CLIENT),
        }
    }

    /// Waits for a page of the table or for new events.
    async fn wait(&mut self, out: &mut impl Output) -> Step {
        let reading = async {
            match &mut self.reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        select! {
            read = reading => {
                self.reading = None;
                self.take(read, out)
            }
            () = self.registration.woken() => Step::Again,
        }
    }

    /// Joins the recent events, once the reader has started and the cursor is known to belong to this log.
    fn open(&mut self, state: &State, request: Box<Request>, out: &mut impl Output) -> Step {
        let started = state.epoch > 0;
        let head = state.recent.position().head;
        let ahead = request.cursor.as_ref().is_some_and(|cursor| cursor.head() > head);
        if started && !ahead {
            return self.join(state, &request, out);
        }
        if started && self.reading.is_none() {
            self.read(Wanted::Drawn);
        }
        self.stage = Stage::Opening(request);
        Step::Wait
    }

    /// Joins the recent events. A client without a cursor is sent the current one before anything else.
    fn join(&mut self, state: &State, request: &Request, out: &mut impl Output) -> Step {
        let resumed = request.cursor.is_some();
        let consumers = request.consumers.clone();
        let mut follower = Follower::join(&state.recent, consumers, request.cursor.clone());
        if self.amended {
            follower = follower.from_table(&state.recent);
        }
        let replaying = follower.wants().is_some();
        if resumed && !replaying {
            self.metrics.resumed_from_recent.inc();
        }
        if !resumed {
            out.signal(Signal::Cursor, Some(follower.cursor()));
        }
        self.epoch = state.epoch;
        self.begin(follower);
        if resumed { Step::Again } else { Step::Produced }
    }

    /// Starts to follow, from the table or live.
    fn begin(&mut self, follower: Follower) {
        let replaying = follower.wants().is_some();
        if replaying {
            self.metrics.replays.inc();
        }
        self.gauge.set(if replaying { "replaying" } else { "live" });
        self.stage = Stage::Following { follower, pruned: None };
    }

    fn follow(
        &mut self,
        state: &State,
        mut follower: Follower,
        pruned: Option<EventId>,
        out: &mut impl Output,
    ) -> Step {
        if state.epoch != self.epoch {
            return self.restart(state, follower, out);
        }
        if let Some(scan) = follower.wants() {
            if self.reading.is_none() {
                self.read(self.wanted(scan.clone(), &follower));
            }
            self.stage = Stage::Following { follower, pruned };
            return Step::Wait;
        }
        let mut chunk = Chunk::new(self.kinds.as_ref(), out);
        let live = follower.live(&state.recent, |entry, cursor| {
            chunk.add(entry.frame.kind(), |out| out.shared(&entry.frame, cursor))
        });
        self.metrics.deliveries.inc_by(chunk.events());
        self.after_live(&state.recent, follower, live, out)
    }

    fn after_live(
        &mut self,
        recent: &Recent,
        mut follower: Follower,
        live: Live,
        out: &mut impl Output,
    ) -> Step {
        if live == Live::Lagging {
            self.metrics.slow_clients.inc();
            follower.rejoin(recent);
            self.begin(follower);
            return Step::Again;
        }
        if live == Live::ToRead {
            self.stage = Stage::Following { follower, pruned: None };
            return Step::Again;
        }
        if live == Live::CaughtUp {
            self.gauge.set("live");
        }
        // A follower that reads everything from the table catches up after each new event, so it reports
        // that only once.
        if live == Live::CaughtUp && !(self.amended && mem::replace(&mut self.caught_up, true)) {
            out.signal(Signal::CaughtUp, Some(follower.cursor()));
        }
        self.stage = Stage::Following { follower, pruned: None };
        match live {
            _ if !out.is_empty() => Step::Produced,
            Live::Stopped => Step::Again,
            _ => Step::Wait,
        }
    }

    /// The log was replaced. Sends a gap to the client, and continues where the new log differs.
    fn restart(&mut self, state: &State, mut follower: Follower, out: &mut impl Output) -> Step {
        self.epoch = state.epoch;
        self.reading = None;
        let from = follower.cursor().head();
        follower.restart(&state.recent, state.origin);
        let to = follower.cursor().head();
        out.signal(Signal::Gap { from, to, reason: GapReason::Reset }, Some(follower.cursor()));
        self.begin(follower);
        Step::Produced
    }

    fn wanted(&self, scan: Scan, follower: &Follower) -> Wanted {
        let consumers = follower.consumers().into();
        if let Scan::Reach(snapshot) = scan {
            return Wanted::Reach { snapshot, consumers };
        }
        let patcher = self.amended.then(|| Arc::clone(&self.patcher));
        let account = self.account.clone();
        Wanted::Page { scan, consumers, paging: self.paging, patcher, account }
    }

    fn read(&mut self, wanted: Wanted) {
        self.reading = Some(source::read(Arc::clone(&self.history), wanted));
    }

    /// Starts to read the next page, while the current one is encoded and sent.
    fn read_ahead(&self, scan: Scan, follower: &Follower) -> Reading {
        let history = Arc::clone(&self.history);
        source::read_ahead(history, self.wanted(scan, follower))
    }

    /// Takes the result of a read.
    fn take(&mut self, read: Read, out: &mut impl Output) -> Step {
        match (read, mem::replace(&mut self.stage, Stage::Ended)) {
            (Read::Drawn(drawn), Stage::Opening(request)) => self.take_drawn(drawn, &request, out),
            (Read::Page(read), Stage::Following { follower, pruned }) => {
                self.take_page(read, pruned, follower, out)
            }
            (Read::Reach(read), Stage::Following { mut follower, .. }) => {
                let SnapshotReach { first_owed, seen_upto, pruned, pruned_since } = read;
                follower.reach(Reach { first_owed, seen_upto });
                // What had been pruned before the state was read, the client does not lack.
                let pruned = (!pruned_since).then_some(pruned);
                self.stage = Stage::Following { follower, pruned };
                Step::Again
            }
            (_, stage) => {
                self.stage = stage;
                Step::Again
            }
        }
    }

    /// Joins a client whose cursor is ahead of this gateway. Another instance may have been faster. But if
    /// the cursor's id was never drawn from the sequence, the cursor belongs to a log that was replaced.
    fn take_drawn(
        &mut self,
        drawn: Option<EventId>,
        request: &Request,
        out: &mut impl Output,
    ) -> Step {
        let hub = Arc::clone(&self.hub);
        let state = hub.state();
        let from = request.cursor.as_ref().map_or(EventId::ZERO, Cursor::head);
        if drawn.is_none_or(|drawn| from <= drawn) {
            return self.join(&state, request, out);
        }
        let follower = Follower::join(&state.recent, request.consumers.clone(), None);
        let cursor = Some(follower.cursor());
        let to = follower.cursor().head();
        out.signal(Signal::Gap { from, to, reason: GapReason::Reset }, cursor);
        out.signal(Signal::CaughtUp, cursor);
        self.epoch = state.epoch;
        self.begin(follower);
        Step::Produced
    }

    /// Takes a page of a replay. If events were pruned before the client could read them, it is sent a gap:
    /// with the first page, and again whenever more were pruned in the meantime.
    fn take_page(
        &mut self,
        read: ReadPage,
        known: Option<EventId>,
        mut follower: Follower,
        out: &mut impl Output,
    ) -> Step {
        let ReadPage { page, pruned, corrections, share } = read;
        self.paging.learn(&page);
        if self.paging.are_small() {
            let next = follower.wants_after(&page.rows, page.last);
            self.reading = next.map(|scan| self.read_ahead(scan, &follower));
        }
        let from = follower.complete_upto();
        if pruned > from && known.is_none_or(|known| pruned > known) {
            let gap = Signal::Gap { from, to: pruned, reason: GapReason::Pruned };
            out.signal(gap, Some(follower.cursor()));
        }
        let mut chunk = Chunk::new(self.kinds.as_ref(), out);
        follower.page(&page.rows, page.last, |row, cursor| {
            let _ = chunk.add(row.kind().as_bytes(), |out| {
                let data = frame::data(row.amends(), row.payload());
                let (data, unpatchable) = amended::shown(&corrections, row.id(), data);
                out.event(row.id(), cursor, row.kind(), &data);
                if let Some(amendment) = unpatchable {
                    out.signal(Signal::Unamended { event: row.id(), amendment }, Some(cursor));
                }
            });
        });
        self.metrics.replayed_rows.inc_by(page.rows.len() as u64);
        self.metrics.deliveries.inc_by(chunk.events());
        self.stage = Stage::Following { follower, pruned: Some(pruned) };
        if out.is_empty() {
            return Step::Again;
        }
        self.sending = share.map(|mut share| {
            share.settle(out.len());
            share.into()
        });
        Step::Produced
    }
}

impl Source for Subscription {
    async fn next(&mut self, out: &mut impl Output) -> Progress {
        self.sending = None;
        loop {
            let step = match self.step(out) {
                Step::Wait => self.wait(out).await,
                step => step,
            };
            match step {
                Step::Produced => return Progress::Produced,
                Step::Ended(reason) => return Progress::Ended(reason),
                Step::Again | Step::Wait => {}
            }
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        match &self.stage {
            Stage::Following { follower, .. } => Some(follower.cursor().clone()),
            Stage::Opening(request) => request.cursor.clone(),
            Stage::Ended => None,
        }
    }

    fn note_end(&mut self, reason: &'static str) {
        self.gauge.ended = reason;
    }
}
