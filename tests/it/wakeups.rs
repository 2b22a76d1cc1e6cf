//! While nothing fails, no wake-up is ever lost: no event waits for the safety poll, wherever
//! in a reader's falling asleep the writer comes.
//!
//! `EVENT_PIPER_INSERTS=20000 cargo test --test it wakeups` asks longer.

use std::{
    env,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_postgres::Client;

use crate::support::{app::App, eventually, postgres::Database, sse_client::Stream};

/// Writers meet several readers of one database, at a pause at which they may just be falling
/// asleep.
struct Meeting {
    apps: Vec<App>,
    streams: Vec<Stream>,
    writers: [Client; 2],
    waits: Vec<Duration>,
}

/// A reader that is new looks for itself for this long, and would find what the bell missed.
const NEW: Duration = Duration::from_millis(2_500);
/// Who waits for the safety poll waits half a second on average. Nobody else waits this long,
/// save on a machine that stands still.
const SUSPICIOUS: Duration = Duration::from_millis(400);

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

impl Meeting {
    async fn of(readers: usize) -> Self {
        let database = Database::create().await;
        let (mut apps, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..readers {
            let app = App::start(&database.url()).await;
            streams.push(app.follow("toto").await.joined().await);
            apps.push(app);
        }
        sleep(NEW).await;
        let writers = [database.connect().await, database.connect().await];
        Self { apps, streams, writers, waits: Vec::new() }
    }

    /// One round: a pause, some transactions, and all of the streams.
    async fn insert(&mut self) {
        // Half of the pauses end about when a reader tries to fall asleep.
        let pause = if fastrand::bool() { 0..60_000 } else { 6_000..12_000 };
        sleep(Duration::from_micros(fastrand::u64(pause))).await;
        let (one, other) = (&self.writers[0], &self.writers[1]);
        let events = match fastrand::u8(0..4) {
            0 => {
                let (a, b) = tokio::join!(one.batch_execute(INSERT), other.batch_execute(INSERT));
                a.and(b).unwrap();
                2
            }
            1 => {
                one.batch_execute("begin").await.unwrap();
                one.batch_execute(INSERT).await.unwrap();
                sleep(Duration::from_micros(fastrand::u64(0..40_000))).await;
                one.batch_execute("commit").await.unwrap();
                1
            }
            _ => {
                one.batch_execute(INSERT).await.unwrap();
                1
            }
        };
        let committed = Instant::now();
        for stream in &mut self.streams {
            stream.rows(events).await;
            self.waits.push(committed.elapsed());
        }
    }

    /// What came of it, in words, and whether all is well.
    async fn end(mut self) -> (String, bool) {
        let mut unannounced = 0;
        for app in self.apps {
            unannounced += app.metric("unannounced_total").await;
            app.stop().await;
        }
        self.waits.sort_unstable();
        let late = self.waits.iter().filter(|wait| **wait > SUSPICIOUS).count();
        let at = |hundredths: usize| self.waits[(self.waits.len() - 1) * hundredths / 100];
        let line = format!(
            "{} readers, {} deliveries: half within {:.1?}, 99 of 100 within {:.1?}, all within \
             {:.1?}; {unannounced} found by the safety poll, {late} late",
            self.streams.len(),
            self.waits.len(),
            at(50),
            at(99),
            at(100),
        );
        (line, unannounced == 0 && late == 0)
    }
}

async fn meet(readers: usize, inserts: usize) -> (String, bool) {
    let mut meeting = Meeting::of(readers).await;
    for _ in 0..inserts {
        meeting.insert().await;
    }
    meeting.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    let inserts = env::var("EVENT_PIPER_INSERTS").map_or(400, |text| text.parse().unwrap());
    let meetings = tokio::join!(meet(1, inserts), meet(2, inserts), meet(3, inserts));
    let meetings = [meetings.0, meetings.1, meetings.2];
    for (line, _) in &meetings {
        println!("{line}");
    }
    assert!(meetings.iter().all(|(_, well)| *well), "{meetings:#?}");
}

#[tokio::test]
async fn when_the_keeper_of_the_bell_leaves_another_keeps_it() {
    let database = Database::create().await;
    let keeper = App::start(&database.url()).await;
    let other = App::start(&database.url()).await;
    let asleep = async |app: &App| {
        let asleep = async || (app.metric(ASLEEP).await == 1).then_some(());
        eventually("it sleeps on the bell", asleep).await;
    };
    asleep(&keeper).await;
    assert_eq!(other.metric(ASLEEP).await, 0, "one keeps the bell");
    keeper.stop().await;
    asleep(&other).await;
}

const ASLEEP: &str = "doorbell{state=\"asleep\"}";

/// As beside a keeper that is frozen: the first event is found by the safety poll, the others
/// are looked for.
#[tokio::test]
async fn who_was_not_woken_looks_for_itself_for_a_while() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    writer.batch_execute("set event_piper.bell = 'off'").await.unwrap();
    eventually("it sleeps", async || (app.metric(ASLEEP).await == 1).then_some(())).await;
    for round in 1..=10 {
        writer.batch_execute(INSERT).await.unwrap();
        assert_eq!(toto.rows(1).await, [round]);
    }
    let found = app.metric("unannounced_total").await;
    assert!((1..5).contains(&found), "of 10 events the safety poll found {found}");
}
