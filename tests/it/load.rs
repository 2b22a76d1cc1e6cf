//! Load: clients that do not read, and clients that reconnect all at once.
//!
//! The figures in the documentation come from these tests with larger numbers:
//! `EVENT_PIPER_SLOW_CLIENTS=200 EVENT_PIPER_SLOW_MIB=1024` and `EVENT_PIPER_STORM=9000`.

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use nix::sys::signal::Signal;
use tokio::{
    net::TcpSocket,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, types::ToSql};

use crate::support::{eventually, postgres::Database, process::Process, sse_client::Stream};

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// How long all clients together may take.
const CLIENTS_TIMEOUT: Duration = Duration::from_mins(4);

/// Opens a stream on a socket with a small receive buffer. The client addresses vary, since each address has
/// its own ports.
async fn open(gateway: SocketAddr, number: usize, consumer: &str, cursor: Option<&str>) -> Stream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let last = u8::try_from(2 + number % 200).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    let socket = socket.connect(gateway).await.expect("the gateway refuses no client");
    let consumer = Some(("X-Consumer-Id", consumer));
    let cursor = cursor.map(|cursor| ("Last-Event-ID", cursor));
    let headers: Vec<_> = consumer.into_iter().chain(cursor).collect();
    Stream::open_on(socket, "/events", &headers).await.expect("the gateway refuses no client")
}

/// The ids of each consumer's rows, in ascending order.
async fn rows(writer: &Client) -> BTreeMap<String, Vec<i64>> {
    let mut rows: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let all = "select subscriber, id from events order by id";
    for row in writer.query(all, &[]).await.unwrap() {
        rows.entry(row.get(0)).or_default().push(row.get(1));
    }
    rows
}

/// Measures how long the events of a separate consumer take from their commit to their delivery while other
/// clients are slow. For comparison, it measures how long their inserts take, which shows the delay of
/// PostgreSQL.
struct Probe(JoinHandle<(Vec<Duration>, Vec<Duration>)>);

impl Probe {
    async fn start(gateway: SocketAddr, database: &Database) -> Self {
        let mut stream = open(gateway, 0, "probe", None).await.joined().await;
        let writer = database.connect().await;
        let insert = "insert into events (type, subscriber, payload) values ('t', 'probe', '1')";
        Self(tokio::spawn(async move {
            let (mut waits, mut inserts) = (Vec::new(), Vec::new());
            loop {
                let began = Instant::now();
                writer.batch_execute(insert).await.unwrap();
                let committed = Instant::now();
                inserts.push(committed - began);
                let heard = timeout(CLIENTS_TIMEOUT, stream.event());
                match heard.await.expect("the probe's event comes").data.as_str() {
                    "1" => waits.push(committed.elapsed()),
                    _ => return (waits, inserts),
                }
                sleep(Duration::from_millis(20)).await;
            }
        }))
    }

    /// The latencies as [`spread`] prints them.
    async fn stop(self, writer: &Client) -> String {
        let stop = "insert into events (type, subscriber, payload) values ('t', 'probe', '2')";
        writer.batch_execute(stop).await.unwrap();
        let (waits, inserts) = self.0.await.unwrap();
        let events = waits.len();
        format!("{events} events in {}, their inserts in {}", spread(waits), spread(inserts))
    }
}

/// The median, the 99th percentile and the maximum.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100];
    format!("{:.1?}, {:.1?}, {:.1?}", at(50), at(99), at(100))
}

/// Inserts a mebibyte of events for one consumer. With `$2`, PostgreSQL can compress them a hundredfold;
/// without, it cannot compress them.
const WRITE: &str = "
insert into events (type, subscriber, payload)
select 't', $1, to_jsonb(case when $2 then repeat('x', 16384)
                         else (select string_agg(md5(row || '-' || piece), '')
                               from generate_series(1, 512) piece) end)
