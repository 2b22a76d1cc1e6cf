//! A client that comes and goes, with the shipped follower and cursor.

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
    cursor::{Cursor, Mark},
    event::{EventId, Logged},
    item::{frame::Frame, output::Output, signal::Signal},
    live::{
        follower::{Follower, Live, Scan},
        hub::{Hub, Registration},
        subscription::{Chunk, Kinds},
    },
};

use super::{
    gateway::{Gateway, consumer, kind},
    ledger::{Got, Ledger},
    world::{CONSUMERS, KINDS, Row, World},
};

pub(super) struct Client {
    at: usize,
    follows: Vec<usize>,
    /// The types that it asks for; none: all.
    kinds: Option<Vec<usize>>,
    filter: Option<Kinds>,
    pub(super) ledger: Ledger,
    cursor: Option<String>,
    /// The log that the cursor is of, as far as can be known.
    log: Option<usize>,
    pub(super) connection: Option<Connection>,
    pub(super) manner: Manner,
    /// As many rows as its pages have.
    page: usize,
    told: bool,
    now: Instant,
    dice: fastrand::Rng,
}

/// How a client goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It looks at what it was told of some time later.
    Slow,
    /// It looks the moment that it is told, in the midst of whatever tells it.
    Eager,
    /// The same; it is live from before the first event on, and nothing fails: so it can be told
    /// how soon an event has to come.
    Probe,
}

pub(super) struct Connection {
    pub(super) which: usize,
    hub: Arc<Hub>,
    /// The log that the hub is of, as the follower knows it, and as the model does: now, and when
    /// the follower joined.
    epoch: u64,
    log: Rc<Cell<usize>>,
    joined: usize,
    registration: Registration,
    follower: Follower,
    /// A page that is on its way.
    page: Option<(Vec<Row>, bool, EventId)>,
    pruned: Option<EventId>,
}

thread_local! {
    /// Clients by their numbers: a waker has to be found from anywhere.
    static CLIENTS: RefCell<Vec<Rc<RefCell<Client>>>> = const { RefCell::new(Vec::new()) };
}

struct Told(usize);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let client = CLIENTS.with_borrow(|clients| clients.get(self.0).cloned());
        if let Some(client) = client {
            client.borrow_mut().hear();
        }
    }
}

pub(super) fn forget_all() {
    CLIENTS.take();
}

/// Some of so many, at least one.
fn some_of(dice: &mut fastrand::Rng, many: usize) -> Vec<usize> {
    let some: Vec<usize> = (0..many).filter(|_| dice.bool()).collect();
    if some.is_empty() { vec![dice.usize(0..many)] } else { some }
}

impl Client {
    pub(super) fn new(world: &mut World, from_beginning: bool) -> Self {
        let follows = some_of(&mut world.dice, CONSUMERS);
        let kinds = world.chance(0.4).then(|| some_of(&mut world.dice, KINDS));
        let filter = kinds.as_ref().map(|kinds| kinds.iter().map(|&at| kind(at)).collect());
        Self {
            at: usize::MAX,
            follows,
            kinds,
            filter,
            ledger: Ledger::default(),
            cursor: from_beginning.then(|| "0".into()),
            log: None,
            connection: None,
            manner: if world.chance(0.7) { Manner::Eager } else { Manner::Slow },
            page: if world.chance(0.8) { 5 } else { 50 },
            told: false,
            now: world.now,
            dice: world.dice.fork(),
        }
    }

