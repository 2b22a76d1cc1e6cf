//! A bad principal tries everything that could affect others, while a good one writes and receives.
//!
//! The test asserts what can be counted: every event of the good principal arrives once and in order, and the
//! bad principal stays within its share. Times are printed, not asserted:
//! `EVENT_PIPER_GOOD_EVENTS=500 cargo test --release --test it good_and_bad -- --nocapture`;
//! `EVENT_PIPER_QUERIES_EACH` is `--max-queries-per-principal`.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt, join_all};
use tokio::{runtime, task::spawn_blocking};

use super::{BODY, EACH, Signer, app_with, event, fill, promise, token, unread};
use crate::support::{
    app::App,
    sse_client::{Stream, try_ask, try_post},
};

/// What the bad principal repeats. Each returns how often it was rejected.
type Attack = fn(SocketAddr, String) -> BoxFuture<'static, usize>;

const ATTACKS: [(&str, Attack); 6] = [
    ("answers that nobody reads", |address, proof| {
        async move {
            let asking = (0..40).map(|_| unread(address, "/streams/packed?limit=1000", &proof));
            let held = join_all(asking).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(held);
            0
        }
        .boxed()
    }),
    ("promises", |address, proof| {
        async move {
            let promises = (0..16).map(|_| promise(address, &proof, BODY, b""));
            let held = join_all(promises).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(held);
            0
        }
        .boxed()
    }),
    ("bodies that stop", |address, proof| {
        async move {
            let half = vec![b' '; 4 << 20];
            let bodies = (0..16).map(|_| promise(address, &proof, BODY, &half));
            let held = join_all(bodies).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(held);
            0
        }
        .boxed()
    }),
    ("numbers written out", |address, proof| {
        async move {
            let numbers = format!("[{}]", ["1e131071"; 7].join(","));
            let body = format!("[{}]", vec![event("bad", &numbers); 2].join(","));
            refusals(join_all((0..4).map(|_| write(address, &proof, &body))).await)
        }
        .boxed()
    }),
    ("pages of packed payloads", |address, proof| {
        async move {
            let page = |_| {
                let headers = [("Authorization", proof.as_str())];
                async move { try_ask(address, "GET", "/streams/packed?limit=1000", &headers).await }
            };
            let answers = join_all((0..48).map(page)).await;
            answers.into_iter().flatten().filter(|answer| answer.status != 200).count()
        }
        .boxed()
    }),
    ("replays", |address, proof| {
        async move {
            let headers = [("Authorization", proof.as_str()), ("Last-Event-ID", "0")];
            let replays = (0..48).map(|_| async {
                let mut stream =
                    Stream::try_open(address, "/events?consumer=big", &headers).await.ok()?;
                stream.next().await
            });
            join_all(replays).await.into_iter().filter(Option::is_none).count()
        }
        .boxed()
    }),
];

async fn write(address: SocketAddr, proof: &str, body: &str) -> u16 {
    let answer = try_post(address, "/events", &[("Authorization", proof)], body).await;
    answer.map_or(0, |answer| answer.status)
}

fn refusals(statuses: Vec<u16>) -> usize {
    statuses.into_iter().filter(|status| *status != 201).count()
}

/// Writes events one after the other, and receives each. Returns the times to the response and to the event.
async fn good(app: &App, stream: &mut Stream, proof: &str, events: usize) -> [f64; 2] {
    let (mut answered, mut received) = (Vec::new(), Vec::new());
    for n in 0..events {
        let began = Instant::now();
        let status = write(app.address, proof, &event("good", &n.to_string())).await;
        answered.push(began.elapsed());
        assert_eq!(status, 201, "the good one is never refused");
        assert_eq!(stream.event().await.data, n.to_string(), "and hears of its own, in order");
        received.push(began.elapsed());
    }
    [answered, received].map(p99)
}

/// A time in milliseconds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1000.0
}

/// Runs a bad caller on a thread of its own, since the cost of its client is not the gateway's.
struct AtWork {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<usize>,
}

impl AtWork {
    fn begin(attack: Attack, address: SocketAddr, proof: &str) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (until, count, proof) = (Arc::clone(&stop), Arc::clone(&rounds), proof.to_owned());
        let work = async move {
            let mut refused = 0;
            while !until.load(Ordering::SeqCst) {
                refused += attack(address, proof.clone()).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
            refused
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = thread::spawn(move || runtime.block_on(work));
        Self { stop, rounds, thread }
    }

    async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let refused = spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
        (self.rounds.load(Ordering::SeqCst), refused)
    }
}

fn setting(name: &str) -> Option<usize> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

async fn started() -> (crate::support::postgres::Database, App, Signer) {
    app_with(|settings| {
        settings.gateway.log.pool = 8;
        settings.gateway.log.queries_each = setting("EVENT_PIPER_QUERIES_EACH");
        (settings.http.limits.answers, settings.http.limits.answers_each) = (4 * EACH, EACH);
        let writer = settings.gateway.writer.as_mut().unwrap();
        (writer.bytes, writer.bytes_each) = (4 * EACH, EACH);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_principal_does_not_affect_a_good_one() {
    let events = setting("EVENT_PIPER_GOOD_EVENTS").unwrap_or(40);
    let (database, app, signer) = started().await;
    fill(&database, "packed", 500, 300_000).await;
    let (bad, proof) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let headers = [("Authorization", &*proof)];
    let stream = Stream::open(app.address, "/events?consumer=good", &headers).await;
    let mut stream = stream.joined().await;
    let alone = good(&app, &mut stream, &proof, events).await;
    println!("the good one alone: p99 {alone:.1?} ms to the answer and to the event, of {events}");
    for (name, attack) in ATTACKS {
        let attack = AtWork::begin(attack, app.address, &bad);
        let beside = good(&app, &mut stream, &proof, events).await;
        // The bytes of one response or one part of a body may exceed the limit.
        let slack = 8 << 20;
        assert!(app.metric("answer_bytes").await <= (EACH + slack) as u64, "{name}");
        assert!(app.metric("write_buffer_bytes").await <= (EACH + slack) as u64, "{name}");
        let (rounds, refused) = attack.end().await;
        let ratio = beside[1] / alone[1];
        println!(
            "{name}: p99 {beside:.1?} ms, {ratio:.1} times; {rounds} rounds, {refused} refused"
        );
    }
    let after = good(&app, &mut stream, &proof, events).await;
    println!("alone again: p99 {after:.1?} ms");
}
