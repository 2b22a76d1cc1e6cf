//! The proof that nothing is lost and nothing comes twice: writers of every kind, clients of
//! every kind, gateways as they are installed, a real PostgreSQL, and faults between and in
//! all of them.
//!
//! A failure names its seed, which plays the same again: `make soak MINUTES=1 SEED=<seed>`.
//! `EVENT_PIPER_ROUNDS=100 cargo test --release --test it chaos:: -- --nocapture` tries each
//! fault by itself that often, and prints a table; `EVENT_PIPER_FAULTS=Timeouts,DiskSlow` some of
//! them only.

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
    clients::{Client, Diary, Habits},
    faults::{Blow, Fault},
    writers::{Ledger, Writer, finish_prepared},
};
use crate::support::{
    chaos_proxy::{Strike, Weather},
    eventually,
    postgres::Stop,
};

/// When all faults are over, some client gets something within this time, until all have all.
const STALLED: Duration = Duration::from_mins(2);
/// After its last event a client is watched for so long that whatever is sent twice arrives.
const AFTERWARDS: Duration = Duration::from_millis(1_200);
/// A gateway that is not ready again by then, on a busy machine too, never will be.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// Writers and clients at work in an arena.
struct Play {
    arena: Arc<Arena>,
    ledger: Arc<Ledger>,
    clients: Vec<(Habits, Arc<Mutex<Diary>>)>,
    finish: watch::Sender<bool>,
    stop: CancellationToken,
    writing: JoinSet<()>,
    reading: JoinSet<()>,
    watching: JoinSet<()>,
}

/// What a play came to, for people.
#[derive(Debug, Default)]
struct Figures {
    events: usize,
    deliveries: usize,
    connections: usize,
    blows: usize,
    drained: Duration,
    faults: Vec<String>,
}

impl Figures {
    fn line(&self) -> String {
        let Self { events, deliveries, connections, blows, drained, faults } = self;
        format!(
            "{blows} faults struck, {events} events, {deliveries} deliveries on {connections} \
             connections; all drained {drained:.1?} after the end; {} found",
            faults.len()
        )
    }
}

impl Play {
    /// Everybody begins; the clients that come at once have a cursor before anything is
    /// written.
    async fn begin(arena: Arena, length: Duration, dice: &mut Rng) -> Self {
        let ledger = Arc::new(Ledger::default());
        let url = arena.database.url();
        let mut play = Self {
            arena: Arc::new(arena),
            ledger: Arc::clone(&ledger),
            clients: Vec::new(),
            finish: watch::Sender::new(false),
            stop: CancellationToken::new(),
            writing: JoinSet::new(),
            reading: JoinSet::new(),
            watching: JoinSet::new(),
        };
        for habits in clients::everybody(dice) {
            play.admit(habits, length, dice);
        }
        play.everybody_has_begun().await;
        for writer in writers::everybody(dice, &ledger, &url) {
            play.writing.spawn(Writer::run(writer, play.stop.clone()));
        }
        let (arena, stop) = (Arc::clone(&play.arena), play.stop.clone());
        play.watching.spawn(async move { arena.watch(stop).await });
        play
    }

    fn admit(&mut self, habits: Habits, length: Duration, dice: &mut Rng) {
        let diary = Arc::new(Mutex::default());
        let gateways = self.arena.stations.iter().map(|station| station.to_clients.address());
        let client = Client {
            habits: habits.clone(),
            gateways: gateways.collect(),
            dice: dice.fork(),
            diary: Arc::clone(&diary),
            finish: self.finish.subscribe(),
        };
        let (comes, mut finish) = (length * habits.comes_at / 100, self.finish.subscribe());
        self.reading.spawn(async move {
            // Where the faults are over sooner than was reckoned, it comes then.
            let _ = timeout(comes, finish.wait_for(|finish| *finish)).await;
            client.run().await;
        });
        self.clients.push((habits, diary));
    }

