//! Tests with random schedules that the recent events are complete for the clients served from them.
//!
//! The real `Hub` is started, fed and reset as the tail does it, next to a model of the table. Clients
//! reconnect after any time, with every cursor that was ever sent, and with plain numbers. Memory may always
//! refuse to serve a client. If it serves one, the client must get exactly what it lacks by the table.
//!
//! `EVENT_PIPER_SCHEDULES=100000 cargo test --release --test it memory::` plays 100,000 schedules. A failure
//! names its seed, and `EVENT_PIPER_SEED=<seed>` plays that schedule alone.

mod pruned;
mod restart;
mod world;

use std::{collections::BTreeMap, env, ops::ControlFlow, sync::Arc};

use event_piper::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    live::{
        follower::{Follower, Live},
        hub::{Hub, Registration},
        recent::HistoryPage,
    },
    order::{Late, LateTransaction, Position},
};

use self::world::{CONSUMERS, Row, World};

/// A reader and its memory: a minimal model of what `live` does.
struct Gateway {
    hub: Arc<Hub>,
    epoch: u64,
    position: Position,
    /// The greatest id of the next page of history, while there is more.
    warming_up: Option<EventId>,
    /// A page of history that was read and is not in memory yet, and its epoch.
    page_in_flight: Option<(u64, HistoryPage)>,
    page_rows: usize,
}

impl Gateway {
    fn start(world: &mut World) -> Self {
        let capacity = [0, 1_000, 3_000, 10_000, 30_000, 100_000][world.dice.usize(0..6)];
        let page_rows = world.dice.usize(1..12);
        let mut gateway = Self {
            hub: Arc::new(Hub::new(capacity, Arc::default())),
            epoch: 0,
            position: Position::default(),
            warming_up: None,
            page_in_flight: None,
            page_rows,
        };
        // Sometimes a client registers before the reader has started.
        let early = world.chance(0.3).then(|| gateway.hub.register(some_consumers(world)));
        gateway.restart(world);
        drop(early.filter(|_| world.chance(0.5)));
        gateway
    }

    /// Starts after everything that is visible, the first time or in a log that was replaced.
    fn restart(&mut self, world: &World) {
        let head = EventId::new(world.newest().max(world.pruned_upto()));
        let late = world.open.keys().map(|xid| late(*xid, 0)).collect();
        self.position = Position { head, late };
        self.epoch = self.hub.restart(&self.position, String::new());
        self.warming_up = Some(head);
        self.check();
    }

    /// Adds the page of history that is in flight, or reads the next one.
    fn warm_up(&mut self, world: &World) {
        if let Some((epoch, past)) = self.page_in_flight.take() {
            let after = past.after;
            let wants_more = self.hub.state().warm_up(epoch, past);
            let more = wants_more && after > EventId::ZERO && epoch == self.epoch;
            self.warming_up = more.then_some(after);
        } else if let Some(upto) = self.warming_up.take() {
            let rows: Vec<Row> = world.rows_down_from(upto).take(self.page_rows).collect();
            let read = match rows.last() {
                Some(row) if rows.len() == self.page_rows => row.id().previous(),
                _ => EventId::ZERO,
            };
            let after = read.max(EventId::new(world.pruned_upto())).min(upto);
            let rows = rows.into_iter().filter(|row| row.id() > after);
            let rows = rows.map(|row| (row.consumer(), row.frame())).collect();
            self.page_in_flight = Some((self.epoch, HistoryPage { upto, after, rows }));
        }
        self.check();
    }

    /// Advances to an id that was drawn: first up to a hole, then over the holes, whose transactions become
    /// late.
    fn read_on(&mut self, world: &mut World) {
        let (head, drawn) = (self.position.head.get(), world.next_id - 1);
        if drawn <= head {
            return;
        }
        let upto = world.dice.i64(head + 1..=drawn);
        let before_the_hole = (head + 1..=upto).take_while(|id| world.table.contains_key(id));
        let before_the_hole = before_the_hole.last().unwrap_or(head);
        self.deliver(world, before_the_hole);
        if before_the_hole < upto {
            let known = self.position.late.as_slice().iter().copied();
            let new = world.open.keys().filter(|xid| !self.is_late(**xid));
            let new = new.map(|xid| late(*xid, before_the_hole));
            let all: Late = known.chain(new).collect();
            self.position.late = all;
            self.deliver(world, upto);
        }
    }

    fn deliver(&mut self, world: &World, upto: i64) {
        let rows = world.table.range(..=upto).map(|(_, row)| *row);
        let rows: Vec<Row> = rows.filter(|row| row.id() > self.position.head).collect();
        let late = self.position.late.clone();
        self.position.head = EventId::new(upto);
        let position = self.position.clone();
        self.hub.publish(|recent| {
            for row in rows.iter().filter(|row| !late.contains(row.xid())) {
                let after = Position { head: row.id(), late: late.clone() };
                recent.publish(&row.consumer(), row.frame(), &after, false);
            }
            recent.advance_to(&position);
        });
        self.check();
    }

