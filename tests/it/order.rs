//! Tests the rules of order with random schedules: the shipped `Reader`, `Hub`, `Recent`, `Follower`
//! and `Cursor` run between a simulated database and simulated clients that connect and disconnect.
//!
//! `EVENT_PIPER_SCHEDULES=100000 cargo test --release --test it order` sets the number of schedules. A
//! failure prints its seed, and `EVENT_PIPER_SEED=<seed>` runs that schedule alone.

mod check;
mod client;
mod gateway;
mod ledger;
mod reader;
mod received;
mod recent;
mod replaced;
mod world;

use std::{
    cell::RefCell,
    env,
    rc::Rc,
    time::{Duration, Instant},
};

use event_piper::order::Hold;

use self::{
    check::check,
    client::{Begins, Client},
    gateway::Gateway,
    world::{GATEWAYS, World},
};

/// The state of one schedule: its actors, and when each acts next.
struct Simulation {
    world: World,
    hold: Hold,
    gateways: Vec<Gateway>,
    clients: Vec<Rc<RefCell<Client>>>,
    /// Whether the schedule has no faults, so that the delay of each event has a known limit.
    calm: bool,
    most_open: usize,
    /// The probability, in thousandths, that a gateway is restarted after a step of the writers.
    restarts: u16,
    writers_at: Instant,
    /// The number of next steps that are short transactions in quick succession.
    burst: u8,
    clients_at: Instant,
    moves: usize,
    /// The number of times that the log may still be replaced.
    replacements: u8,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        client::forget_all();
        let mut world = World::new(fastrand::Rng::with_seed(seed));
        let calm = world.chance(0.15);
        if !calm && world.chance(0.3) {
            world.latency = [3_000, 10_000][world.random.usize(0..2)];
        }
        // A hold of half a second is longer than any other delay of an event.
        let hold = match world.random.u8(0..8) {
            0..7 if calm && world.chance(0.4) => Hold::For(Duration::from_millis(500)),
            which @ 0..7 => {
                Hold::For(Duration::from_millis([0, 0, 1, 3, 10, 100, 100][which as usize]))
            }
            _ => Hold::Unlimited,
        };
        for _ in 0..world.random.usize(0..60) {
            world.move_writers(5);
        }
        if world.chance(0.15) {
            world.restore_dump();
        }
        if world.chance(0.1) {
            world.bulks = world.random.usize(1..3);
        }
        let replacements = if !calm && world.chance(0.12) { world.random.u8(1..4) } else { 0 };
        let gateways = (0..GATEWAYS).map(|at| Gateway::start(&mut world, at, hold)).collect();
        let most_open = world.random.usize(2..6);
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
            replacements,
        }
    }

    /// Runs the next actor. Writers and faults act only while there are moves left.
    fn act(&mut self) {
        let gateway = (0..GATEWAYS).min_by_key(|&at| self.gateways[at].due(&self.world)).unwrap();
        let gateway_at = self.gateways[gateway].due(&self.world);
        let writers_at = if self.moves > 0 { Some(self.writers_at) } else { None };
        let next = gateway_at.min(self.clients_at).min(writers_at.unwrap_or(gateway_at));
        self.world.now = self.world.now.max(next);
        for client in &self.clients {
            client.borrow_mut().tick(&self.world);
        }
        if writers_at == Some(next) {
            self.move_writers();
        } else if next == gateway_at {
            self.gateways[gateway].act(&mut self.world);
            self.gateways[gateway].warm_up(&mut self.world);
        } else {
            self.move_clients();
        }
    }

    fn move_writers(&mut self) {
        self.moves -= 1;
        if let Some(left) = self.burst.checked_sub(1) {
            self.burst = left;
            self.world.write_one(true);
            // After the burst there is a pause, so that no other event wakes a gateway that missed it.
            let pause = self.world.random_duration(if left > 0 { 8_000 } else { 400_000 });
            self.writers_at = self.world.now + pause;
            return;
        }
        self.world.move_writers(self.most_open);
        if self.calm && self.world.chance(0.03) && self.burst_around_a_poll() {
            return;
        }
        let pause = match self.world.random.u8(0..100) {
            0..90 => self.world.random_duration(1_500),
            90..99 => self.world.random_duration(20_000),
            _ => self.world.random_duration(150_000),
        };
        self.writers_at = self.world.now + pause;
        if !self.calm {
            self.fail();
        }
        if self.replacements > 0 {
            self.replace();
        }
    }

    /// Schedules the next transactions around the next poll of a waiting gateway. Returns whether it did.
    fn burst_around_a_poll(&mut self) -> bool {
        let which = self.world.random.usize(0..GATEWAYS);
        let Some(poll_at) = self.gateways[which].waits_until() else { return false };
        self.burst = self.world.random.u8(1..4);
        // Shortly before the poll, or shortly after it.
        let until = poll_at.saturating_duration_since(self.world.now);
        let before = until.saturating_sub(Duration::from_millis(1));
        self.writers_at = self.world.now + before + self.world.random_duration(3_000);
        true
    }

    fn fail(&mut self) {
        let which = self.world.random.usize(0..GATEWAYS);
        // A gateway that has just found the log replaced may lose its connection again.
        if self.world.log > 0 && !self.gateways[which].is_of(&self.world) && self.world.chance(0.2)
        {
            self.gateways[which].reconnect(&mut self.world);
        }
        match self.world.random.u16(0..1000) {
            restart if restart < self.restarts => {
                for client in &self.clients {
                    client.borrow_mut().leave(which);
                }
                self.world.disconnect(which);
                self.gateways[which] = Gateway::start(&mut self.world, which, self.hold);
            }
            900..915 => self.gateways[which].reconnect(&mut self.world),
            200..206 if self.gateways.iter().all(|it| it.is_of(&self.world)) => self.world.prune(),
            206..214 => self.world.erase(),
            214..230 => self.world.delete_newest(),
            _ => {}
        }
    }

    /// Takes a backup, or replaces the log, if all gateways can notice that.
    fn replace(&mut self) {
        let world = &mut self.world;
        if world.chance(0.1) {
            world.back_up();
        }
        if world.chance(0.95) || !self.gateways.iter().all(|it| it.knows(world)) {
            return;
        }
        if world.chance(0.5) && world.restore() {
            self.gateways.iter_mut().for_each(|it| it.reconnect(world));
        } else {
            let beyond = world.drawn().get() + world.random.i64(0..5);
            let rows = [0, world.random.i64(1..5), beyond][world.random.usize(0..3)];
            world.truncate(rows.min(300));
        }
        self.replacements -= 1;
        self.moves += 80;
        if world.chance(0.5) {
            // Pause until all gateways have checked whether the log is the same.
            self.writers_at += world.random_duration(2_000_000);
        }
    }

    fn move_clients(&mut self) {
        let world = &mut self.world;
        self.clients_at = world.now + world.random_duration(1_500);
        if self.clients.len() < 5 && world.chance(0.05) {
            let which = world.random.usize(0..GATEWAYS);
            if self.gateways[which].started {
                let begins = match world.random.u8(0..10) {
                    0..2 => Begins::AtTheBeginning,
                    2..5 => Begins::BehindItsState,
                    _ => Begins::Now,
                };
                let client = Client::new(world, begins);
                self.clients.push(client.join(which, &self.gateways[which], world));
            }
        }
        for client in &self.clients {
            let mut client = client.borrow_mut();
            if client.connection.is_none() && world.chance(0.3) {
                let which = world.random.usize(0..GATEWAYS);
                client.connect(which, &self.gateways[which], world);
            } else if !self.calm && self.moves > 0 && world.chance(0.02) {
                client.disconnect();
            } else if world.chance(0.7) {
                client.act(world);
            }
        }
    }

    fn is_done(&self) -> bool {
        let newest = self.world.newest();
        self.gateways.iter().all(|gateway| gateway.is_of(&self.world))
            && self.world.passed.iter().all(|(_, settled)| *settled >= newest)
            && self.clients.iter().all(|client| !client.borrow().is_behind())
    }

    /// Ends all transactions. All remaining events must then arrive within a few seconds, plus the time of a page
    /// for each row.
    fn finish(&mut self, seed: u64) {
        self.world.end_all();
        if !self.calm && self.world.chance(0.5) {
            self.end_with_dead_ids();
        }
        let page_of_one = Duration::from_micros(10 * self.world.latency);
        let rows = u32::try_from(self.world.rows.len()).expect("some hundreds");
        let until = self.world.now + Duration::from_secs(4) + rows * page_of_one;
        while self.world.now < until && !self.world.unknowable && !self.is_done() {
            self.act();
        }
        if self.world.unknowable {
            return;
        }
        assert!(self.is_done(), "seed {seed}: an event is never delivered");
        for client in &self.clients {
            let Some((which, said)) = client.borrow_mut().beat(&self.world) else { continue };
            let head = self.gateways[which].head();
            assert!(
                said >= head,
                "seed {seed}: an idle client is at {said}, its gateway at {head}"
            );
        }
    }

    /// Commits a row after the id of a rolled-back transaction, and deletes it after a gateway has read it: the head
    /// moves over ids that do not exist, and no event follows.
    fn end_with_dead_ids(&mut self) {
        self.world.commit_behind_rollback();
        let newest = self.world.newest();
        let most = 20 * self.world.latency;
        let until = self.world.now + self.world.random_duration(most);
        while self.world.now < until && self.gateways.iter().all(|it| it.head() < newest) {
            self.act();
        }
        self.world.delete_newest();
    }
}

