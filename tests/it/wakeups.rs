//! Without failures, no wake-up is lost: no event waits for the safety poll because no reader was notified,
//! at whatever moment of a reader's falling asleep the writer commits. The benchmark measures the latency. A
//! notification that is merely late on a busy machine is not lost.
//!
//! `EVENT_PIPER_TEST_INSERTS=20000 cargo test --test it wakeups` tests for longer.

use std::{
    env,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::{app::App, eventually, postgres::Database, sse_client::Stream};

/// Writers and several readers of one database. The writers pause between events, so that the readers may
/// just be falling asleep.
struct Meeting {
    apps: Vec<App>,
    streams: Vec<Stream>,
    writers: [Client; 2],
    witness: Witness,
    /// The number of events that only the safety poll found, without a notification.
    lost: u64,
}

/// Receives the same notifications as the readers, on its own connection.
pub(crate) struct Witness {
    client: Client,
    heard: Arc<AtomicU64>,
}

impl Witness {
    pub(crate) async fn of(database: &Database) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        client.batch_execute("listen new_events").await.unwrap();
        Self { client, heard }
    }

    /// The number of notifications so far. It includes all that were sent before the call: a connection gets
    /// them before the answer to a statement that began after them.
    pub(crate) async fn heard(&self) -> u64 {
        self.client.batch_execute("select 1").await.unwrap();
        self.heard.load(Ordering::Relaxed)
    }
}

/// A new reader polls for this long, and would find events whose notification was lost.
const STARTUP_POLLING: Duration = Duration::from_millis(2_500);

/// After this time, a reader has counted an event that only its safety poll found.
const COUNTED_AFTER: Duration = Duration::from_secs(2);
/// The safety poll comes after half a second on average, and rarely sooner than this.
const SOON: Duration = Duration::from_millis(100);

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
        sleep(STARTUP_POLLING).await;
        let writers = [database.connect().await, database.connect().await];
        let witness = Witness::of(&database).await;
        Self { apps, streams, writers, witness, lost: 0 }
    }

    /// One round: pauses, runs some transactions, and waits for their events on all streams.
    async fn insert(&mut self) {
        // Half of the pauses end about when a reader tries to fall asleep. All are longer than the time in
        // which a reader counts the events that it found in the previous round.
        let pause = if fastrand::bool() { 6_000..60_000 } else { 6_000..12_000 };
        sleep(Duration::from_micros(fastrand::u64(pause))).await;
        let (heard, found) = (self.witness.heard().await, self.found_unannounced().await);
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
        }
        // Without a notification, the readers must have been awake and found the events by polling. If they
        // found them this soon, it was not the safety poll, and there is no count to wait for.
        let soon = committed.elapsed() < SOON;
        if self.witness.heard().await == heard && !soon {
            sleep(COUNTED_AFTER).await;
            self.lost += self.found_unannounced().await - found;
        }
    }

    async fn found_unannounced(&self) -> u64 {
        let mut found = 0;
        for app in &self.apps {
            found += app.metric("unannounced_total").await;
        }
        found
    }
}

/// Returns how many wake-ups were lost.
async fn meet(readers: usize, inserts: usize) -> u64 {
    let mut meeting = Meeting::of(readers).await;
    for _ in 0..inserts {
        meeting.insert().await;
    }
    let (heard, late) = (meeting.witness.heard().await, meeting.found_unannounced().await);
    println!("{readers} readers, {heard} notifications; {late} late, {} lost", meeting.lost);
    for app in meeting.apps {
        app.stop().await;
    }
    meeting.lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    let inserts = env::var("EVENT_PIPER_TEST_INSERTS").map_or(400, |text| text.parse().unwrap());
    let lost = tokio::join!(meet(1, inserts), meet(2, inserts), meet(3, inserts));
    assert_eq!(lost, (0, 0, 0), "lost with one, two and three readers");
}

#[tokio::test]
async fn another_reader_keeps_the_doorbell_when_the_keeper_stops() {
    let database = Database::create().await;
    let keeper = App::start(&database.url()).await;
    let other = App::start(&database.url()).await;
    let asleep = async |app: &App| {
        let asleep = async || (app.metric(ASLEEP).await == 1).then_some(());
        eventually("the reader sleeps on the doorbell", asleep).await;
    };
    asleep(&keeper).await;
    assert_eq!(other.metric(ASLEEP).await, 0, "one reader keeps the doorbell");
    keeper.stop().await;
    asleep(&other).await;
}

const ASLEEP: &str = "doorbell{state=\"asleep\"}";

/// The situation when the keeper is frozen: the safety poll finds the first event, and then the reader polls.
#[tokio::test]
async fn a_reader_that_was_not_notified_polls_for_a_while() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    writer.batch_execute("set event_piper.bell = 'off'").await.unwrap();
    eventually("the reader sleeps", async || (app.metric(ASLEEP).await == 1).then_some(())).await;
    for round in 1..=10 {
        writer.batch_execute(INSERT).await.unwrap();
        assert_eq!(toto.rows(1).await, [round]);
    }
    let found = app.metric("unannounced_total").await;
    assert!((1..10).contains(&found), "of 10 events the safety poll found {found}");
}