    /// Delivers all rows of each late transaction that has ended, or evicts their consumers.
    fn follow_up(&mut self, world: &mut World) {
        let late = self.position.late.clone();
        for ended in late.as_slice() {
            if world.open.contains_key(&ended.xid.get()) {
                continue;
            }
            let head = self.position.head;
            let its = world.table.values().filter(|row| row.xid() == ended.xid && row.id() <= head);
            let its: Vec<Row> = its.copied().collect();
            let rest = self.position.late.as_slice().iter().filter(|late| late.xid != ended.xid);
            self.position.late = rest.copied().collect();
            let position = self.position.clone();
            if world.chance(0.2) {
                let whose = its.iter().map(Row::consumer).collect();
                self.hub.publish(|recent| recent.evict(&whose, &position));
            } else {
                self.hub.publish(|recent| {
                    for row in &its {
                        recent.publish(&row.consumer(), row.frame(), &position, false);
                    }
                    recent.advance_to(&position);
                });
            }
            self.check();
        }
    }

    fn is_late(&self, xid: u64) -> bool {
        self.position.late.as_slice().iter().any(|late| late.xid.get() == xid)
    }

    /// The events that were delivered by now and that a client with this cursor lacks, in their current
    /// edition, pruned ones included.
    fn owed(&self, world: &World, consumers: &[ConsumerId], cursor: &Cursor) -> Vec<Row> {
        let rows = world.table.values().chain(&world.pruned);
        let delivered = rows.filter(|row| row.id() <= self.position.head && !self.is_late(row.xid));
        let lacks = |row: &&Row| consumers.contains(&row.consumer()) && cursor.admits(*row);
        delivered.filter(lacks).copied().collect()
    }

    fn check(&self) {
        self.hub.state().recent.check();
    }
}

fn late(xid: u64, since: i64) -> LateTransaction {
    LateTransaction { xid: event_piper::event::Xid::new(xid), since: EventId::new(since) }
}

/// A random choice of at least one consumer.
fn some_consumers(world: &mut World) -> Box<[ConsumerId]> {
    let which = world.dice.usize(1..1 << CONSUMERS);
    (0..CONSUMERS).filter(|at| which & (1 << at) != 0).map(world::consumer).collect()
}

/// A live subscription. The cursors that it gets are kept for later reconnects.
struct Client {
    which: usize,
    epoch: u64,
    follower: Follower,
    registration: Registration,
}

