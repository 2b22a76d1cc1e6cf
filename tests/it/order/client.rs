//! A client that comes and goes, with the shipped follower and cursor.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
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
    gateway::{
        follower::{Follower, Live, Scan},
        frame::Frame,
        hub::{Hub, Seat},
    },
};

use super::{
    gateway::{Gateway, consumer},
    world::{Row, World},
};

pub(super) struct Client {
    at: usize,
    pub(super) follows: Vec<usize>,
    pub(super) owed_from: BTreeSet<i64>,
    pub(super) got: Vec<i64>,
    /// When each event came, and in which version.
    pub(super) came: BTreeMap<i64, (Instant, u32)>,
    pub(super) cursor: Option<String>,
    pub(super) connection: Option<Connection>,
    /// What it was told to have missed.
    pub(super) gaps: Vec<(i64, i64)>,
    /// It was marked: which of a late transaction's events it was owed when some were pruned
    /// cannot be told from its head.
    pub(super) marked: bool,
    pub(super) manner: Manner,
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
    seat: Seat,
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

impl Client {
    pub(super) fn new(
        world: &mut World,
        follows: Vec<usize>,
        from_beginning: bool,
    ) -> Rc<RefCell<Self>> {
        let there = world.rows.keys().chain(world.pruned.keys()).copied().collect();
        let at = CLIENTS.with_borrow(Vec::len);
        let client = Self {
            at,
            follows,
            owed_from: if from_beginning { BTreeSet::new() } else { there },
            got: Vec::new(),
            came: BTreeMap::new(),
            cursor: from_beginning.then(|| "0".into()),
            connection: None,
            gaps: Vec::new(),
            marked: false,
            manner: if world.chance(0.7) { Manner::Eager } else { Manner::Slow },
            told: false,
            now: world.now,
            dice: world.dice.fork(),
        };
        let client = Rc::new(RefCell::new(client));
        CLIENTS.with_borrow_mut(|clients| clients.push(Rc::clone(&client)));
        client
    }

    /// Nothing, where the gateway has not started.
    pub(super) fn connect(&mut self, which: usize, gateway: &Gateway) {
        if !gateway.started {
            return;
        }
        let hub = Arc::clone(&gateway.hub);
        let consumers: Box<[ConsumerId]> = self.follows.iter().map(|&at| consumer(at)).collect();
        let seat = hub.sit(consumers.clone());
        let cursor = self.cursor.as_ref().map(|text| text.parse::<Cursor>().unwrap());
        let follower = Follower::join(&hub.state().recent, consumers, cursor);
        self.say(follower.cursor().to_string());
        self.connection = Some(Connection { which, hub, seat, follower, page: None, pruned: None });
        self.told = true;
        self.listen();
    }

    fn say(&mut self, cursor: String) {
        self.marked |= cursor.contains('~');
        self.cursor = Some(cursor);
    }

    /// Asks to be told; looks at once if it was told meanwhile, and is eager.
    fn listen(&mut self) {
        let waker = Waker::from(Arc::new(Told(self.at)));
        while let Some(connection) = &self.connection {
            let told = pin!(connection.seat.woken()).poll(&mut Context::from_waker(&waker));
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
            self.take_page(&rows, last, pruned);
        } else if let Some(scan) = connection.follower.wants() {
            let limit = if self.manner == Manner::Probe { 500 } else { self.dice.usize(1..5) };
            let (rows, last) = scanned(world, connection.follower.consumers(), scan, limit);
            connection.page = Some((rows, last, world.pruned_upto()));
        } else if self.told {
            self.look();
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    /// As `gateway::subscription` does.
    fn take_page(&mut self, rows: &[Row], last: bool, pruned: EventId) {
        let Some(connection) = &mut self.connection else { return };
        let from = connection.follower.cursor().head();
        if pruned > from && connection.pruned.is_none_or(|known| pruned > known) {
            self.gaps.push((from.get(), pruned.get()));
        }
        connection.pruned = Some(pruned);
        let mut heard = Vec::new();
        connection.follower.page(rows, last, |row, cursor| {
            heard.push((row.id, row.version, cursor.at(row.id()).to_string()));
        });
        for (id, version, cursor) in heard {
            self.note(id, version, cursor);
        }
        self.told = true;
    }

    fn look(&mut self) {
        let patience = self.dice.usize(1..8);
        let Some(connection) = &mut self.connection else { return };
        if connection.follower.wants().is_some() {
            return;
        }
        self.told = false;
        let state = connection.hub.state();
        let mut heard = Vec::new();
        let live = connection.follower.live(&state.recent, |entry, cursor| {
            let id = entry.frame.id();
            heard.push((id.get(), version(&entry.frame), cursor.at(id).to_string()));
            if heard.len() < patience { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if live == Live::Lagging {
            connection.follower.rejoin(&state.recent);
        }
        drop(state);
        let at = connection.follower.cursor().to_string();
        self.told = matches!(live, Live::Stopped | Live::Lagging | Live::ToRead);
        for (id, version, cursor) in heard {
            self.note(id, version, cursor);
        }
        if matches!(live, Live::Drained | Live::CaughtUp) && self.dice.bool() {
            self.say(at); // a heartbeat
        }
        if live == Live::Stopped && self.manner != Manner::Slow {
            self.look();
        }
    }

    fn note(&mut self, id: i64, version: u32, cursor: String) {
        self.got.push(id);
        self.came.insert(id, (self.now, version));
        self.say(cursor);
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
            self.told || connection.page.is_some() || connection.follower.wants().is_some()
        };
        self.connection.as_ref().is_none_or(behind)
    }
}

fn version(frame: &Frame) -> u32 {
    let bytes = frame.bytes_at(&Cursor::default());
    let text = std::str::from_utf8(&bytes).unwrap();
    text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().parse().unwrap()
}

fn scanned(world: &World, consumers: &[ConsumerId], scan: &Scan, limit: usize) -> (Vec<Row>, bool) {
    let (Scan::Marked { after, upto, .. } | Scan::Rows { after, upto }) = scan;
    let its = |row: &Row| consumers.contains(&consumer(row.consumer));
    world.read((*after, *upto), limit, |row| match scan {
        Scan::Rows { .. } => its(row),
        Scan::Marked { marks, .. } => {
            let marked =
                |mark: &event_piper::cursor::Mark| mark.xid == row.xid() && row.id() > mark.upto;
            its(row) && marks.iter().any(marked)
        }
    })
}
