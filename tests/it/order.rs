//! The rules of order under random schedules: the real `Order`, `Cursor`, `Recent` and
//! `Follower` between a world of random writers and clients that come and go.
//!
//! `EVENT_PIPER_SCHEDULES=100000 cargo test --release --test it order` plays that many; a
//! failure names its seed, and `EVENT_PIPER_SEED=<seed>` plays that one alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use event_piper::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged, Xid},
    gateway::{
        follower::{Follower, Live, Scan},
        frame::{Encoder, Frame},
        recent::{Past, Recent},
    },
    order::{Advance, Hold, Late, Order, Position, Start},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    id: i64,
    xid: u64,
    consumer: usize,
}

impl Logged for Row {
    fn id(&self) -> EventId {
        EventId::new(self.id)
    }
    fn xid(&self) -> Xid {
        Xid::new(self.xid)
    }
}

/// Ids are drawn before commit; transactions commit or roll back in any order.
struct World {
    dice: fastrand::Rng,
    next_id: i64,
    next_xid: u64,
    open: BTreeMap<u64, Vec<Row>>,
    rows: BTreeMap<i64, Row>,
    frozen: bool,
}

impl World {
    fn new(dice: fastrand::Rng) -> Self {
        let (open, rows) = (BTreeMap::new(), BTreeMap::new());
        Self { dice, next_id: 1, next_xid: 100, open, rows, frozen: false }
    }

    fn chance(&mut self, of: f64) -> bool {
        self.dice.f64() < of
    }

    /// A few random steps of the writers.
    fn moves(&mut self) {
        if self.frozen {
            return;
        }
        for _ in 0..self.dice.usize(0..4).saturating_sub(1) {
            if self.open.len() < 5 && self.chance(0.3) {
                self.open.insert(self.next_xid, Vec::new());
                self.next_xid += 1;
            } else if !self.open.is_empty() {
                self.somebody_moves();
            }
        }
    }

    fn somebody_moves(&mut self) {
        let at = self.dice.usize(0..self.open.len());
        let xid = *self.open.keys().nth(at).unwrap();
        match self.dice.u8(0..100) {
            0..50 => {
                let row = Row { id: self.next_id, xid, consumer: self.dice.usize(0..2) };
                self.open.get_mut(&xid).unwrap().push(row);
                self.next_id += 1;
            }
            50..55 => self.next_id += 1, // drawn, and never used
            55..75 => self.end(xid, true),
            75..80 => self.end(xid, false),
            _ => {}
        }
    }

    fn end(&mut self, xid: u64, commit: bool) {
        let rows = self.open.remove(&xid).unwrap();
        if commit {
            self.rows.extend(rows.into_iter().map(|row| (row.id, row)));
        }
    }

    /// At most `limit` visible rows after `after`, and whether they are all.
    fn read(&self, after: EventId, limit: usize) -> (Vec<Row>, bool) {
        let mut rows: Vec<Row> =
            self.rows.range(after.get() + 1..).map(|(_, row)| *row).take(limit + 1).collect();
        let all = rows.len() <= limit;
        rows.truncate(limit);
        (rows, all)
    }

    fn writers(&self) -> Vec<Xid> {
        self.open.keys().copied().map(Xid::new).collect()
    }

    fn still_open(&self, asked: &[Xid]) -> Vec<Xid> {
        asked.iter().copied().filter(|xid| self.open.contains_key(&xid.get())).collect()
    }
}

fn consumers() -> [ConsumerId; 2] {
    ["a", "b"].map(|name| name.parse().unwrap())
}

/// What `gateway::tailer` does, without a database.
struct Gateway {
    order: Order,
    recent: Recent,
    now: Instant,
    page: usize,
    /// What was read back so far, while there is more to recall.
    recalled: Option<EventId>,
}

impl Gateway {
    fn start(world: &mut World, hold: Hold, now: Instant) -> Self {
        let head = world.rows.keys().next_back().copied().unwrap_or(0);
        world.moves();
        let mut start = Start::after(EventId::new(head), world.writers(), hold, now);
        let mut later = now;
        let order = loop {
            world.moves();
            let still_open = world.still_open(&start.hole().open);
            if let Some(order) = start.settle(still_open, later) {
                break order;
            }
            if let Some(&xid) = start.hole().open.first().filter(|_| hold == Hold::Unlimited) {
                world.end(xid.get(), true);
            }
            later += TICK;
        };
        let capacity = [0, 500, 2_000, 100_000][world.dice.usize(0..4)];
        let recent = Recent::new(capacity, order.position().clone());
        let recalled = Some(order.position().head);
        Self { order, recent, now: later, page: world.dice.usize(1..20), recalled }
    }