    async fn everybody_has_begun(&self) {
        let at_once = self.clients.iter().filter(|(habits, _)| habits.comes_at == 0);
        for (_, diary) in at_once {
            let begun = async || diary.lock().unwrap().begin.is_some().then_some(());
            eventually("a client has a cursor", begun).await;
        }
    }

    /// All faults are over: writers stop, clients read what is left, and all is compared.
    async fn finish(mut self, blows: usize) -> Figures {
        self.stop.cancel();
        while let Some(written) = self.writing.join_next().await {
            written.expect("a writer goes on");
        }
        while self.watching.join_next().await.is_some() {}
        let client = self.arena.administrator().await;
        finish_prepared(&client).await.unwrap();
        let truth = Arc::new(Truth::read(&client).await);
        self.finish.send_replace(true);
        let (since, ready) = (Instant::now(), self.readiness().await);
        let drained = self.drained(&truth).await;
        let lasted = since.elapsed();
        sleep(AFTERWARDS).await;
        let broken = self.reading.try_join_next();
        self.reading.shutdown().await;
        let mut figures = self.judged(truth).await;
        figures.faults.extend(broken.map(|end| format!("a client broke: {end:?}")));
        figures.faults.extend(ready);
        if !drained {
            figures.faults.push(format!("clients were behind, and got nothing for {STALLED:?}"));
        }
        Figures { drained: lasted, blows, ..figures }
    }

