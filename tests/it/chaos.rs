//! Fault tests, which check that no event is lost or delivered twice: writers and clients of every kind,
//! the released gateway, a real PostgreSQL, and faults in all of them and in the networks between them.
//!
//! A failure prints its seed, which repeats the run: `make soak MINUTES=1 SEED=<seed>`.
//! `EVENT_PIPER_ROUNDS=100 cargo test --release --test it chaos:: -- --nocapture` runs each
//! fault on its own, 100 times, and prints a table. `EVENT_PIPER_FAULTS=Timeouts,DiskSlow` selects
//! faults.

mod arena;
mod check;
mod clients;
mod faults;
mod writers;

use std::{
    env,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures::{StreamExt, stream};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    arena::Arena,
    check::{Truth, report},
    clients::{Behavior, Client, Journal},
    faults::{Fault, ScheduledFault},
    writers::{Ledger, Writer, finish_prepared},
};
use crate::support::{
    chaos_proxy::{Strike, Weather},
    eventually,
    postgres::Stop,
};

/// After the faults, at least one client must receive something within this time, until all have all their events.
const STALL_DEADLINE: Duration = Duration::from_mins(2);
/// The time for which clients are watched after their last event, so that duplicates arrive.
const DUPLICATES_WAIT: Duration = Duration::from_millis(1_200);
/// The time within which a gateway must be ready again. Long, because the machine may be busy.
const READY_DEADLINE: Duration = Duration::from_mins(2);

/// Writers and clients that run in an arena.
struct Run {
    arena: Arc<Arena>,
    ledger: Arc<Ledger>,
    clients: Vec<(Behavior, Arc<Mutex<Journal>>)>,
    finish: watch::Sender<bool>,
    stop: CancellationToken,
    writing: JoinSet<()>,
    reading: JoinSet<()>,
    watching: JoinSet<()>,
}

/// The results of a run.
#[derive(Debug, Default)]
struct Figures {
    events: usize,
    deliveries: usize,
    connections: usize,
    injected: usize,
    drained: Duration,
    faults: Vec<String>,
}

impl Figures {
    fn line(&self) -> String {
        let Self { events, deliveries, connections, injected, drained, faults } = self;
        format!(
            "{injected} faults, {events} events, {deliveries} deliveries on {connections} \
             connections; all clients had caught up {drained:.1?} after the end; {} failures found",
            faults.len()
        )
    }
}

impl Run {
    /// Starts all clients and writers. Clients that join at the start have a cursor before writers start.
    async fn begin(arena: Arena, length: Duration, random: &mut Rng) -> Self {
        let ledger = Arc::new(Ledger::default());
        let url = arena.database.url();
        let mut run = Self {
            arena: Arc::new(arena),
            ledger: Arc::clone(&ledger),
            clients: Vec::new(),
            finish: watch::Sender::new(false),
            stop: CancellationToken::new(),
            writing: JoinSet::new(),
            reading: JoinSet::new(),
            watching: JoinSet::new(),
        };
        for behavior in clients::all_clients(random) {
            run.admit(behavior, length, random);
        }
        run.all_have_a_cursor().await;
        for writer in writers::all_writers(random, &ledger, &url) {
            run.writing.spawn(Writer::run(writer, run.stop.clone()));
        }
        let (arena, stop) = (Arc::clone(&run.arena), run.stop.clone());
        run.watching.spawn(async move { arena.watch(stop).await });
        run
    }

    fn admit(&mut self, behavior: Behavior, length: Duration, random: &mut Rng) {
        let journal = Arc::new(Mutex::default());
        let gateways = self.arena.stations.iter().map(|station| station.to_clients.address());
        let client = Client {
            behavior: behavior.clone(),
            gateways: gateways.collect(),
            random: random.fork(),
            journal: Arc::clone(&journal),
            finish: self.finish.subscribe(),
        };
        let (comes, mut finish) =
            (length * behavior.joins_at_percent / 100, self.finish.subscribe());
        self.reading.spawn(async move {
            // If the faults end earlier than expected, the client joins then.
            let _ = timeout(comes, finish.wait_for(|finish| *finish)).await;
            client.run().await;
        });
        self.clients.push((behavior, journal));
    }

    async fn all_have_a_cursor(&self) {
        let at_once = self.clients.iter().filter(|(behavior, _)| behavior.joins_at_percent == 0);
        for (_, journal) in at_once {
            let begun = async || journal.lock().unwrap().begin.is_some().then_some(());
            eventually("a client has a cursor", begun).await;
        }
    }