/// Reads up to `most` events, and asserts that they are what the client lacks. Returns the cursors on the
/// way; `None` if memory does not have all of the events.
fn read(
    gateway: &Gateway,
    world: &World,
    follower: &mut Follower,
    most: usize,
) -> Option<Vec<String>> {
    let owed = gateway.owed(world, follower.consumers(), follower.cursor());
    let owed: BTreeMap<i64, u32> = owed.iter().map(|row| (row.id, row.edition)).collect();
    let (mut got, mut cursors, begun) = (BTreeMap::new(), Vec::new(), follower.cursor().clone());
    let state = gateway.hub.state();
    let live = follower.live(&state.recent, |entry, cursor| {
        let id = entry.frame.id();
        cursors.push(cursor.at(id).to_string());
        let bytes = entry.frame.bytes_at(cursor);
        let edition = world::edition(str::from_utf8(&bytes).unwrap());
        assert_eq!(got.insert(id.get(), edition), None, "{id} was delivered twice");
        if got.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match live {
        Live::Lagging => return None,
        Live::Stopped => assert!(got.iter().all(|event| owed.get(event.0) == Some(event.1))),
        _ => assert_eq!(got, owed, "after {begun}, at {:?}", gateway.position),
    }
    cursors.push(follower.cursor().to_string());
    Some(cursors)
}

/// Counts of what was played, to see that the schedules exercise memory.
#[derive(Default)]
struct Played {
    reconnects: usize,
    from_memory: usize,
    events: usize,
}

struct Game {
    world: World,
    gateways: [Gateway; 2],
    clients: Vec<Client>,
    /// Every cursor that was sent to a client.
    cursors: Vec<String>,
    played: Played,
}

impl Game {
    fn new(seed: u64) -> Self {
        let mut world = World::new(fastrand::Rng::with_seed(seed));
        for _ in 0..world.dice.usize(0..60) {
            world.moves();
        }
        let gateways = [0, 1].map(|_| Gateway::start(&mut world));
        let cursors = vec!["0".to_owned()];
        Self { world, gateways, clients: Vec::new(), cursors, played: Played::default() }
    }

    fn step(&mut self) {
        self.world.moves();
        for which in 0..2 {
            let (gateway, world) = (&mut self.gateways[which], &mut self.world);
            match world.dice.u8(0..20) {
                0..8 => gateway.read_on(world),
                8..12 => gateway.follow_up(world),
                12..18 => gateway.warm_up(world),
                _ => {}
            }
        }
        match self.world.dice.u16(0..200) {
            0 => self.gateways[self.world.dice.usize(0..2)] = Gateway::start(&mut self.world),
            1 => self.gateways[self.world.dice.usize(0..2)].restart(&self.world),
            2..4 => self.erase(),
            4..8 => {
                let settled = self.gateways.iter().map(|gateway| gateway.position.horizon().get());
                self.world.prune(settled.min().unwrap());
            }
            8..40 if self.clients.len() < 6 => self.connect(),
            40..50 if !self.clients.is_empty() => {
                self.clients.swap_remove(self.world.dice.usize(0..self.clients.len()));
            }
            _ => {}
        }
        self.clients_read();
        for _ in 0..4 {
            let at = self.world.dice.usize(0..self.cursors.len());
            let plain = self.world.dice.i64(0..self.world.next_id + 2).to_string();
            let cursor = if self.world.chance(0.6) { self.cursors[at].clone() } else { plain };
            self.reconnect(&cursor);
        }
    }

    /// Replaces payloads, and invalidates them in the gateways before any client reads again.
    fn erase(&mut self) {
        let Some(consumer) = self.world.erase() else { return };
        for gateway in &self.gateways {
            gateway.hub.state().recent.invalidate(&[consumer.clone()].into());
            gateway.check();
        }
    }

    fn connect(&mut self) {
        let consumers = some_consumers(&mut self.world);
        let which = self.world.dice.usize(0..2);
        let gateway = &self.gateways[which];
        let registration = gateway.hub.register(consumers.clone());
        let follower = Follower::join(&gateway.hub.state().recent, consumers, None);
        self.cursors.push(follower.cursor().to_string());
        self.clients.push(Client { which, epoch: gateway.epoch, follower, registration });
    }

    fn clients_read(&mut self) {
        let (world, gateways, cursors) = (&mut self.world, &self.gateways, &mut self.cursors);
        self.clients.retain_mut(|client| {
            let gateway = &gateways[client.which];
            let other = !std::ptr::eq(client.registration.hub(), &raw const *gateway.hub);
            if other || client.epoch != gateway.epoch {
                return false;
            }
            if world.chance(0.5) {
                return true;
            }
            let most = world.dice.usize(1..9);
            let read = read(gateway, world, &mut client.follower, most);
            cursors.extend(read.iter().flatten().cloned());
            read.is_some()
        });
    }

    /// Reconnects a client to either gateway, regardless of which one sent the cursor.
    fn reconnect(&mut self, cursor: &str) {
        let consumers = some_consumers(&mut self.world);
        let gateway = &self.gateways[self.world.dice.usize(0..2)];
        let cursor = Some(cursor.parse().unwrap());
        let mut follower = Follower::join(&gateway.hub.state().recent, consumers, cursor);
        self.played.reconnects += 1;
        if follower.wants().is_none() {
            let read = read(gateway, &self.world, &mut follower, usize::MAX);
            let cursors = read.expect("a client that was just served from memory is not behind");
            self.played.from_memory += 1;
            self.played.events += cursors.len() - 1;
            self.cursors.extend(cursors);
        }
    }
}

fn play(seed: u64) -> Played {
    let mut game = Game::new(seed);
    for _ in 0..150 {
        game.step();
    }
    for _ in 0..100 {
        let at = game.world.dice.usize(0..game.cursors.len());
        game.reconnect(&game.cursors[at].clone());
    }
    game.played
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn memory_serves_a_client_completely_or_not_at_all() {
    let seeds = match setting("EVENT_PIPER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("EVENT_PIPER_SCHEDULES").unwrap_or(100),
    };
    let mut all = Played::default();
    for seed in seeds.clone() {
        println!("seed {seed}"); // Shown if the test fails.
        let played = play(seed);
        all.reconnects += played.reconnects;
        all.from_memory += played.from_memory;
        all.events += played.events;
    }
    let Played { reconnects, from_memory, events } = all;
    println!(
        "{reconnects} reconnects, {from_memory} served from memory, {events} events: none missing"
    );
    if seeds.end - seeds.start >= 100 {
        assert!(from_memory > reconnects / 6, "memory served {from_memory} of {reconnects}");
        assert!(events > from_memory, "clients that reconnect must lack events");
    }
}