from generate_series(1, 64) row";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_cost_little_and_lose_no_event() {
    let clients = setting("EVENT_PIPER_SLOW_CLIENTS", 20);
    let mebibytes = setting("EVENT_PIPER_SLOW_MIB", 100);
    let consumers = (clients / 2).clamp(1, mebibytes);
    let database = Database::create().await;
    let writer = database.connect().await;
    let gateway =
        Process::launch(&database.tcp_url(), &["--heartbeat", "1s", "--write-timeout", "10m"]);
    gateway.ready().await;
    let mut slow = Vec::new();
    for number in 0..clients {
        let consumer = format!("slow {}", number % consumers);
        let stream = open(gateway.address(), number, &consumer, None).await;
        slow.push((consumer, stream.joined().await));
    }
    let before = gateway.usage();
    let quiet = Probe::start(gateway.address(), &database).await;
    sleep(Duration::from_secs(2)).await;
    let quiet = quiet.stop(&writer).await;

    let busy = Probe::start(gateway.address(), &database).await;
    for mebibyte in 0..mebibytes {
        let consumer = mebibyte % consumers;
        let (name, compressible) = (format!("slow {consumer}"), consumer.is_multiple_of(2));
        let values: [&(dyn ToSql + Sync); 2] = [&name, &compressible];
        writer.execute(WRITE, &values).await.unwrap();
    }
    let busy = busy.stop(&writer).await;
    let after = gateway.usage();

    let owed = rows(&writer).await;
    let since = Instant::now();
    let reading = slow.into_iter().map(async |(consumer, mut stream)| {
        let rows = stream.rows(owed[&consumer].len()).await;
        assert_eq!(rows, owed[&consumer], "{consumer}");
    });
    timeout(CLIENTS_TIMEOUT, join_all(reading))
        .await
        .expect("every client gets all events once it reads");
    let read = since.elapsed();

    let end = gateway.usage();
    println!("{clients} clients that do not read, {mebibytes} MiB of their events");
    println!("  latency of another consumer before: {quiet}; meanwhile: {busy}");
    println!("  memory before, after, at the end: {before:.1?} {after:.1?} {end:.1?}");
    println!("  they read it all in {read:.1?}");
    if let (Some(before), Some(end)) = (before, end) {
        let allowed = before.bytes + (RECENT_BYTES + SLOW_CLIENT_BYTES * clients as u64);
        assert!(end.peak < allowed, "{} MiB is more than allowed", end.peak >> 20);
    }
}

/// The memory for the recent events with the allocator's overhead, and for the pages that are being read, in
/// bytes.
const RECENT_BYTES: u64 = 192 << 20;
/// The most memory that a slow client needs, in bytes: a page that is being sent.
const SLOW_CLIENT_BYTES: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_late_transaction_needs_little_memory() {
    let rows = setting("EVENT_PIPER_LATE_ROWS", 60_000);
    let database = Database::create().await;
    let (late, writer) = (database.connect().await, database.connect().await);
    let gateway = Process::launch(&database.tcp_url(), &["--recent", "16MiB"]);
    gateway.ready().await;
    let mut toto = open(gateway.address(), 0, "toto", None).await.joined().await;
    let mut titi = open(gateway.address(), 1, "titi", None).await.joined().await;
    let before = gateway.usage();
    let insert = "insert into events (type, subscriber, payload)
                  select 't', 'toto', to_jsonb(repeat(md5(row::text), 16))
                  from generate_series(1, $1) row";
    let small = "insert into events (type, subscriber, payload)
                 values ('t', 'titi', '1'), ('t', 'toto', '1')";
    late.batch_execute("begin").await.unwrap();
    late.execute(insert, &[&i32::try_from(rows).unwrap()]).await.unwrap();
    writer.batch_execute(small).await.unwrap();
    let passed = i64::try_from(rows).unwrap() + 1;
    assert_eq!((titi.rows(1).await, toto.rows(1).await), (vec![passed], vec![passed + 1]));

    let committed = Instant::now();
    late.batch_execute("commit").await.unwrap();
    writer.batch_execute(small).await.unwrap();
    assert_eq!(titi.rows(1).await, [passed + 2]);
    let waited = committed.elapsed();
    let got = timeout(CLIENTS_TIMEOUT, toto.rows(rows + 1))
        .await
        .expect("all rows of the transaction arrive");
    let of_late: Vec<i64> = got.iter().copied().filter(|row| *row < passed).collect();
    assert!(of_late.iter().copied().eq(1..passed), "each row arrives once, in order");
    assert!(got.contains(&(passed + 3)));
    let after = gateway.usage();
    println!("{rows} rows of a late transaction: before {before:?}, after {after:?};");
    println!("  the next event of another consumer came after {waited:.1?}");
    if let (Some(before), Some(after)) = (before, after) {
        let more = after.peak - before.bytes;
        assert!(more < 96 << 20, "{} MiB more than before", more >> 20);
    }
}