    /// What `gateway::tailer::recall` does.
    fn recall(&mut self, world: &mut World) {
        let Some(upto) = self.recalled.take_if(|_| world.chance(0.3)) else { return };
        let rows: Vec<Row> =
            world.rows.range(..=upto.get()).rev().map(|(_, row)| *row).take(self.page).collect();
        world.moves();
        let floor = rows.last().map_or(EventId::ZERO, |row| row.id().previous());
        let frame = |row: &Row| {
            (consumers()[row.consumer].clone(), Encoder::default().encode(row, "t", b"{}"))
        };
        let rows = rows.iter().map(frame).collect();
        let wants_more = self.recent.recall(Past { upto, after: floor, rows });
        self.recalled = (wants_more && floor > EventId::ZERO).then_some(floor);
    }

    fn tick(&mut self, world: &mut World) {
        self.now += TICK;
        self.recall(world);
        if let Some(upto) = self.read_on(world) {
            self.order.found_hole(upto, world.writers(), self.now);
            world.moves();
        }
        if let Some(hole) = self.order.hole() {
            let still_open = world.still_open(&hole.open);
            world.moves();
            if self.order.settle(still_open, self.now) {
                self.read_on(world);
            }
        }
        self.follow_up(world);
        self.check_horizon(world);
    }

    /// Strict readers rely on it: nobody has an id there whose rows are not visible yet.
    fn check_horizon(&self, world: &World) {
        let horizon = self.recent.position().horizon();
        let open = world.open.values().flatten().find(|row| row.id() <= horizon);
        assert!(open.is_none(), "{open:?} can still appear before {horizon}");
    }

    /// Reads a page, and answers the hole that it came to, if none was known yet.
    fn read_on(&mut self, world: &mut World) -> Option<EventId> {
        let (rows, last) = world.read(self.order.position().head, self.page);
        world.moves();
        let mut go = Vec::new();
        let advance = self.order.advance(&rows, last, |row| go.push(row));
        for row in go {
            let mut position = self.order.position().clone();
            position.head = row.id();
            publish(&mut self.recent, row, &position);
        }
        self.recent.moved_to(self.order.position());
        match advance {
            Advance::Hole { upto } if self.order.hole().is_none() => Some(upto),
            _ => None,
        }
    }

    fn follow_up(&mut self, world: &mut World) {
        let late: Vec<Xid> = self.order.position().late.as_slice().iter().map(|l| l.xid).collect();
        let still_open = world.still_open(&late);
        world.moves();
        for xid in late.into_iter().filter(|xid| !still_open.contains(xid)) {
            let head = self.order.position().head;
            let since = self.order.position().late.get(xid).unwrap().since;
            let rows = world.rows.values().filter(|row| row.xid() == xid);
            let rows: Vec<Row> =
                rows.filter(|row| row.id() <= head && row.id() > since).copied().collect();
            let all = world.rows.values().filter(|row| row.xid() == xid && row.id() <= head);
            assert_eq!(all.count(), rows.len(), "a late transaction has an id before `since`");
            self.order.ended(xid);
            if world.chance(0.3) {
                let whose = rows.iter().map(|row| consumers()[row.consumer].clone());
                self.recent.let_go(&whose.collect(), self.order.position());
                continue;
            }
            for row in &rows {
                publish(&mut self.recent, row, self.order.position());
            }
            self.recent.moved_to(self.order.position());
        }
    }
}

fn publish(recent: &mut Recent, row: &Row, position: &Position) {
    let frame: Frame = Encoder::default().encode(row, "t", b"{}");
    recent.publish(&consumers()[row.consumer], frame, position, false);
}

#[derive(Default)]
struct Client {
    follows: Vec<usize>,
    owed_from: BTreeSet<i64>,
    got: Vec<i64>,
    cursor: Option<String>,
    /// Which gateway, and the way through its log.
    connection: Option<(usize, Follower)>,
    /// Its seats there.
    seats: Box<[usize]>,
}

impl Client {
    fn connect(&mut self, which: usize, gateway: &mut Gateway) {
        let consumers: Box<[ConsumerId]> =
            self.follows.iter().map(|&at| consumers()[at].clone()).collect();
        self.seats = gateway.recent.follow(&consumers, &Arc::default());
        let cursor = self.cursor.as_ref().map(|text| text.parse::<Cursor>().unwrap());
        let follower = Follower::join(&gateway.recent, consumers, cursor);
        self.cursor = Some(follower.cursor().to_string());
        self.connection = Some((which, follower));
    }

    fn disconnect(&mut self, gateways: &mut [Gateway]) {
        if let Some((which, follower)) = self.connection.take() {
            gateways[which].recent.unfollow(follower.consumers(), &self.seats);
        }
    }

