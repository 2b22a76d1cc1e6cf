//! The environment of the fault tests: a PostgreSQL, several gateways in separate processes, and
//! a faulty network on both sides of each gateway.

use std::{net::SocketAddr, sync::Mutex as Lock, time::Duration};

use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{
    chaos_proxy::ChaosProxy,
    postgres::{Database, TestServer, try_connect},
    process::Process,
};

/// Longer than any fault lasts, also on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// Returns whether retrying the statement is pointless: syntax errors, and missing objects.
fn is_permanent(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("42"))
}

/// One environment.
pub(super) struct Arena {
    pub(super) postgres: TestServer,
    pub(super) database: Database,
    pub(super) stations: Vec<Station>,
    /// Held by a fault that starts or stops PostgreSQL, or changes its roles.
    pub(super) postgres_turn: Mutex<()>,
    /// Failures that were noticed, in addition to those of the clients.
    findings: Lock<Vec<String>>,
}

/// A gateway, and the networks to PostgreSQL and to its clients.
pub(super) struct Station {
    pub(super) gateway: Mutex<Process>,
    pub(super) to_postgres: ChaosProxy,
    pub(super) to_clients: ChaosProxy,
}

/// A crash of PostgreSQL must not lose a visible transaction: its WAL is written before the commit is visible. (The
/// kernel does not crash, so there is no need to flush to disk.)
const SETTINGS: &str = "synchronous_commit = on\n";

/// The gateways' role has only the rights that `roles.sql` grants.
const ROLES: &str = include_str!("../../../postgresql/roles.sql");
/// The role as which the gateways connect.
pub(super) const ROLE: &str = "piper";

/// Short times, so that tests do not wait long.
const FLAGS: [&str; 6] = ["--heartbeat", "400ms", "--drain", "2s", "--pool-size", "3"];

impl Arena {
    /// Starts a server for any number of arenas, one after the other.
    pub(super) async fn server() -> TestServer {
        TestServer::start_on_disk(SETTINGS).await
    }

    /// Builds an arena with this number of gateways, all of them ready.
    pub(super) async fn build(postgres: &TestServer, gateways: usize) -> Self {
        let database = Database::create_on_own(postgres).await;
        let client = database.connect().await;
        client.batch_execute(ROLES).await.unwrap();
        let create = format!(
            "do $$ begin create role {ROLE} login; exception when duplicate_object then end $$;
             grant event_piper_gateway to {ROLE}"
        );
        client.batch_execute(&create).await.unwrap();
        let mut stations = Vec::new();
        for _ in 0..gateways {
            stations.push(Station::build(postgres, &database).await);
        }
        for station in &stations {
            station.gateway.lock().await.ready().await;
        }
        let (postgres, postgres_turn) = (postgres.clone(), Mutex::default());
        Self { postgres, database, stations, postgres_turn, findings: Lock::default() }
    }

    /// Returns a superuser's connection, as soon as PostgreSQL accepts one.
    pub(super) async fn administrator(&self) -> Client {
        let connected = async {
            loop {
                if let Ok(client) = try_connect(&self.database.url()).await {
                    return client;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, connected).await.expect("PostgreSQL accepts connections")
    }

    /// Executes a statement as superuser, and retries until it succeeds.
    pub(super) async fn administer(&self, sql: &str) {
        let executed = async {
            while let Err(error) = self.administrator().await.batch_execute(sql).await {
                assert!(!is_permanent(&error), "{sql}: {error:?}");
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, executed).await.expect(sql);
    }

    /// Records a failure.
    pub(super) fn found(&self, what: String) {
        println!("FOUND: {what}");
        self.findings.lock().unwrap().push(what);
    }

    /// The recorded failures.
    pub(super) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap().clone()
    }

    /// Restarts gateways that exit, and records that as a failure.
    pub(super) async fn watch(&self, until: CancellationToken) {
        while until.run_until_cancelled(sleep(Duration::from_millis(100))).await.is_some() {
            for (number, station) in self.stations.iter().enumerate() {
                let Ok(mut gateway) = station.gateway.try_lock() else { continue };
                if let Some(status) = gateway.fallen() {
                    let log = gateway.log();
                    let last: Vec<&str> = log.lines().rev().take(4).collect();
                    self.found(format!("gateway {number} exited by itself, {status}: {last:#?}"));
                    gateway.start();
                }
            }
        }
    }
}

impl Station {
    async fn build(postgres: &TestServer, database: &Database) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let to_postgres = ChaosProxy::start(local(postgres.port())).await;
        let port = to_postgres.address().port();
        let url = format!("postgresql://{ROLE}@127.0.0.1:{port}/{}", database.name());
        let gateway = Process::launch(&url, &FLAGS);
        let to_clients = ChaosProxy::start(gateway.address()).await;
        Self { gateway: Mutex::new(gateway), to_postgres, to_clients }
    }
}