/// Clients that all act at the same time.
struct Crowd {
    gateway: SocketAddr,
    cursors: Vec<String>,
    streams: Vec<Stream>,
}

/// The number of consumers in a crowd.
const CONSUMERS: usize = 50;

impl Crowd {
    async fn gather(gateway: SocketAddr, clients: usize) -> Self {
        let streams = (0..clients).map(async |number| {
            open(gateway, number, &consumer(number), None).await.joined().await
        });
        Self { gateway, cursors: Vec::new(), streams: join_all(streams).await }
    }

    /// Each client receives this many events.
    async fn hear(&mut self, events: usize) {
        let hearing = self.streams.iter_mut().map(|stream| stream.rows(events));
        timeout(CLIENTS_TIMEOUT, join_all(hearing)).await.expect("each client receives its events");
    }

    /// Closes all connections, and keeps the cursors.
    fn scatter(&mut self) {
        self.cursors = self.streams.drain(..).map(|stream| stream.last_id).collect();
    }

    /// All clients reconnect at once, and receive the events that they missed. Returns how long that took.
    async fn come_back(&mut self, missed: usize) -> Duration {
        let since = Instant::now();
        let cursors = std::mem::take(&mut self.cursors);
        let back = cursors.into_iter().enumerate().map(async |(number, cursor)| {
            let mut stream = open(self.gateway, number, &consumer(number), Some(&cursor)).await;
            let rows = stream.rows(missed).await;
            assert!(rows.is_sorted_by(|a, b| a < b), "{number}: {rows:?}");
            stream.signal("$caught-up").await;
            stream
        });
        self.streams =
            timeout(CLIENTS_TIMEOUT, join_all(back)).await.expect("all clients catch up");
        since.elapsed()
    }
}

fn consumer(number: usize) -> String {
    format!("crowd {}", number % CONSUMERS)
}

/// One event for each consumer of the crowd.
async fn write_to_all(writer: &Client) {
    let insert = "insert into events (type, subscriber, payload)
                  select 't', 'crowd ' || number, '1' from generate_series(0, $1) number";
    writer.execute(insert, &[&i32::try_from(CONSUMERS - 1).unwrap()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_reconnect_at_once() {
    let clients = setting("EVENT_PIPER_STORM", 1_000);
    let database = Database::create().await;
    let writer = database.connect().await;
    let mut gateway = Process::launch(&database.tcp_url(), &["--pool-size", "4"]);
    gateway.ready().await;
    let gathering = Instant::now();
    let mut crowd = Crowd::gather(gateway.address(), clients).await;
    println!("{clients} clients gathered within {:.1?}", gathering.elapsed());
    write_to_all(&writer).await;
    crowd.hear(1).await;

    let replays = gateway.metric("replays_total").await.unwrap();
    crowd.scatter();
    write_to_all(&writer).await;
    head_is_at(&gateway, 2 * CONSUMERS).await;
    let recent = crowd.come_back(1).await;
    let now = gateway.metric("replays_total").await.unwrap();
    assert!(now <= replays, "recent events are read from memory, but there were {now} replays");

    gateway.signal(Signal::SIGKILL);
    gateway.ended(CLIENTS_TIMEOUT).await.unwrap();
    crowd.scatter();
    write_to_all(&writer).await;
    gateway.start();
    gateway.ready().await;
    let restart = crowd.come_back(1).await;
    let replayed = gateway.metric("replays_total").await.unwrap();

    crowd.scatter();
    crowd.cursors.fill("0".into());
    let crowded = async {
        let mut most = 0;
        loop {
            let sql = "select count(*) from pg_stat_activity
                       where datname = current_database() and application_name = 'event-piper'";
            most = most.max(writer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0));
            assert!(most <= 4, "{most} connections for replays");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let old = tokio::select! {
        took = crowd.come_back(3) => took,
        never = crowded => never,
    };
    let usage = gateway.usage();
    println!("{clients} clients come back with a recent cursor: caught up within {recent:.1?};");
    println!("  after a restart of the gateway: {restart:.1?}, {replayed} replays;");
    println!("  with an old one: {old:.1?}; {usage:?}");
    write_to_all(&writer).await;
    crowd.hear(1).await;
}

async fn head_is_at(gateway: &Process, head: usize) {
    let head = head.to_string().parse().unwrap();
    let read = async || (gateway.metric("head").await? >= head).then_some(());
    eventually("the gateway has read what was written", read).await;
}