    fn step(&mut self, world: &World, gateways: &[Gateway], dice: &mut fastrand::Rng) {
        let Some((which, follower)) = &mut self.connection else { return };
        let (got, said) = (&mut self.got, &mut self.cursor);
        let mut heard = |id: EventId, cursor: &Cursor| {
            got.push(id.get());
            *said = Some(cursor.at(id).to_string());
        };
        if let Some(scan) = follower.wants().cloned() {
            let (rows, last) = scanned(world, follower.consumers(), &scan, dice.usize(1..5));
            follower.page(&rows, last, |row, cursor| heard(row.id(), cursor));
            return;
        }
        let mut patience = dice.usize(1..8);
        let live = follower.live(&gateways[*which].recent, |entry, cursor| {
            heard(entry.frame.id(), cursor);
            patience -= 1;
            if patience == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match live {
            Live::Lagging => follower.rejoin(&gateways[*which].recent),
            Live::Drained | Live::CaughtUp if dice.bool() => {
                *said = Some(follower.cursor().to_string()); // a heartbeat
            }
            _ => {}
        }
    }
}

fn scanned(world: &World, consumers: &[ConsumerId], scan: &Scan, limit: usize) -> (Vec<Row>, bool) {
    let all = self::consumers();
    let (Scan::Marked { after, upto, .. } | Scan::Rows { after, upto }) = scan;
    let wanted = |row: &&Row| match scan {
        Scan::Rows { .. } => true,
        Scan::Marked { marks, .. } => {
            marks.iter().any(|mark| mark.xid == row.xid() && row.id() > mark.upto)
        }
    };
    let rows = world.rows.values().filter(|row| consumers.contains(&all[row.consumer]));
    let rows = rows.filter(|row| row.id() > *after && row.id() <= *upto).filter(wanted);
    let mut rows: Vec<Row> = rows.copied().take(limit + 1).collect();
    let last = rows.len() <= limit;
    rows.truncate(limit);
    (rows, last)
}

const TICK: Duration = Duration::from_millis(1);

fn play(seed: u64) -> usize {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut world = World::new(dice.fork());
    let hold = match [0, 0, 1, 3, 10, 11][dice.usize(0..6)] {
        11 => Hold::Unlimited,
        ticks => Hold::For(TICK * ticks),
    };
    let mut gateways = [0, 1].map(|_| Gateway::start(&mut world, hold, Instant::now()));
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..250 {
        world.moves();
        for gateway in &mut gateways {
            if dice.f64() < 0.6 {
                gateway.tick(&mut world);
            }
        }
        if dice.f64() < 0.05 {
            restart(dice.usize(0..2), &mut gateways, &mut clients, &mut world, hold);
        }
        if clients.len() < 4 && dice.f64() < 0.1 {
            clients.push(newcomer(&world, &mut gateways, &mut dice));
        }
        for client in &mut clients {
            if client.connection.is_none() && dice.f64() < 0.3 {
                let which = dice.usize(0..2);
                client.connect(which, &mut gateways[which]);
            } else if dice.f64() < 0.03 {
                client.disconnect(&mut gateways);
            }
            if dice.f64() < 0.7 {
                client.step(&world, &gateways, &mut dice);
            }
        }
    }
    finish(&mut world, &mut gateways, &mut clients, &mut dice);
    let last = world.rows.keys().next_back().map_or(EventId::ZERO, |id| EventId::new(*id));
    for gateway in &gateways {
        assert!(gateway.recent.position().horizon() >= last, "seed {seed}: it is held for ever");
    }
    clients.iter().map(|client| check(seed, client, &world)).sum()
}

fn restart(
    which: usize,
    gateways: &mut [Gateway; 2],
    clients: &mut [Client],
    world: &mut World,
    hold: Hold,
) {
    for client in clients.iter_mut() {
        client.connection.take_if(|(at, _)| *at == which);
    }
    gateways[which] = Gateway::start(world, hold, Instant::now());
}

fn newcomer(world: &World, gateways: &mut [Gateway], dice: &mut fastrand::Rng) -> Client {
    let follows = [vec![0], vec![1], vec![0, 1]][dice.usize(0..3)].clone();
    let owed_from = world.rows.keys().copied().collect();
    let mut client = Client { follows, owed_from, ..Client::default() };
    if dice.f64() < 0.2 {
        client.cursor = Some("0".into());
        client.owed_from.clear();
    }
    let which = dice.usize(0..2);
    client.connect(which, &mut gateways[which]);
    client
}

fn finish(
    world: &mut World,
    gateways: &mut [Gateway; 2],
    clients: &mut [Client],
    dice: &mut fastrand::Rng,
) {
    for xid in world.open.keys().copied().collect::<Vec<_>>() {
        world.end(xid, true);
    }
    world.frozen = true;
    for _ in 0..400 {
        for gateway in gateways.iter_mut() {
            gateway.tick(world);
        }
        for client in clients.iter_mut() {
            if client.connection.is_none() {
                let which = dice.usize(0..2);
                client.connect(which, &mut gateways[which]);
            }
            client.step(world, gateways, dice);
        }
    }
}

/// A client is owed all that became visible after it first connected.
fn check(seed: u64, client: &Client, world: &World) -> usize {
    let its = |row: &&Row| client.follows.contains(&row.consumer);
    let mine = world.rows.values().filter(its).map(|row| row.id);
    let owed: BTreeSet<i64> = mine.filter(|id| !client.owed_from.contains(id)).collect();
    let got: BTreeSet<i64> = client.got.iter().copied().collect();
    let lost: Vec<_> = owed.difference(&got).collect();
    assert_eq!(got.len(), client.got.len(), "seed {seed}: repeated in {:?}", client.got);
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    let foreign: Vec<_> = got.iter().filter(|id| !its(&&world.rows[id])).collect();
    assert!(foreign.is_empty(), "seed {seed}: foreign {foreign:?}");
    got.len()
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_loses_or_repeats_an_event() {
    if let Some(seed) = setting("EVENT_PIPER_SEED") {
        play(seed);
        return;
    }
    let schedules = setting("EVENT_PIPER_SCHEDULES").unwrap_or(2_000);
    let deliveries: usize = (0..schedules).map(play).sum();
    println!("{schedules} schedules, {deliveries} deliveries: nothing lost, nothing twice");
    assert!(deliveries as u64 > schedules * 10, "the schedules deliver something");
}

/// All rows between this id and event 10.
fn past(after: i64, rows: Vec<(ConsumerId, Frame)>) -> Past {
    Past { upto: EventId::new(10), after: EventId::new(after), rows }
}

/// A consumer that somebody followed before the reader had started is like all others.
#[test]
fn what_is_recalled_reaches_those_whose_consumer_was_followed_before_the_start() {
    let toto: Box<[ConsumerId]> = vec![consumers()[0].clone()].into();
    let mut recent = Recent::new(100_000, Position::default());
    recent.follow(&toto, &Arc::default());
    recent.reset(&Position { head: EventId::new(10), late: Late::default() });
    let frame = |id| {
        let row = Row { id, xid: 3, consumer: 0 };
        (toto[0].clone(), Encoder::default().encode(&row, "t", b"{}"))
    };
    recent.recall(past(8, vec![frame(10), frame(9)]));
    for cursor in ["8", "8~3:8"] {
        let mut follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        let mut got = Vec::new();
        let live = follower.live(&recent, |entry, _| {
            got.push(entry.frame.id().get());
            ControlFlow::Continue(())
        });
        if follower.wants().is_none() {
            assert_eq!((live, got), (Live::CaughtUp, vec![9, 10]), "after {cursor}");
        }
    }
}

/// Of what did not fit, memory does not claim to know.
#[test]
fn what_is_not_recalled_comes_from_the_table() {
    let toto: Box<[ConsumerId]> = vec![consumers()[0].clone()].into();
    let frame = |id| {
        let row = Row { id, xid: 3, consumer: 0 };
        (toto[0].clone(), Encoder::default().encode(&row, "t", b"{}"))
    };
    let start = Position { head: EventId::new(10), late: Late::default() };
    let mut recent = Recent::new(100_000, start.clone());
    recent.recall(past(9, vec![frame(10)]));
    let of_one = recent.bytes();
    let mut recent = Recent::new(of_one, start);
    assert!(!recent.recall(past(8, vec![frame(10), frame(9)])), "it is full");
    for (cursor, from_table) in [("9", false), ("8", true)] {
        let follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        assert_eq!(follower.wants().is_some(), from_table, "after {cursor}");
    }
}

/// What turned up behind the head goes to whoever is live, and is nobody's history.
#[test]
fn what_turned_up_goes_to_the_live_once() {
    let toto: Box<[ConsumerId]> = vec![consumers()[0].clone()].into();
    let late: Late =
        [event_piper::order::LateTransaction { xid: Xid::new(7), since: EventId::ZERO }]
            .into_iter()
            .collect();
    let at = Position { head: EventId::new(10), late };
    let mut recent = Recent::new(100_000, at.clone());
    recent.follow(&toto, &Arc::default());
    let mut live = Follower::join(&recent, toto.clone(), None);
    let row = Row { id: 3, xid: 5, consumer: 0 };
    recent.publish(&toto[0], Encoder::default().encode(&row, "t", b"{}"), &at, true);
    recent.moved_to(&at);
    let mut resumed = Follower::join(&recent, toto, "10~7:0".parse().ok());
    let count = |follower: &mut Follower| {
        let mut got = 0;
        follower.live(&recent, |_, _| {
            got += 1;
            ControlFlow::Continue(())
        });
        got
    };
    assert_eq!((count(&mut live), count(&mut live)), (1, 0));
    assert_eq!(count(&mut resumed), 0, "it may have been there when it came");
}
