//! A simulated client that connects and disconnects, with the shipped follower and cursor.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Instant,
};

use event_piper::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    item::output::Output,
    live::{
        follower::{Follower, Live, Reach, Scan},
        hub::{Hub, Registration},
        subscription::{Chunk, Kinds},
    },
    snapshot::Snapshot,
};

use super::{
    gateway::{Gateway, consumer, kind},
    ledger::{Got, Ledger},
    received::{Received, scanned},
    world::{CONSUMERS, KINDS, Row, World},
};

pub(super) struct Client {
    at: usize,
    follows: Vec<usize>,
    /// The types that the client requests; `None`: all.
    kinds: Option<Vec<usize>>,
    filter: Option<Kinds>,
    pub(super) ledger: Ledger,
    cursor: Option<String>,
    /// How often rows had been pruned when it took its snapshot.
    prunings: usize,
    /// The log that the cursor is of, as far as can be known.
    log: Option<usize>,
    pub(super) connection: Option<Connection>,
    pub(super) reaction: Reaction,
    /// The maximum number of rows in its pages.
    page: usize,
    notified: bool,
    now: Instant,
    random: fastrand::Rng,
}

/// How a client reacts to notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Reads some time after it is notified.
    Slow,
    /// Reads immediately when it is notified, inside the call that notifies it.
    Eager,
    /// The same. It is live before the first event, in a schedule without faults, so the delay of each event has a
    /// known limit.
    Probe,
}

/// Where a client begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    Now,
    AtTheBeginning,
    /// It has read the table, and begins with the snapshot of that.
    BehindItsState,
}

pub(super) struct Connection {
    pub(super) which: usize,
    hub: Arc<Hub>,
    /// The log of the hub, as the follower knows it (`epoch`), and as the model knows it: now, and when the follower
    /// joined.
    epoch: u64,
    log: Rc<Cell<usize>>,
    joined: usize,
    registration: Registration,
    follower: Follower,
    /// How far its snapshot reaches, and what it knows to be pruned: an answer that is on its way.
    reach: Option<(Reach, Option<EventId>)>,
    /// A page that is on its way.
    page: Option<(Vec<Row>, bool, EventId)>,
    pruned: Option<EventId>,
}

thread_local! {
    /// All clients by number, so that a waker can find its client.
    static CLIENTS: RefCell<Vec<Rc<RefCell<Client>>>> = const { RefCell::new(Vec::new()) };
}

struct NotifyClient(usize);

impl Wake for NotifyClient {
    fn wake(self: Arc<Self>) {
        let client = CLIENTS.with_borrow(|clients| clients.get(self.0).cloned());
        if let Some(client) = client {
            client.borrow_mut().on_notify();
        }
    }
}

pub(super) fn forget_all() {
    CLIENTS.take();
}

/// Returns random numbers below `many`, at least one.
fn some_of(random: &mut fastrand::Rng, many: usize) -> Vec<usize> {
    let some: Vec<usize> = (0..many).filter(|_| random.bool()).collect();
    if some.is_empty() { vec![random.usize(0..many)] } else { some }
}

impl Client {
    pub(super) fn new(world: &mut World, begins: Begins) -> Self {
        let follows = some_of(&mut world.random, CONSUMERS);
        let kinds = world.chance(0.4).then(|| some_of(&mut world.random, KINDS));
        let mut ledger = Ledger::default();
        // Rows of another cluster that are not marked yet: a snapshot does not describe this table.
        let snapshot: Snapshot = world.snapshot().parse().unwrap();
        let is_described = world.rows.values().all(|row| snapshot.sees(row.xid()));
        let begins = if is_described { begins } else { Begins::Now };
        let cursor = match begins {
            Begins::Now => None,
            Begins::AtTheBeginning => Some("0".into()),
            Begins::BehindItsState => {
                let visible: BTreeSet<i64> =
                    world.rows.keys().chain(world.pruned.keys()).copied().collect();
                let state = world.rows.keys().copied().collect();
                ledger.begin(visible, state);
                Some(world.snapshot())
            }
        };
        let filter = kinds.as_ref().map(|kinds| kinds.iter().map(|&at| kind(at)).collect());
        Self {
            at: usize::MAX,
            follows,
            kinds,
            filter,
            ledger,
            cursor,
            prunings: world.prunings,
            log: (begins == Begins::BehindItsState).then_some(world.log),
            connection: None,
            reaction: if world.chance(0.7) { Reaction::Eager } else { Reaction::Slow },
            page: if world.chance(0.8) { 5 } else { 50 },
            notified: false,
            now: world.now,
            random: world.random.fork(),
        }
    }

