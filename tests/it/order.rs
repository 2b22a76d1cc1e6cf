//! The rules of order under random schedules: the shipped `Reader`, `Hub`, `Recent`, `Follower`
//! and `Cursor` between a simulated database and clients that come and go.
//!
//! `EVENT_PIPER_SCHEDULES=100000 cargo test --release --test it order` plays that many; a
//! failure names its seed, and `EVENT_PIPER_SEED=<seed>` plays that one alone.

mod client;
mod gateway;
mod reader;
mod world;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env,
    ops::ControlFlow,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use event_piper::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    gateway::{
        follower::{Follower, Live},
        frame::{Encoder, Frame},
        recent::{Past, Recent},
    },
    order::{Hold, Late, Position},
};

use self::{
    client::{Client, Manner},
    gateway::{Gateway, SLACK, consumer},
    world::{GATEWAYS, Row, World},
};

/// Who acts in a schedule, and when next.
struct Stage {
    world: World,
    hold: Hold,
    gateways: Vec<Gateway>,
    clients: Vec<Rc<RefCell<Client>>>,
    /// Of a calm schedule: nothing fails, so that it can be told how soon an event has to come.
    calm: bool,
    most_open: usize,
    /// So many times of a thousand, a gateway is restarted when somebody has written.
    restarts: u16,
    writers_at: Instant,
    /// So many of the next moves are short transactions, one soon after the other.
    burst: u8,
    clients_at: Instant,
    moves: usize,
}

impl Stage {
    fn new(seed: u64) -> Self {
        client::forget_all();
        let mut world = World::new(fastrand::Rng::with_seed(seed));
        let calm = world.chance(0.15);
        if !calm && world.chance(0.3) {
            world.latency = [3_000, 10_000][world.dice.usize(0..2)];
        }
        // Half a second is longer than anything else that an event may wait for.
        let hold = match world.dice.u8(0..8) {
            0..7 if calm && world.chance(0.4) => Hold::For(Duration::from_millis(500)),
            which @ 0..7 => {
                Hold::For(Duration::from_millis([0, 0, 1, 3, 10, 100, 100][which as usize]))
            }
            _ => Hold::Unlimited,
        };
        for _ in 0..world.dice.usize(0..60) {
            world.move_writers(5);
        }
        let gateways = (0..GATEWAYS).map(|at| Gateway::start(&mut world, at, hold)).collect();
        let most_open = world.dice.usize(2..6);
        let restarts = if world.latency > 300 { 80 } else { 15 };
        let (writers_at, clients_at) = (world.now, world.now);
        let clients = Vec::new();
        Self {
            world,
            hold,
            gateways,
            clients,
            calm,
            most_open,
            restarts,
            writers_at,
            burst: 0,
            clients_at,
            moves: 150,
        }
    }

    /// Lets whoever is next act. Writers and faults only while there are moves left.
    fn act(&mut self) {
        let gateway = (0..GATEWAYS).min_by_key(|&at| self.gateways[at].due(&self.world)).unwrap();
        let gateway_at = self.gateways[gateway].due(&self.world);
        let writers_at = if self.moves > 0 { Some(self.writers_at) } else { None };
        let next = gateway_at.min(self.clients_at).min(writers_at.unwrap_or(gateway_at));
        self.world.now = self.world.now.max(next);
        for client in &self.clients {
            client.borrow_mut().tick(self.world.now);
        }
        if writers_at == Some(next) {
            self.move_writers();
        } else if next == gateway_at {
            self.gateways[gateway].act(&mut self.world);
            self.gateways[gateway].recall(&mut self.world);
        } else {
            self.move_clients();
        }
    }

    fn move_writers(&mut self) {
        self.moves -= 1;
        if let Some(left) = self.burst.checked_sub(1) {
            self.burst = left;
            self.world.write_one(true);
            // Behind the last one it is quiet: nothing else wakes who missed it.
            let pause = self.world.some(if left > 0 { 8_000 } else { 400_000 });
            self.writers_at = self.world.now + pause;
            return;
        }
        self.world.move_writers(self.most_open);
        if self.calm && self.world.chance(0.03) && self.burst_around_a_poll() {
            return;
        }
        let pause = match self.world.dice.u8(0..100) {
            0..90 => self.world.some(1_500),
            90..99 => self.world.some(20_000),
            _ => self.world.some(150_000),
        };
        self.writers_at = self.world.now + pause;
        if !self.calm {
            self.fail();
        }
    }

