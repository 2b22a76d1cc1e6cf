//! Runs the aggregator with a real pump, which reads from a real PostgreSQL.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use event_piper::{
    embedded,
    gateway::followed::{self, FollowedLog},
    metrics::Metrics,
    order::Hold,
    pump::{
        CatchUp, OnRefusal, Pump, Settings,
        aggregator::Target,
        feed::{BatchSize, EventFormat, Filter},
        fields::Fields,
        resume::Start,
        status::Status,
    },
    store::{migrate::migrate, server::Server},
    tail::safety::Checks,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// The running program. A restart uses the same address and file. It is killed when it is dropped.
struct Aggregator {
    child: Child,
    address: String,
    file: PathBuf,
}

impl Aggregator {
    fn start(address: &str, file: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator"));
        let mut child = command.arg(address).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.trim().rsplit_once('/').expect("the aggregator prints its address").1.to_owned();
        Self { child, address, file: file.to_owned() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let again = Self::start(&self.address, &self.file);
        *self = again;
    }

    /// Waits until the aggregator has counted `count` events.
    async fn has(&self, count: i64) {
        let begun = Instant::now();
        loop {
            let counts = self.counts().await;
            if counts == Some(count) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{counts:?} and not {count}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn counts(&self) -> Option<i64> {
        let mut socket = TcpStream::connect(&self.address).await.ok()?;
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        let counts: Vec<serde_json::Value> =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()?;
        Some(counts.iter().filter_map(|it| it["events"].as_i64()).sum())
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(address: &str) -> Settings {
    let (host, port) = address.split_once(':').unwrap();
    let size = BatchSize { events: 50, bytes: 1 << 20 };
    Settings {
        name: "example".into(),
        target: Target {
            host: host.into(),
            port: port.parse().unwrap(),
            base: "/".into(),
            batch_path: "events/batch".into(),
            tls: None,
            token: None,
            key: None,
            timeout: Duration::from_secs(5),
        },
        format: EventFormat { filter: Filter::default(), fields: Fields::default(), size },
        start: Start::Beginning,
        longest_pause: Duration::from_millis(200),
        refusals: 3,
        on_refusal: OnRefusal::Stop,
        catch_up: CatchUp::Events,
    }
}

async fn write(server: &Server, count: i32) {
    let insert = "insert into events (type, subscriber, payload)
        select 'insert', 'toto', to_jsonb(n) from generate_series(1, $1::int) n";
    server.client().await.unwrap().execute(insert, &[&count]).await.unwrap();
}

#[tokio::test]
async fn each_event_is_counted_once_across_aggregator_failures() {
    let folder = env::temp_dir().join(format!("ep-example-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let data_dir = folder.join("postgres");
    let postgres = embedded::Settings { data_dir, binaries: None, port: None };
    let postgres = embedded::start(postgres).await.unwrap();
    let server = Server::parse(postgres.url()).unwrap();
    migrate(&server).await.unwrap();
    let file = folder.join("aggregator.db");
    let mut aggregator = Aggregator::start("127.0.0.1:0", &file);

    let (metrics, leaving) = (Arc::new(Metrics::new()), CancellationToken::new());
    let reading = followed::Settings {
        hold: Hold::For(Duration::from_millis(20)),
        pool: 2,
        queries_each: None,
        checks: Checks::default(),
    };
    let log = FollowedLog::start(&server, &reading, &metrics);
    let settings = settings(&aggregator.address);
    let status = Status::new(&settings.name, metrics);
    let pump = Pump::new(&server, log.read(), settings, status);
    let pumping = tokio::spawn(pump.run(leaving.clone()));

    write(&server, 1000).await;
    aggregator.has(1000).await;
    // The aggregator is killed, and restarts with its file.
    aggregator.kill();
    write(&server, 10).await;
    aggregator.restart();
    aggregator.has(1010).await;
    // The aggregator is killed, and restarts without its file.
    aggregator.kill();
    for name in ["aggregator.db", "aggregator.db-wal", "aggregator.db-shm"] {
        let _ = fs::remove_file(folder.join(name));
    }
    aggregator.restart();
    write(&server, 10).await;
    aggregator.has(1020).await;

    leaving.cancel();
    pumping.await.unwrap();
    log.stop().await;
    postgres.stop().await;
    fs::remove_dir_all(&folder).unwrap();
}