    /// A client of all consumers, for which delays are checked.
    pub(super) fn probe(world: &mut World) -> Self {
        let (follows, reaction) = ((0..CONSUMERS).collect(), Reaction::Probe);
        Self {
            follows,
            kinds: None,
            filter: None,
            reaction,
            page: 500,
            ..Self::new(world, Begins::Now)
        }
    }

    /// Connects for the first time.
    pub(super) fn join(
        mut self,
        which: usize,
        gateway: &Gateway,
        world: &World,
    ) -> Rc<RefCell<Self>> {
        self.at = CLIENTS.with_borrow(Vec::len);
        let client = Rc::new(RefCell::new(self));
        CLIENTS.with_borrow_mut(|clients| clients.push(Rc::clone(&client)));
        client.borrow_mut().connect(which, gateway, world);
        client
    }

    /// Whether the client follows this row.
    pub(super) fn wants(&self, row: &Row) -> bool {
        let kinds = self.kinds.as_ref();
        self.follows.contains(&row.consumer) && kinds.is_none_or(|it| it.contains(&row.kind))
    }

    /// Connects to a gateway. Does nothing if the gateway has not started.
    pub(super) fn connect(&mut self, which: usize, gateway: &Gateway, world: &World) {
        if !gateway.started {
            return;
        }
        let (hub, log) = (Arc::clone(&gateway.hub), Rc::clone(&gateway.log));
        let consumers: Box<[ConsumerId]> = self.follows.iter().map(|&at| consumer(at)).collect();
        let registration = hub.register(consumers.clone());
        let state = hub.state();
        let (epoch, head) = (state.epoch, state.recent.position().head);
        // As `live::subscription` does: a cursor beyond all drawn ids belongs to a log that was replaced.
        let cursor = self.cursor.as_ref().map(|text| text.parse::<Cursor>().unwrap());
        let cursor = cursor.filter(|it| it.head() <= head || it.head() <= world.drawn());
        // A snapshot of the future is refused, and one of another log means nothing: the client reads its
        // state again.
        let replaced = self.log.is_some_and(|it| it != log.get());
        let is_usable = |snapshot: &Snapshot| !replaced && snapshot.xmax().get() <= world.next_xid;
        let cursor = cursor.filter(|it| it.snapshot().is_none_or(|it| is_usable(it)));
        let at = cursor.as_ref().map(Cursor::head);
        let follower = Follower::join(&state.recent, consumers, cursor);
        drop(state);
        match at {
            None => self.begin(follower.cursor(), world),
            Some(head) if self.log.is_some_and(|it| it != log.get()) => {
                self.ledger.go_on_behind(head.get());
            }
            Some(_) => {}
        }
        self.cursor = Some(follower.cursor().to_string());
        let (joined, reach, page, pruned) = (log.get(), None, None, None);
        let connection = Connection {
            which,
            hub,
            epoch,
            log,
            joined,
            registration,
            follower,
            reach,
            page,
            pruned,
        };
        self.connection = Some(connection);
        self.notified = true;
        self.listen();
    }