    /// The next transactions come just when a gateway that waits looks for itself.
    fn burst_around_a_poll(&mut self) -> bool {
        let which = self.world.dice.usize(0..GATEWAYS);
        let Some(poll_at) = self.gateways[which].waits_until() else { return false };
        self.burst = self.world.dice.u8(1..4);
        // Soon before it, or soon behind.
        let until = poll_at.saturating_duration_since(self.world.now);
        let before = until.saturating_sub(Duration::from_millis(1));
        self.writers_at = self.world.now + before + self.world.some(3_000);
        true
    }

    fn fail(&mut self) {
        let which = self.world.dice.usize(0..GATEWAYS);
        match self.world.dice.u16(0..1000) {
            restart if restart < self.restarts => {
                for client in &self.clients {
                    client.borrow_mut().connection.take_if(|it| it.which == which);
                }
                self.world.disconnect(which);
                self.gateways[which] = Gateway::start(&mut self.world, which, self.hold);
            }
            900..915 => self.gateways[which].reconnect(&mut self.world),
            200..206 => self.world.prune(),
            206..214 => self.world.erase(which),
            214..230 => self.world.delete_newest(),
            _ => {}
        }
    }

    fn move_clients(&mut self) {
        let world = &mut self.world;
        self.clients_at = world.now + world.some(1_500);
        if self.clients.len() < 5 && world.chance(0.05) {
            let follows = [vec![0], vec![1], vec![0, 1]][world.dice.usize(0..3)].clone();
            let which = world.dice.usize(0..GATEWAYS);
            if self.gateways[which].started {
                let from_beginning = world.chance(0.2);
                let client = Client::new(world, follows, from_beginning);
                client.borrow_mut().connect(which, &self.gateways[which]);
                self.clients.push(client);
            }
        }
        for client in &self.clients {
            let mut client = client.borrow_mut();
            if client.connection.is_none() && world.chance(0.3) {
                let which = world.dice.usize(0..GATEWAYS);
                client.connect(which, &self.gateways[which]);
            } else if !self.calm && self.moves > 0 && world.chance(0.02) {
                client.connection = None;
            } else if world.chance(0.7) {
                client.act(world);
            }
        }
    }

    fn is_done(&self) -> bool {
        let newest = self.world.newest();
        self.gateways.iter().all(|gateway| gateway.started)
            && self.world.passed.iter().all(|(_, settled)| *settled >= newest)
            && self.clients.iter().all(|client| !client.borrow().is_behind())
    }

    /// Ends all transactions; then all that is owed comes within a few seconds, or as long as a
    /// page of one row takes for each.
    fn finish(&mut self, seed: u64) {
        for xid in self.world.open.keys().copied().collect::<Vec<_>>() {
            self.world.end(xid, true);
        }
        if !self.calm && self.world.chance(0.5) {
            self.end_with_dead_ids();
        }
        let page_of_one = Duration::from_micros(10 * self.world.latency);
        let rows = u32::try_from(self.world.rows.len()).expect("some hundreds");
        let until = self.world.now + Duration::from_secs(4) + rows * page_of_one;
        while self.world.now < until && !self.is_done() {
            self.act();
        }
        assert!(self.is_done(), "seed {seed}: something is held for ever");
        for client in &self.clients {
            let Some((which, said)) = client.borrow_mut().beat() else { continue };
            let head = self.gateways[which].head();
            assert!(said >= head, "seed {seed}: a quiet client hears of {said}, not of {head}");
        }
    }

    /// The last row, which stands behind a rollback's id, is deleted after a gateway has seen it:
    /// the head moves over ids that are all dead, and no event follows that would tell of it.
    fn end_with_dead_ids(&mut self) {
        self.world.commit_behind_rollback();
        let newest = self.world.newest();
        let most = 20 * self.world.latency;
        let until = self.world.now + self.world.some(most);
        while self.world.now < until && self.gateways.iter().all(|it| it.head() < newest) {
            self.act();
        }
        self.world.delete_newest();
    }
}

fn play(seed: u64) -> usize {
    let mut stage = Stage::new(seed);
    if stage.calm {
        warm_up(&mut stage);
    }
    while stage.moves > 0 {
        stage.act();
    }
    stage.finish(seed);
    let clients = stage.clients.iter();
    clients.map(|client| check(seed, &client.borrow(), &stage)).sum()
}