    /// Everybody's client, which nothing may delay.
    pub(super) fn probe(world: &mut World) -> Self {
        let (follows, manner) = ((0..CONSUMERS).collect(), Manner::Probe);
        Self { follows, kinds: None, filter: None, manner, page: 500, ..Self::new(world, false) }
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

    /// Whether it asked for this row.
    pub(super) fn wants(&self, row: &Row) -> bool {
        let kinds = self.kinds.as_ref();
        self.follows.contains(&row.consumer) && kinds.is_none_or(|it| it.contains(&row.kind))
    }

    /// Nothing, where the gateway has not started.
    pub(super) fn connect(&mut self, which: usize, gateway: &Gateway, world: &World) {
        if !gateway.started {
            return;
        }
        let (hub, log) = (Arc::clone(&gateway.hub), Rc::clone(&gateway.log));
        let consumers: Box<[ConsumerId]> = self.follows.iter().map(|&at| consumer(at)).collect();
        let registration = hub.register(consumers.clone());
        let state = hub.state();
        let (epoch, head) = (state.epoch, state.recent.position().head);
        // As `live::subscription` does: what was never drawn is of a log that is no more.
        let cursor = self.cursor.as_ref().map(|text| text.parse::<Cursor>().unwrap());
        let cursor = cursor.filter(|it| it.head() <= head || it.head() <= world.drawn());
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
        let (joined, page, pruned) = (log.get(), None, None);
        let connection =
            Connection { which, hub, epoch, log, joined, registration, follower, page, pruned };
        self.connection = Some(connection);
        self.told = true;
        self.listen();
    }

    /// It follows from now on, for the first time or because its log is no more.
    fn begin(&mut self, cursor: &Cursor, world: &World) {
        assert!(self.cursor.is_none() || world.log > 0, "{:?} is of this log", self.cursor);
        let visible = world.rows.keys().chain(world.pruned.keys()).copied().collect();
        let delivered = world.rows.values().filter(|row| !cursor.admits(*row));
        let delivered: BTreeSet<i64> = delivered.map(|row| row.id).collect();
        self.ledger.begin(visible, delivered);
    }

    /// This gateway is gone.
    pub(super) fn leave(&mut self, which: usize) {
        if self.connection.as_ref().is_some_and(|it| it.which == which) {
            self.disconnect();
        }
    }

    pub(super) fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Who has not heard yet that the log was replaced has a cursor of neither.
            let heard = connection.epoch == connection.hub.state().epoch;
            self.log = Some(if heard { connection.log.get() } else { usize::MAX });
        }
    }

    /// Asks to be told; looks at once if it was told meanwhile, and is eager.
    fn listen(&mut self) {
        let waker = Waker::from(Arc::new(Told(self.at)));
        while let Some(connection) = &self.connection {
            let told = pin!(connection.registration.woken()).poll(&mut Context::from_waker(&waker));
            if told.is_pending() {
                return;
            }
            self.told = true;
            if self.manner != Manner::Slow {
                self.look();
            }
        }
    }

    fn hear(&mut self) {
        self.listen();
    }

    /// Does something, if there is anything to do.
    pub(super) fn act(&mut self, world: &World) {
        self.now = world.now;
        let Some(connection) = &mut self.connection else { return };
        if let Some((rows, last, pruned)) = connection.page.take() {
            self.take_page(&rows, last, pruned, world);
        } else if connection.was_replaced() {
            self.restart();
        } else if let Some(scan) = connection.follower.wants() {
            let limit = if self.manner == Manner::Probe {
                self.page
            } else {
                self.dice.usize(1..self.page)
            };
            let (rows, last) = scanned(world, connection.follower.consumers(), scan, limit);
            connection.page = Some((rows, last, world.pruned_upto()));
        } else if self.told {
            self.look();
        }
    }

    pub(super) fn tick(&mut self, world: &World) {
        self.now = world.now;
        let Some(connection) = &mut self.connection else { return };
        if connection.joined != connection.log.get() && !connection.was_replaced() {
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
        connection.follower.restart(&state.recent, state.origin);
        drop(state);
        (connection.page, connection.pruned) = (None, None);
        let cursor = connection.follower.cursor();
        self.ledger.forget_above(cursor.head().get());
        self.cursor = Some(cursor.to_string());
        self.told = true;
    }

    /// As `live::subscription` does.
    fn take_page(&mut self, rows: &[Row], last: bool, pruned: EventId, world: &World) {
        let Some(connection) = &mut self.connection else { return };
        let from = connection.follower.complete_upto();
        if pruned > from && connection.pruned.is_none_or(|known| pruned > known) {
            self.ledger.tell_gap(from.get(), pruned.get());
        }
        connection.pruned = Some(pruned);
        let mut heard = Heard::default();
        let mut chunk = Chunk::new(self.filter.as_ref(), &mut heard);
        connection.follower.page(rows, last, |row, cursor| {
            let _ = chunk.add(kind(row.kind).as_bytes(), |out| {
                out.event(row.id(), cursor, kind(row.kind), row.payload().as_bytes());
            });
        });
        let cursor = connection.follower.cursor();
        let passed = rows.iter().filter(|row| !world.late_ever.contains(&row.xid));
        let passed = passed.map(Row::id).max().unwrap_or(EventId::ZERO);
        assert!(cursor.head() >= passed, "{cursor} was to pass {passed}, whatever its type");
        let beat = self.dice.u8(0..4) == 0;
        let at = beat.then(|| cursor.to_string());
        self.take(heard, at);
        self.told = true;
    }

    fn look(&mut self) {
        let patience = self.dice.usize(1..8);
        let Some(connection) = &mut self.connection else { return };
        if connection.was_replaced() {
            return self.restart();
        }
        if connection.follower.wants().is_some() {
            return;
        }
        self.told = false;
        let state = connection.hub.state();
        let mut heard =
            Heard { weight: Chunk::<Heard>::BYTES.div_ceil(patience), ..Heard::default() };
        let mut chunk = Chunk::new(self.filter.as_ref(), &mut heard);
        let live = connection.follower.live(&state.recent, |entry, cursor| {
            chunk.add(entry.frame.kind(), |out| out.shared(&entry.frame, cursor))
        });
        if live == Live::Lagging {
            connection.follower.rejoin(&state.recent);
        }
        drop(state);
        connection.pruned = None;
        self.told = matches!(live, Live::Stopped | Live::Lagging | Live::ToRead);
        let beats = matches!(live, Live::Drained | Live::CaughtUp) && self.dice.bool();
        let at = beats.then(|| connection.follower.cursor().to_string());
        self.take(heard, at);
        if live == Live::Stopped && self.manner != Manner::Slow {
            self.look();
        }
    }

    /// Notes what came, and a heartbeat behind it.
    fn take(&mut self, heard: Heard, beat: Option<String>) {
        for (id, [version, xid], cursor) in heard.events {
            let (version, late) = (u32::try_from(version).unwrap(), cursor.contains('@'));
            self.ledger.got.push(Got { id: id.get(), xid, version, at: self.now, late });
            self.cursor = Some(cursor);
        }
        self.cursor = beat.or(self.cursor.take());
    }

    /// Hears a heartbeat; answers the gateway, and where it says that the client is.
    pub(super) fn beat(&mut self) -> Option<(usize, EventId)> {
        self.look();
        if self.is_behind() {
            return None; // it fell out of memory, and reads from the table first
        }
        let connection = self.connection.as_ref()?;
        Some((connection.which, connection.follower.cursor().head()))
    }

    pub(super) fn is_behind(&self) -> bool {
        let behind = |connection: &Connection| {
            let reads = connection.page.is_some() || connection.follower.wants().is_some();
            self.told || reads || connection.was_replaced()
        };
        self.connection.as_ref().is_none_or(behind)
    }
}