    /// Starts with the next event, for the first time or because the log was replaced.
    fn begin(&mut self, cursor: &Cursor, world: &World) {
        assert!(
            self.cursor.is_none() || world.log > 0,
            "the cursor {:?} belongs to this log",
            self.cursor
        );
        let visible = world.rows.keys().chain(world.pruned.keys()).copied().collect();
        let delivered = world.rows.values().filter(|row| !cursor.admits(*row));
        let delivered: BTreeSet<i64> = delivered.map(|row| row.id).collect();
        self.ledger.begin(visible, delivered);
    }

    /// Disconnects if this gateway has stopped.
    pub(super) fn leave(&mut self, which: usize) {
        if self.connection.as_ref().is_some_and(|it| it.which == which) {
            self.disconnect();
        }
    }

    pub(super) fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // If the client does not know yet that the log was replaced, its cursor belongs to neither log.
            let knows = connection.epoch == connection.hub.state().epoch;
            self.log = Some(if knows { connection.log.get() } else { usize::MAX });
        }
    }

    /// Registers for notifications. Reads at once if it was notified in the meantime and is eager.
    fn listen(&mut self) {
        let waker = Waker::from(Arc::new(NotifyClient(self.at)));
        while let Some(connection) = &self.connection {
            let notified =
                pin!(connection.registration.woken()).poll(&mut Context::from_waker(&waker));
            if notified.is_pending() {
                return;
            }
            self.notified = true;
            if self.reaction != Reaction::Slow {
                self.look();
            }
        }
    }

    fn on_notify(&mut self) {
        self.listen();
    }

    /// Does the next step, if there is one.
    pub(super) fn act(&mut self, world: &World) {
        self.now = world.now;
        let Some(connection) = &mut self.connection else { return };
        if let Some((rows, last, pruned)) = connection.page.take() {
            self.take_page(&rows, last, pruned, world);
        } else if connection.was_replaced() {
            self.restart();
        } else if let Some((reach, pruned)) = connection.reach.take() {
            connection.follower.reach(reach);
            connection.pruned = pruned;
            self.notified = true;
        } else if let Some(Scan::Reach(snapshot)) = connection.follower.wants() {
            let owed = |row: &&Row| row.xid() >= snapshot.xmax();
            let first_owed = world.rows.values().find(owed).map(Row::id);
            let pruned = (world.prunings == self.prunings).then(|| world.pruned_upto());
            connection.reach = Some((Reach { first_owed, seen_upto: world.newest() }, pruned));
        } else if let Some(scan) = connection.follower.wants() {
            let limit = if self.reaction == Reaction::Probe {
                self.page
            } else {
                self.random.usize(1..self.page)
            };
            let (rows, last) = scanned(world, connection.follower.consumers(), scan, limit);
            connection.page = Some((rows, last, world.pruned_upto()));
        } else if self.notified {
            self.look();
        }
    }

    pub(super) fn tick(&mut self, world: &World) {
        self.now = world.now;
        let Some(connection) = &mut self.connection else { return };
        if connection.joined != connection.log.get() && !connection.was_replaced() {
            if connection.follower.cursor().snapshot().is_some() {
                // Transactions of both have the same ids, and nobody can know: it reads its state again.
                self.cursor = None;
                return self.disconnect();
            }
            // To its gateway it is the same log. To the client, where that came from another one, not.
            connection.joined = connection.log.get();
            let head = connection.follower.cursor().head();
            if head > world.same_upto {
                self.ledger.go_on_behind(head.get());
            }
        }
    }

    /// As `live::subscription` does.
    fn restart(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let state = connection.hub.state();
        (connection.epoch, connection.joined) = (state.epoch, connection.log.get());
        let before = connection.follower.cursor().clone();
        connection.follower.restart(&state.recent, state.origin);
        drop(state);
        (connection.reach, connection.page, connection.pruned) = (None, None, None);
        let cursor = connection.follower.cursor();
        if before.snapshot().is_some() {
            self.ledger.tell_gap(before.head().get(), cursor.head().get());
            self.ledger.go_on_behind(cursor.head().get());
        }
        self.ledger.forget_above(cursor.head().get());
        self.cursor = Some(cursor.to_string());
        self.notified = true;
    }

    /// As `live::subscription` does.
    fn take_page(&mut self, rows: &[Row], last: bool, pruned: EventId, world: &World) {
        let Some(connection) = &mut self.connection else { return };
        let from = connection.follower.complete_upto();
        if pruned > from && connection.pruned.is_none_or(|known| pruned > known) {
            self.ledger.tell_gap(from.get(), pruned.get());
        }
        connection.pruned = Some(pruned);
        let mut received = Received::default();
        let mut chunk = Chunk::new(self.filter.as_ref(), &mut received);
        connection.follower.page(rows, last, |row, cursor| {
            let _ = chunk.add(kind(row.kind).as_bytes(), |out| {
                out.event(row.id(), cursor, kind(row.kind), row.payload().as_bytes());
            });
        });
        let cursor = connection.follower.cursor();
        let passed = rows.iter().filter(|row| !world.late_ever.contains(&row.xid));
        let passed = passed.map(Row::id).max().unwrap_or(EventId::ZERO);
        assert!(
            cursor.head() >= passed,
            "the cursor {cursor} must advance to {passed}, regardless of types"
        );
        let beat = self.random.u8(0..4) == 0;
        let at = beat.then(|| cursor.to_string());
        self.take(received, at);
        self.notified = true;
    }

    fn look(&mut self) {
        let patience = self.random.usize(1..8);
        let Some(connection) = &mut self.connection else { return };
        if connection.was_replaced() {
            return self.restart();
        }
        if connection.follower.wants().is_some() {
            return;
        }
        self.notified = false;
        let state = connection.hub.state();
        let mut received = Received {
            weight: Chunk::<Received>::MAX_BYTES.div_ceil(patience),
            ..Received::default()
        };
        let mut chunk = Chunk::new(self.filter.as_ref(), &mut received);
        let live = connection.follower.live(&state.recent, |entry, cursor| {
            chunk.add(entry.frame.kind(), |out| out.shared(&entry.frame, cursor))
        });
        if live == Live::Lagging {
            connection.follower.rejoin(&state.recent);
        }
        drop(state);
        connection.pruned = None;
        self.notified = matches!(live, Live::Stopped | Live::Lagging | Live::ToRead);
        let beats = matches!(live, Live::Drained | Live::CaughtUp) && self.random.bool();
        let at = beats.then(|| connection.follower.cursor().to_string());
        self.take(received, at);
        if live == Live::Stopped && self.reaction != Reaction::Slow {
            self.look();
        }
    }

    /// Records received events, and a heartbeat after them.
    fn take(&mut self, received: Received, beat: Option<String>) {
        for (id, [version, xid], cursor) in received.events {
            let (version, late) = (u32::try_from(version).unwrap(), cursor.contains('@'));
            self.ledger.got.push(Got { id: id.get(), xid, version, at: self.now, late });
            self.cursor = Some(cursor);
        }
        self.cursor = beat.or(self.cursor.take());
    }

    /// Hears a heartbeat; answers the gateway, and where it says that the client is.
    pub(super) fn beat(&mut self, world: &World) -> Option<(usize, EventId)> {
        self.look();
        if self.is_behind() {
            return None; // it fell behind the recent events, and reads from the table first
        }
        let connection = self.connection.as_ref()?;
        let cursor = connection.follower.cursor();
        // A row that is deleted before a reader has passed it keeps the snapshot until the next one comes.
        let released = cursor.snapshot().is_none() || world.has_deleted;
        assert!(released, "{cursor} is a plain cursor by now");
        Some((connection.which, cursor.head()))
    }

    pub(super) fn is_behind(&self) -> bool {
        let behind = |connection: &Connection| {
            let reads = connection.page.is_some() || connection.follower.wants().is_some();
            self.notified || reads || connection.was_replaced()
        };
        self.connection.as_ref().is_none_or(behind)
    }
}

impl Connection {
    fn was_replaced(&self) -> bool {
        self.hub.state().epoch != self.epoch
    }
}