    /// Waits until every client has as many events as it is owed; `false` when they get no more.
    async fn drained(&self, truth: &Arc<Truth>) -> bool {
        let mut owed = vec![None; self.clients.len()];
        let (mut progress, mut since) = (0, Instant::now());
        while since.elapsed() < STALLED {
            let (mut got, mut behind) = (0, false);
            for ((habits, diary), owed) in self.clients.iter().zip(&mut owed) {
                let (begin, has) = {
                    let diary = diary.lock().unwrap();
                    (diary.begin.clone(), diary.got.len())
                };
                if let (None, Some(begin)) = (&owed, begin) {
                    let (truth, habits) = (Arc::clone(truth), habits.clone());
                    let count = spawn_blocking(move || truth.owed(&habits, &begin).len());
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

    /// Gateways that are not ready, though nothing is wrong any more.
    async fn readiness(&self) -> Vec<String> {
        let mut unready = Vec::new();
        for (number, station) in self.arena.stations.iter().enumerate() {
            let gateway = station.gateway.lock().await;
            let ready = async {
                while !gateway.is_ready().await {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            if timeout(READY_WITHIN, ready).await.is_err() {
                let log = gateway.log();
                let last: Vec<&str> = log.lines().rev().take(6).collect();
                unready.push(format!("gateway {number} is not ready again: {last:#?}"));
            }
        }
        unready
    }

    /// Judges aside: other plays are at it at the same time, and must not wait for this one.
    async fn judged(&self, truth: Arc<Truth>) -> Figures {
        let (mut faults, fates) = (self.arena.findings(), self.ledger.fates());
        let clients = self.clients.clone();
        let judging = spawn_blocking(move || {
            faults.extend(truth.against(&fates));
            let mut figures = Figures { events: truth.len(), ..Figures::default() };
            for (habits, diary) in &clients {
                let diary = diary.lock().unwrap();
                figures.deliveries += diary.got.len();
                figures.connections += diary.connections.len();
                let wrong = truth.judge(habits, &diary);
                if !wrong.is_empty() {
                    faults.push(report(habits, &diary, &wrong));
                }
            }
            Figures { faults, ..figures }
        });
        judging.await.expect("a judgement ends")
    }
}

/// Everything at once, for `length`.
async fn everything_at_once(seed: u64, length: Duration, gateways: usize) {
    println!("seed {seed}, {} s", length.as_secs());
    let mut dice = Rng::with_seed(seed);
    let server = Arena::server().await;
    let play = Play::begin(Arena::build(&server, gateways).await, length, &mut dice).await;
    let blows = faults::storm(&mut dice, length, gateways);
    let begun = Instant::now();
    let progress = tokio::spawn(tell_progress(Arc::clone(&play.arena), begun));
    let mut striking = JoinSet::new();
    for blow in &blows {
        sleep(blow.at.saturating_sub(begun.elapsed())).await;
        let (arena, blow) = (Arc::clone(&play.arena), *blow);
        striking.spawn(async move { blow.strike(&arena).await });
    }
    while let Some(struck) = striking.join_next().await {
        struck.expect("a fault ends");
    }
    let figures = play.finish(blows.len()).await;
    progress.abort();
    println!("{}", figures.line());
    let mut schedule = String::new();
    for Blow { at, fault, station, lasts } in &blows {
        writeln!(schedule, "  {at:>8.1?}  {fault:?} at {station} for {lasts:?}").unwrap();
    }
    let faults = figures.faults.join("\n");
    assert!(figures.faults.is_empty(), "seed {seed}:\n{faults}\nwhat went wrong when:\n{schedule}");
}

/// A line now and then that says what the gateways use.
async fn tell_progress(arena: Arc<Arena>, begun: Instant) {
    loop {
        sleep(Duration::from_secs(15)).await;
        let mut line = format!("{:>5} s", begun.elapsed().as_secs());
        for station in &arena.stations {
            // A frozen gateway, or one that is down, has nothing to say.
            let Ok(gateway) = station.gateway.try_lock() else { continue };
            if let Some(usage) = gateway.usage() {
                let mebibytes = usage.bytes >> 20;
                write!(line, "; {mebibytes} MiB, {} files", usage.files).unwrap();
            }
        }
        println!("{line}");
    }
}

/// Each of these faults by itself, some rounds each, and what became of it. They are mostly
/// waited for, so some are tried at the same time, each in an arena of its own.
async fn each_by_itself(faults: &[Fault]) {
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
    let mut dice = Rng::with_seed(rounds);
    let length = Duration::from_secs(2 * rounds);
    let arena = Arena::build(&Arena::server().await, 2).await;
    let play = Play::begin(arena, length, &mut dice).await;
    let mut late = Vec::new();
    for round in 0..rounds {
        sleep(Duration::from_millis(dice.u64(100..800))).await;
        let mut blow = Blow::random(&mut dice, Duration::ZERO, fault, 2);
        // A round in ten is a long one; all of them would take long indeed.
        blow.lasts = if round % 10 == 9 { Duration::from_secs(10) } else { blow.lasts.min(SHORT) };
        blow.strike(&play.arena).await;
        late.extend(play.readiness().await);
    }
    let mut figures = play.finish(rounds.try_into().unwrap()).await;
    figures.faults.extend(late);
    figures
}

/// So long a fault lasts by itself.
const SHORT: Duration = Duration::from_millis(1_500);

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_as_always() {
    everything_at_once(1, Duration::from_secs(30), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_as_never_before() {
    everything_at_once(fastrand::u64(..1 << 32), Duration::from_secs(30), 3).await;
}

/// What `/readyz` says becomes true by itself, of a fault and of its end. It prints how soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_tells_the_truth() {
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
    becomes(false, "in a black hole").await;
    station.to_postgres.clear();
    becomes(true, "out of it").await;
    station.to_postgres.strike(Strike::LoseServer);
    becomes(false, "when PostgreSQL vanished").await;
    becomes(true, "when it came back").await;
    arena.postgres.stop(Stop::Immediate).await;
    becomes(false, "when PostgreSQL stopped").await;
    sleep(Duration::from_secs(3)).await;
    arena.postgres.start().await;
    becomes(true, "when it started").await;
}

/// `make soak MINUTES=30 SEED=7`: nothing at all without a number of minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let Some(minutes) = setting("EVENT_PIPER_SOAK_MINUTES") else { return };
    let seed = setting("EVENT_PIPER_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    everything_at_once(seed, Duration::from_secs(60 * minutes), 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_fail() {
    each_by_itself(&faults::OF_GATEWAYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_fails() {
    each_by_itself(&faults::OF_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_postgresql_fails() {
    each_by_itself(&faults::OF_THE_NETWORK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_the_clients_fails() {
    each_by_itself(&faults::OF_CLIENTS).await;
}