    /// After the faults: stops the writers, lets the clients catch up, and checks the results.
    async fn finish(mut self, injected: usize) -> Figures {
        self.stop.cancel();
        while let Some(written) = self.writing.join_next().await {
            written.expect("writers do not panic");
        }
        while self.watching.join_next().await.is_some() {}
        let client = self.arena.administrator().await;
        finish_prepared(&client).await.unwrap();
        let truth = Arc::new(Truth::read(&client).await);
        self.finish.send_replace(true);
        let (since, ready) = (Instant::now(), self.readiness().await);
        let drained = self.drained(&truth).await;
        let lasted = since.elapsed();
        sleep(DUPLICATES_WAIT).await;
        let broken = self.reading.try_join_next();
        self.reading.shutdown().await;
        let mut figures = self.check(truth).await;
        figures.faults.extend(broken.map(|end| format!("a client failed: {end:?}")));
        figures.faults.extend(ready);
        if !drained {
            figures
                .faults
                .push(format!("clients were behind, and received nothing for {STALL_DEADLINE:?}"));
        }
        Figures { drained: lasted, injected, ..figures }
    }

    /// Waits until every client has as many events as it must get. Returns `false` if they receive no more.
    async fn drained(&self, truth: &Arc<Truth>) -> bool {
        let mut owed = vec![None; self.clients.len()];
        let (mut progress, mut since) = (0, Instant::now());
        while since.elapsed() < STALL_DEADLINE {
            let (mut got, mut behind) = (0, false);
            for ((behavior, journal), owed) in self.clients.iter().zip(&mut owed) {
                let (begin, has) = {
                    let journal = journal.lock().unwrap();
                    (journal.begin.clone(), journal.got.len())
                };
                if let (None, Some(begin)) = (&owed, begin) {
                    let (truth, behavior) = (Arc::clone(truth), behavior.clone());
                    let count = spawn_blocking(move || truth.owed(&behavior, &begin).len());
                    *owed = Some(count.await.expect("a count ends"));
                }
                got += has;
                behind |= owed.is_none_or(|owed| has < owed);
            }
            if !behind {
                return true;
            }
            if got > progress {
                (progress, since) = (got, Instant::now());
            }
            sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// Returns a description of each gateway that does not become ready after the faults.
    async fn readiness(&self) -> Vec<String> {
        let mut unready = Vec::new();
        for (number, station) in self.arena.stations.iter().enumerate() {
            let gateway = station.gateway.lock().await;
            let ready = async {
                while !gateway.is_ready().await {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            if timeout(READY_DEADLINE, ready).await.is_err() {
                let log = gateway.log();
                let last: Vec<&str> = log.lines().rev().take(6).collect();
                unready.push(format!("gateway {number} is not ready again: {last:#?}"));
            }
        }
        unready
    }

    /// Checks the results on a separate thread, because other runs share this one.
    async fn check(&self, truth: Arc<Truth>) -> Figures {
        let (mut faults, fates) = (self.arena.findings(), self.ledger.fates());
        let clients = self.clients.clone();
        let judging = spawn_blocking(move || {
            faults.extend(truth.against(&fates));
            let mut figures = Figures { events: truth.event_count(), ..Figures::default() };
            for (behavior, journal) in &clients {
                let journal = journal.lock().unwrap();
                figures.deliveries += journal.got.len();
                figures.connections += journal.connections.len();
                let wrong = truth.judge(behavior, &journal);
                if !wrong.is_empty() {
                    faults.push(report(behavior, &journal, &wrong));
                }
            }
            Figures { faults, ..figures }
        });
        judging.await.expect("the check does not panic")
    }
}

/// Runs all faults at once, for `length`.
async fn all_faults_at_once(seed: u64, length: Duration, gateways: usize) {
    println!("seed {seed}, {} s", length.as_secs());
    let mut random = Rng::with_seed(seed);
    let server = Arena::server().await;
    let run = Run::begin(Arena::build(&server, gateways).await, length, &mut random).await;
    let schedule = faults::storm(&mut random, length, gateways);
    let begun = Instant::now();
    let progress = tokio::spawn(print_progress(Arc::clone(&run.arena), begun));
    let mut striking = JoinSet::new();
    for scheduled in &schedule {
        sleep(scheduled.at.saturating_sub(begun.elapsed())).await;
        let (arena, scheduled) = (Arc::clone(&run.arena), *scheduled);
        striking.spawn(async move { scheduled.strike(&arena).await });
    }
    while let Some(struck) = striking.join_next().await {
        struck.expect("injecting a fault does not panic");
    }
    let figures = run.finish(schedule.len()).await;
    progress.abort();
    println!("{}", figures.line());
    let mut listing = String::new();
    for ScheduledFault { at, fault, station, lasts } in &schedule {
        writeln!(listing, "  {at:>8.1?}  {fault:?} at {station} for {lasts:?}").unwrap();
    }
    let faults = figures.faults.join("\n");
    assert!(figures.faults.is_empty(), "seed {seed}:\n{faults}\nschedule of faults:\n{listing}");
}

/// Prints the memory and open files of the gateways from time to time.
async fn print_progress(arena: Arc<Arena>, begun: Instant) {
    loop {
        sleep(Duration::from_secs(15)).await;
        let mut line = format!("{:>5} s", begun.elapsed().as_secs());
        for station in &arena.stations {
            // Skip a gateway that is frozen or stopped: its lock is held.
            let Ok(gateway) = station.gateway.try_lock() else { continue };
            if let Some(usage) = gateway.usage() {
                let mebibytes = usage.bytes >> 20;
                write!(line, "; {mebibytes} MiB, {} files", usage.files).unwrap();
            }
        }
        println!("{line}");
    }
}

/// Runs each of these faults on its own, several rounds each, and prints the results. The tests mostly wait, so
/// several run concurrently, each in its own arena.
async fn each_on_its_own(faults: &[Fault]) {
    const AT_ONCE: usize = 3;
    let rounds = setting("EVENT_PIPER_ROUNDS").unwrap_or(2);
    let only = env::var("EVENT_PIPER_FAULTS").unwrap_or_default();
    let wanted = |fault: &&Fault| only.is_empty() || only.contains(&format!("{fault:?}"));
    println!("| fault | rounds | events | deliveries | connections | found |");
    let tried = faults.iter().filter(wanted).map(async |fault| {
        let figures = rounds_of(*fault, rounds).await;
        let Figures { events, deliveries, connections, .. } = figures;
        let found = figures.faults.len();
        println!("| {fault:?} | {rounds} | {events} | {deliveries} | {connections} | {found} |");
        figures.faults.into_iter().map(move |text| format!("{fault:?}: {text}"))
    });
    let found: Vec<_> = stream::iter(tried).buffer_unordered(AT_ONCE).collect().await;
    let found: Vec<_> = found.into_iter().flatten().collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

async fn rounds_of(fault: Fault, rounds: u64) -> Figures {
    let mut random = Rng::with_seed(rounds);
    let length = Duration::from_secs(2 * rounds);
    let arena = Arena::build(&Arena::server().await, 2).await;
    let run = Run::begin(arena, length, &mut random).await;
    let mut late = Vec::new();
    for round in 0..rounds {
        sleep(Duration::from_millis(random.u64(100..800))).await;
        let mut scheduled = ScheduledFault::random(&mut random, Duration::ZERO, fault, 2);
        // One round in ten is long. If all were, the test would take too long.
        scheduled.lasts = if round % 10 == 9 {
            Duration::from_secs(10)
        } else {
            scheduled.lasts.min(SHORT_FAULT)
        };
        scheduled.strike(&run.arena).await;
        late.extend(run.readiness().await);
    }
    let mut figures = run.finish(rounds.try_into().unwrap()).await;
    figures.faults.extend(late);
    figures
}

/// The longest duration of a fault in a short round.
const SHORT_FAULT: Duration = Duration::from_millis(1_500);

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_at_once_with_a_fixed_seed() {
    all_faults_at_once(1, Duration::from_secs(30), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_faults_at_once_with_a_random_seed() {
    all_faults_at_once(fastrand::u64(..1 << 32), Duration::from_secs(30), 3).await;
}

/// `/readyz` follows a fault and its end. The test prints after what time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_faults() {
    const WITHIN: Duration = Duration::from_mins(2);
    let arena = Arena::build(&Arena::server().await, 1).await;
    let station = &arena.stations[0];
    let gateway = station.gateway.lock().await;
    let becomes = async |ready: bool, what: &str| {
        let since = Instant::now();
        while gateway.is_ready().await != ready {
            assert!(since.elapsed() < WITHIN, "{what}: ready is not {ready} in time");
            sleep(Duration::from_millis(20)).await;
        }
        println!("{what}: ready is {ready} after {:.1?}", since.elapsed());
    };
    let black_hole = Weather { black_hole: true, ..Weather::default() };
    station.to_postgres.set(black_hole);
    becomes(false, "during a black hole").await;
    station.to_postgres.clear();
    becomes(true, "after the black hole").await;
    station.to_postgres.strike(Strike::LoseServer);
    becomes(false, "after PostgreSQL vanished").await;
    becomes(true, "after it came back").await;
    arena.postgres.stop(Stop::Immediate).await;
    becomes(false, "after PostgreSQL stopped").await;
    sleep(Duration::from_secs(3)).await;
    arena.postgres.start().await;
    becomes(true, "after it started").await;
}

/// `make soak MINUTES=30 SEED=7`. Does nothing unless a number of minutes is set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let Some(minutes) = setting("EVENT_PIPER_SOAK_MINUTES") else { return };
    let seed = setting("EVENT_PIPER_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    all_faults_at_once(seed, Duration::from_secs(60 * minutes), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_fail() {
    each_on_its_own(&faults::OF_GATEWAYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_fails() {
    each_on_its_own(&faults::OF_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_postgresql_fails() {
    each_on_its_own(&faults::OF_THE_NETWORK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_the_clients_fails() {
    each_on_its_own(&faults::OF_CLIENTS).await;
}