/// Waits until the gateways have started, and know of each other.
fn warm_up(stage: &mut Stage) {
    for xid in stage.world.open.keys().copied().collect::<Vec<_>>() {
        stage.world.end(xid, true);
    }
    let moves = std::mem::take(&mut stage.moves);
    let until = stage.world.now + Duration::from_millis(2_500);
    while stage.world.now < until {
        stage.act();
    }
    stage.writers_at = stage.world.now;
    for which in 0..GATEWAYS {
        let client = Client::new(&mut stage.world, vec![0, 1], false);
        client.borrow_mut().connect(which, &stage.gateways[which]);
        client.borrow_mut().manner = Manner::Probe;
        // Pages of a few rows would take long for many.
        stage.gateways[which].page = 500;
        stage.clients.push(client);
    }
    stage.moves = moves;
}

/// A client is owed all that became visible after it first connected, once, in its own
/// consumers, and what was pruned before it came is told.
fn check(seed: u64, client: &Client, stage: &Stage) -> usize {
    let world = &stage.world;
    let its = |row: &&Row| client.follows.contains(&row.consumer);
    let mine = world.rows.values().filter(its).map(|row| row.id);
    let owed: BTreeSet<i64> = mine.filter(|id| !client.owed_from.contains(id)).collect();
    let got: BTreeSet<i64> = client.got.iter().copied().collect();
    let lost: Vec<_> = owed.difference(&got).collect();
    assert_eq!(got.len(), client.got.len(), "seed {seed}: repeated in {:?}", client.got);
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    let foreign = |id: &&i64| world.rows.get(id).is_some_and(|row| !its(&row));
    let foreign: Vec<_> = got.iter().filter(foreign).collect();
    assert!(foreign.is_empty(), "seed {seed}: foreign {foreign:?}");
    check_pruned(seed, client, world);
    check_erased(seed, client, world);
    if client.manner == Manner::Probe {
        check_delays(seed, client, stage);
    }
    got.len()
}

/// What is missing because it was pruned lies in a gap that was told.
fn check_pruned(seed: u64, client: &Client, world: &World) {
    let told = |id: &i64| client.gaps.iter().any(|(from, to)| (from + 1..=*to).contains(id));
    let its = world.pruned.iter().filter(|(_, consumer)| client.follows.contains(consumer));
    let missing =
        |id: &&i64| !client.owed_from.contains(id) && !client.came.contains_key(id) && !told(id);
    let silent: Vec<_> = its.map(|(id, _)| id).filter(missing).collect();
    let known = client.marked || silent.is_empty();
    assert!(known, "seed {seed}: {silent:?} were pruned, and not told");
}

/// What was erased is let go of with the next safety poll.
fn check_erased(seed: u64, client: &Client, world: &World) {
    for (id, (came, version)) in &client.came {
        let Some(erased) = world.erased_at.get(&(*id, *version)) else { continue };
        let late = came.saturating_duration_since(*erased);
        let most = Duration::from_secs(1) + SLACK;
        assert!(late < most, "seed {seed}: {id} came {late:?} after it was erased");
    }
}

/// Live means live: a row that nothing stands before comes at once, whatever is open; any other one
/// within one hold, and what passes before its writers are asked for.
fn check_delays(seed: u64, client: &Client, stage: &Stage) {
    for (id, (came, _)) in &client.came {
        let Some(commit) = stage.world.commits.get(id) else { continue };
        let most = match stage.hold {
            _ if !commit.doubtful => SLACK,
            Hold::For(hold) => SLACK + hold + hold / 8,
            Hold::Unlimited => continue,
        };
        let took = came.saturating_duration_since(commit.at);
        assert!(took <= most, "seed {seed}: {id} took {took:?} of {most:?}");
    }
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
    let schedules = setting("EVENT_PIPER_SCHEDULES").unwrap_or(500);
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
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let mut recent = Recent::new(100_000, Position::default());
    recent.follow(&toto, &Arc::default());
    recent.reset(&Position { head: EventId::new(10), late: Late::default() });
    let frame = |id| {
        let row = Row { id, xid: 3, consumer: 0, version: 0 };
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
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let frame = |id| {
        let row = Row { id, xid: 3, consumer: 0, version: 0 };
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
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let late: Late =
        [event_piper::order::LateTransaction { xid: Xid::new(7), since: EventId::ZERO }]
            .into_iter()
            .collect();
    let at = Position { head: EventId::new(10), late };
    let mut recent = Recent::new(100_000, at.clone());
    recent.follow(&toto, &Arc::default());
    let mut live = Follower::join(&recent, toto.clone(), None);
    let row = Row { id: 3, xid: 5, consumer: 0, version: 0 };
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
