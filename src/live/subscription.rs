//! One client's events: what it missed first, then live.

mod chunk;
mod source;

use std::{mem, sync::Arc};

use tokio::select;

pub use self::chunk::{Chunk, Kinds};
use self::source::{Read, ReadPage, Reading, Wanted};
use super::{
    follower::{Follower, Live, Scan},
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
    metrics::{Metrics, Reason, State as Label},
    read::amended::{self, Patcher},
    store::{event_log::Paging, history::History},
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

/// What all subscriptions share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) history: Arc<History>,
    pub(super) patcher: Arc<Patcher>,
    pub(super) metrics: Arc<Metrics>,
}

/// One client's events. It waits for the client: nothing piles up here.
pub struct Subscription {
    hub: Arc<Hub>,
    patcher: Arc<Patcher>,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    registration: Registration,
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
    /// Room for the page that the client is being sent; it has taken it when it comes for more.
    sending: Option<Box<Share>>,
    gauge: Gauge,
}

enum Stage {
    /// The reader has not started, or it is being found out whether the cursor is of this log.
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
    /// Something was put out.
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

    /// Does what can be done without waiting.
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

    /// Waits for a page or for events.
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

    /// Joins the recent events, once the reader has started, and the cursor is known to be
    /// of this log.
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

    /// A client without a cursor of its own hears where the reader is, before anything else.
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

    /// Follows on, from the table or live.
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
        // Who reads all from the table catches up again and again.
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

    /// The log was replaced. The client is told, and goes on where it is another one.
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
        let patcher = self.amended.then(|| Arc::clone(&self.patcher));
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
    fn take(&mut self, read: Read, out: &mut impl Output) -> Step {
        match (read, mem::replace(&mut self.stage, Stage::Ended)) {
            (Read::Drawn(drawn), Stage::Opening(request)) => self.take_drawn(drawn, &request, out),
            (Read::Page(read), Stage::Following { follower, pruned }) => {
                self.take_page(read, pruned, follower, out)
            }
            (_, stage) => {
                self.stage = stage;
                Step::Again
            }
        }
    }

    /// The client's cursor is ahead of this gateway. Perhaps another instance was faster;
    /// if its id was never drawn, the cursor is of a log that is no more.
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

    /// Takes a page of a replay. What was pruned before the client could have it is told: at the
    /// first page, and again when more was pruned meanwhile.
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
            let next = follower.wants_behind(&page.rows, page.last);
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

/// Why a subscription ended that nobody ended here.
const CLIENT: &str = "client";

/// Counts a subscription in the state that it is in, and its end.
struct Gauge {
    metrics: Arc<Metrics>,
    state: &'static str,
    ended: &'static str,
}

impl Gauge {
    fn new(metrics: Arc<Metrics>) -> Self {
        let gauge = Self { metrics, state: "opening", ended: CLIENT };
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
        let subscriptions = &self.metrics.subscriptions;
        subscriptions.get_or_create(&Label { state: self.state }).inc_by(one);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.add(-1);
        let reason = Reason { reason: self.ended };
        self.metrics.disconnects.get_or_create(&reason).inc();
    }
}
