//! A simulated gateway. Like `tail` and `live`, it executes the decisions of the shipped reader, on a simulated
//! database, and publishes into the shipped hub.

use std::{
    cell::Cell,
    collections::HashSet,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use event_piper::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    item::frame::{Encoder, Frame},
    live::{
        hub::Hub,
        recent::{HistoryPage, Reach},
    },
    order::Hold,
    reader::{Origin, Publication, Reader, SafetyPollResult, Step},
};

use super::world::{Row, World};

pub(super) fn consumer(at: usize) -> ConsumerId {
    ["a", "b", "c"][at].parse().unwrap()
}

pub(super) fn kind(at: usize) -> &'static str {
    ["created", "changed", "ended"][at]
}

pub(super) struct Gateway {
    which: usize,
    reader: Reader<Row>,
    pub(super) hub: Arc<Hub>,
    /// The number of the log that its hub has, and of the log to which the current query was sent.
    pub(super) log: Rc<Cell<usize>>,
    asked_in: usize,
    /// The last row of its log that it has read, and the last one that it found when it last checked whether the
    /// log was replaced.
    last_read: Option<Row>,
    last_known: Option<(EventId, Xid)>,
    doing: Doing,
    pub(super) next_at: Instant,
    pub(super) page: usize,
    /// The epoch and the position of the warm-up, while it is not complete.
    warming_up: Option<(u64, EventId)>,
    warm_up_at: Instant,
    clean_as_of: usize,
    pub(super) started: bool,
}

enum Doing {
    /// It is idle.
    Nothing,
    /// A query is in transit to the database.
    Asking(Step<Row>),
    /// The result is in transit from the database.
    Answer(Answer),
    /// It waits for a time or a notification.
    Waiting,
}

enum Answer {
    Snapshot(usize),
    Newest(EventId),
    Writers(Vec<Xid>),
    Ended(Vec<Xid>),
    Tail(Vec<Row>, bool),
    Late(Vec<Row>, EventId),
    Passed(Vec<Row>),
    SafetyPoll(SafetyPollResult),
    Kept(bool),
    Slept(bool),
    Nothing,
}

impl Gateway {
    pub(super) fn start(world: &mut World, which: usize, hold: Hold) -> Self {
        world.mark_restored();
        let capacity = [0, 500, 2_000, 100_000][world.random.usize(0..4)];
        let mut gateway = Self {
            which,
            reader: Reader::new(hold, world.now),
            hub: Arc::new(Hub::new(capacity, Arc::default())),
            log: Rc::new(Cell::new(world.log)),
            asked_in: world.log,
            last_read: None,
            last_known: None,
            doing: Doing::Nothing,
            next_at: world.now,
            page: world.random.usize(1..20),
            warming_up: None,
            warm_up_at: world.now,
            clean_as_of: 0,
            started: false,
        };
        gateway.connect(world);
        gateway
    }

    /// Loses the connection, and opens another one.
    pub(super) fn reconnect(&mut self, world: &mut World) {
        world.disconnect(self.which);
        self.connect(world);
    }

    fn connect(&mut self, world: &mut World) {
        world.readers.insert(self.which);
        let keeper = world.try_keep(self.which);
        self.reader.connected(keeper, world.now);
        self.doing = Doing::Nothing;
        self.next_at = world.now + world.random_duration(1_000);
    }

