//! The proof that nothing is lost and nothing comes twice: writers of every kind, clients of
//! every kind, gateways as they are installed, a real PostgreSQL, and faults between and in
//! all of them.
//!
//! A failure names its seed. The same again: `make soak SEED=<seed>`.

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
use tokio::{
    sync::watch,
    task::JoinSet,
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
use crate::support::postgres::TestServer;

/// When all faults are over, every client has got everything within this time.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// After its last event a client is watched for so long that whatever is sent twice arrives.
const AFTERWARDS: Duration = Duration::from_millis(1_200);
/// A gateway is ready again so soon after a fault.
const READY_WITHIN: Duration = Duration::from_secs(15);

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
        let comes = length * habits.comes_at / 100;
        self.reading.spawn(async move {
            sleep(comes).await;
            client.run().await;
        });
        self.clients.push((habits, diary));
    }

    async fn everybody_has_begun(&self) {
        let at_once = self.clients.iter().filter(|(habits, _)| habits.comes_at == 0);
        for (_, diary) in at_once {
            while diary.lock().unwrap().begin.is_none() {
                sleep(Duration::from_millis(5)).await;
            }
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
        let truth = Truth::read(&client).await;
        self.finish.send_replace(true);
        let (since, ready) = (Instant::now(), self.readiness().await);
        let drained = timeout(DRAINED_WITHIN, self.drained(&truth)).await.is_ok();
        let lasted = since.elapsed();
        sleep(AFTERWARDS).await;
        let broken = self.reading.try_join_next();
        self.reading.shutdown().await;
        let mut figures = self.judged(&truth);
        figures.faults.extend(broken.map(|end| format!("a client broke: {end:?}")));
        figures.faults.extend(ready);
        if !drained {
            figures.faults.push(format!("clients were still behind after {DRAINED_WITHIN:?}"));
        }
        Figures { drained: lasted, blows, ..figures }
    }

    async fn drained(&self, truth: &Truth) {
        for (habits, diary) in &self.clients {
            loop {
                let begin = diary.lock().unwrap().begin.clone();
                let owed = begin.map(|begin| truth.owed(habits, &begin).len());
                if owed.is_some_and(|owed| diary.lock().unwrap().got.len() >= owed) {
                    break;
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
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

    fn judged(&self, truth: &Truth) -> Figures {
        let mut faults = self.arena.findings();
        faults.extend(truth.against(&self.ledger.fates()));
        let mut figures = Figures { events: truth.len(), ..Figures::default() };
        for (habits, diary) in &self.clients {
            let diary = diary.lock().unwrap();
            figures.deliveries += diary.got.len();
            figures.connections += diary.connections.len();
            let wrong = truth.judge(habits, &diary);
            if !wrong.is_empty() {
                faults.push(report(habits, &diary, &wrong));
            }
        }
        Figures { faults, ..figures }
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
    println!("{figures:#?}");
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

/// Each of these faults by itself, some rounds each, and what became of it.
async fn one_at_a_time(faults: &[Fault]) {
    let rounds = setting("EVENT_PIPER_ROUNDS").unwrap_or(2);
    let server = Arena::server().await;
    let mut wrong = Vec::new();
    for fault in faults {
        let figures = rounds_of(&server, *fault, rounds).await;
        println!(
            "| {fault:?} | {rounds} | {} | {} | {} | {} |",
            figures.events,
            figures.deliveries,
            figures.connections,
            figures.faults.len()
        );
        wrong.extend(figures.faults.into_iter().map(|text| format!("{fault:?}: {text}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn rounds_of(server: &TestServer, fault: Fault, rounds: u64) -> Figures {
    let mut dice = Rng::with_seed(rounds);
    let length = Duration::from_secs(2 * rounds);
    let play = Play::begin(Arena::build(server, 2).await, length, &mut dice).await;
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
    everything_at_once(fastrand::u64(..1 << 32), Duration::from_secs(30), 2).await;
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
    one_at_a_time(&faults::OF_GATEWAYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_fails() {
    one_at_a_time(&faults::OF_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_postgresql_fails() {
    one_at_a_time(&faults::OF_THE_NETWORK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_the_clients_fails() {
    one_at_a_time(&faults::OF_CLIENTS).await;
}