impl Connection {
    fn was_replaced(&self) -> bool {
        self.hub.state().epoch != self.epoch
    }
}

/// What comes at once: the events with what their payloads say, and their cursors.
#[derive(Default)]
struct Heard {
    events: Vec<(EventId, [u64; 2], String)>,
    /// So many bytes does each of them seem to have.
    weight: usize,
}

impl Output for Heard {
    fn shared(&mut self, frame: &Frame, cursor: &Cursor) {
        let bytes = frame.bytes_at(cursor);
        let text = std::str::from_utf8(&bytes).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        self.event(frame.id(), cursor, "", data.as_bytes());
    }

    fn event(&mut self, id: EventId, cursor: &Cursor, _: &str, data: &[u8]) {
        self.events.push((id, Row::what_says(data), cursor.at(id).to_string()));
    }

    fn signal(&mut self, signal: Signal, _: Option<&Cursor>) {
        unreachable!("{signal:?} is no event");
    }

    fn len(&self) -> usize {
        self.events.len() * self.weight
    }
}

fn scanned(world: &World, consumers: &[ConsumerId], scan: &Scan, limit: usize) -> (Vec<Row>, bool) {
    let (Scan::Marked { after, upto, .. } | Scan::Rows { after, upto }) = scan;
    let its = |row: &Row| consumers.contains(&consumer(row.consumer));
    world.read((*after, *upto), limit, |row| match scan {
        Scan::Rows { .. } => its(row),
        Scan::Marked { marks, .. } => {
            let marked = |mark: &Mark| mark.xid == row.xid() && row.id() > mark.upto;
            its(row) && marks.iter().any(marked)
        }
    })
}