    /// The time until which the gateway waits, if it does.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        matches!(self.doing, Doing::Waiting).then_some(self.next_at)
    }

    /// The time of its next step.
    pub(super) fn due(&self, world: &World) -> Instant {
        match (&self.doing, world.heard[self.which]) {
            (Doing::Waiting, Some(heard)) => self.next_at.min(heard),
            _ => self.next_at,
        }
    }

    pub(super) fn act(&mut self, world: &mut World) {
        let now = world.now;
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => self.go_on(world),
            Doing::Asking(step) => {
                self.doing = Doing::Answer(self.ask(step, world));
                self.next_at = now + world.random_duration(world.latency);
            }
            Doing::Answer(answer) => {
                self.take(answer, now);
                self.go_on(world);
            }
            Doing::Waiting => {
                let heard = world.heard[self.which].take_if(|heard| *heard <= now).is_some();
                self.reader.woken(heard, now);
                self.go_on(world);
            }
        }
    }

    /// Executes steps that need no query, up to the next query or wait.
    fn go_on(&mut self, world: &mut World) {
        loop {
            match self.reader.next(world.now) {
                Step::Publish(publication) => self.publish(&publication, world),
                Step::Restart { position, origin, .. } => {
                    let epoch = self.hub.restart_after(origin, &position, String::new());
                    self.warming_up = Some((epoch, position.head));
                    self.started = true;
                    self.log.set(world.log);
                    (self.last_read, self.last_known) = (None, None);
                    let open = position.late.as_slice().iter().map(|late| late.xid.get());
                    world.open_at_start.extend(open);
                    self.check_horizon(world);
                }
                Step::CheckErased => self.check_erased(world),
                Step::PollEnded | Step::Unannounced | Step::Replaced { .. } => {}
                Step::Pause(pause) => {
                    self.doing = Doing::Waiting;
                    self.next_at = world.now + pause;
                    return;
                }
                Step::Listen(until) => {
                    self.doing = Doing::Waiting;
                    self.next_at = until;
                    return;
                }
                step => {
                    self.doing = Doing::Asking(step);
                    self.next_at = world.now + world.random_duration(world.latency);
                    return;
                }
            }
        }
    }

    /// Executes a query now.
    fn ask(&mut self, step: Step<Row>, world: &mut World) -> Answer {
        let all = EventId::new(i64::MAX);
        self.asked_in = world.log;
        match step {
            Step::Snapshot => Answer::Snapshot(world.erased.len()),
            Step::Newest => Answer::Newest(world.newest().max(world.pruned_upto())),
            Step::Writers => Answer::Writers(world.writers()),
            Step::Ended(xids) => Answer::Ended(world.ended(&xids)),
            Step::Tail { after } => {
                if world.heard[self.which].take_if(|heard| *heard <= world.now).is_some() {
                    self.reader.rang();
                }
                let (rows, last) = world.read((after, all), self.page, |_| true);
                Answer::Tail(rows, last)
            }
            Step::Late(range) => {
                let its = |row: &Row| range.transactions.iter().any(|it| it.xid == row.xid());
                let (rows, last) = world.read((range.after, range.upto), self.page, its);
                let upto = rows.last().filter(|_| !last).map_or(range.upto, Logged::id);
                Answer::Late(rows, upto)
            }
            Step::Passed(passed) => {
                let there =
                    |row: &Row| passed.iter().any(|it| (it.from..=it.to).contains(&row.id()));
                Answer::Passed(world.read((EventId::ZERO, all), 500, there).0)
            }
            Step::SafetyPoll { known } => {
                self.judge(world);
                let found = known.iter().filter_map(|id| world.rows.get(&id.get()));
                let found = found.map(|row| (row.id(), row.xid())).collect();
                let (drawn, others) = (Some(world.drawn()), world.readers.len() > 1);
                Answer::SafetyPoll(SafetyPollResult { drawn, others, found, ringing_waits: false })
            }
            Step::TryKeep => Answer::Kept(world.try_keep(self.which)),
            Step::TrySleep => Answer::Slept(world.try_sleep(self.which)),
            Step::Wake => {
                world.bell = None;
                Answer::Nothing
            }
            Step::Ring => {
                world.notify(Some(self.which));
                Answer::Nothing
            }
            step => unreachable!("{step:?} is not a query"),
        }
    }

    fn take(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Snapshot(at) => {
                self.clean_as_of = at;
                self.reader.snapshot(String::new());
            }
            Answer::Newest(newest) => self.reader.newest(newest, now),
            Answer::Writers(writers) => self.reader.writers(writers, now),
            Answer::Ended(ended) => self.reader.ended(&ended, now),
            Answer::Tail(rows, last) => {
                let of_its_log = rows.last().filter(|_| self.asked_in == self.log.get());
                self.last_read = of_its_log.copied().max(self.last_read);
                self.reader.tail(rows, last, now);
            }
            Answer::Late(rows, upto) => self.reader.late_rows(rows, upto, now),
            Answer::Passed(rows) => self.reader.passed(rows),
            Answer::SafetyPoll(polled) => {
                if self.asked_in == self.log.get() {
                    self.last_known = polled.found.last().copied().or(self.last_known);
                }
                self.reader.safety_polled(&polled, now);
            }
            Answer::Kept(keeper) => self.reader.kept(keeper, now),
            Answer::Slept(asleep) => self.reader.slept(asleep, now),
            Answer::Nothing => {}
        }
    }

    fn publish(&self, publication: &Publication<Row>, world: &mut World) {
        let Publication { rows, position, origin } = publication;
        let found = *origin == Origin::Unexpected && self.is_of(world);
        assert!(!found, "{rows:?} were skipped as dead");
        self.hub.publish(|recent| {
            for row in rows {
                let after = publication.position_after(row);
                recent.publish(&consumer(row.consumer), frame(row), &after, false);
            }
            recent.advance_to(position);
        });
        self.check_horizon(world);
    }

    /// Whether its hub has the current log.
    pub(super) fn is_of(&self, world: &World) -> bool {
        self.started && self.log.get() == world.log
    }

    /// Whether the gateway could tell this log from another one.
    pub(super) fn knows(&self, world: &World) -> bool {
        self.is_of(world) && self.last_known.is_some()
    }

    /// Checks whether the gateway can notice that the log was replaced.
    fn judge(&self, world: &mut World) {
        if self.is_of(world) {
            return;
        }
        let read = self.last_read.map_or(EventId::ZERO, |row| row.id());
        let there = |(id, _): (EventId, Xid)| Some(world.rows.get(&id.get())?.xid());
        let same = self.last_known.is_none_or(|it| there(it).is_none_or(|xid| xid == it.1));
        if !same {
            // The gateway notices it now, and starts again.
        } else if self.head().max(read) <= world.same_upto {
            // Everything that it has read is in this log, or was only in the other log.
            self.log.set(world.log);
        } else if self.head() <= world.drawn() {
            world.unknowable = true;
        }
    }

    /// The head of the reader, published or not.
    pub(super) fn head(&self) -> EventId {
        self.reader.position().map_or(EventId::ZERO, |position| position.head)
    }

    /// Checks the horizon, on which strict readers rely: no open transaction has an id at or before it.
    fn check_horizon(&self, world: &mut World) {
        let position = self.hub.state().recent.position().clone();
        let horizon = position.horizon();
        world.passed[self.which] = (position.head, horizon);
        world.late_ever.extend(position.late.as_slice().iter().map(|late| late.xid.get()));
        let rows = world.open.values().flat_map(|open| &open.rows);
        let open = rows.into_iter().find(|row| row.id() <= horizon);
        assert!(
            open.is_none() || !self.is_of(world),
            "{open:?} can still appear at or before {horizon}"
        );
    }

    fn check_erased(&mut self, world: &World) {
        let whose: HashSet<ConsumerId> =
            world.erased[self.clean_as_of..].iter().map(|&at| consumer(at)).collect();
        self.clean_as_of = world.erased.len();
        if !whose.is_empty() {
            self.hub.state().recent.invalidate(&whose);
        }
    }

    /// Warms up memory like `live::warm_up`, a page at a time.
    pub(super) fn warm_up(&mut self, world: &mut World) {
        if world.now < self.warm_up_at {
            return;
        }
        self.warm_up_at = world.now + world.random_duration(2_000);
        let Some((epoch, upto)) = self.warming_up.take() else { return };
        let rows: Vec<Row> =
            world.rows.range(..=upto.get()).rev().map(|(_, row)| *row).take(self.page).collect();
        let last = rows.len() < self.page;
        let Reach { after, next } = Reach::of(&rows, last, upto, world.pruned_upto());
        let kept = rows.iter().filter(|row| row.id() > after);
        let rows = kept.map(|row| (consumer(row.consumer), frame(row))).collect();
        let wants_more = self.hub.state().warm_up(epoch, HistoryPage { upto, after, rows });
        self.warming_up = next.filter(|_| wants_more).map(|next| (epoch, next));
    }
}

fn frame(row: &Row) -> Frame {
    Encoder::default().encode(row, kind(row.kind), row.payload().as_bytes())
}

/// The time that a live event may take in addition to the hold: several queries, the pause between polls, a
/// notification, and the time for which a safety poll that found rows waits for a notification.
pub(super) const SLACK: Duration = Duration::from_millis(110);