/// Prints the seed if the schedule panics.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the schedule with seed {}", self.0);
        }
    }
}

/// Runs a schedule. Returns the number of deliveries; `None` if the log was replaced in a way that no gateway can
/// detect.
fn run_schedule(seed: u64) -> Option<usize> {
    let _seed = SeedOnPanic(seed);
    let mut simulation = Simulation::new(seed);
    if simulation.calm {
        warm_up(&mut simulation);
    }
    while simulation.moves > 0 && !simulation.world.unknowable {
        simulation.act();
    }
    simulation.finish(seed);
    if simulation.world.unknowable {
        return None;
    }
    let clients = simulation.clients.iter();
    Some(clients.map(|client| check(seed, &client.borrow(), &simulation)).sum())
}

/// Waits until the gateways have started and know each other.
fn warm_up(simulation: &mut Simulation) {
    simulation.world.end_all();
    let moves = std::mem::take(&mut simulation.moves);
    let until = simulation.world.now + Duration::from_millis(2_500);
    while simulation.world.now < until {
        simulation.act();
    }
    simulation.writers_at = simulation.world.now;
    for which in 0..GATEWAYS {
        let client = Client::probe(&mut simulation.world);
        // With smaller pages, many rows would take longer than the limit.
        simulation.gateways[which].page = [8, 500][simulation.world.random.usize(0..2)];
        simulation.clients.push(client.join(which, &simulation.gateways[which], &simulation.world));
    }
    simulation.moves = moves;
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_loses_or_repeats_an_event() {
    if let Some(seed) = setting("EVENT_PIPER_SEED") {
        run_schedule(seed);
        return;
    }
    let schedules = setting("EVENT_PIPER_SCHEDULES").unwrap_or(1000);
    let played: Vec<usize> = (0..schedules).filter_map(run_schedule).collect();
    let (given_up, deliveries) = (schedules - played.len() as u64, played.iter().sum::<usize>());
    println!("{schedules} schedules, {deliveries} deliveries: no event lost or repeated");
    assert!(given_up <= 1 + schedules / 100, "{given_up} schedules were abandoned");
    assert!(deliveries as u64 > schedules * 10, "the schedules deliver events");
}
