//! Where the proof takes place: a PostgreSQL, some gateways in processes of their own, and
//! a network on either side of each.

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

/// Longer than any fault lasts, on a busy machine too.
const DEADLINE: Duration = Duration::from_mins(2);

/// The statement is wrong, and stays so: syntax errors, and what is not there.
fn is_wrong(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("42"))
}

/// See the module.
pub(super) struct Arena {
    pub(super) postgres: TestServer,
    pub(super) database: Database,
    pub(super) stations: Vec<Station>,
    /// Who starts and stops PostgreSQL, or changes its roles, does it alone.
    pub(super) postgres_turn: Mutex<()>,
    /// What was seen that must not be, beside what the clients got.
    findings: Lock<Vec<String>>,
}

/// A gateway, and the networks that lead to it and away from it.
pub(super) struct Station {
    pub(super) gateway: Mutex<Process>,
    pub(super) to_postgres: ChaosProxy,
    pub(super) to_clients: ChaosProxy,
}

/// A crash of PostgreSQL may lose no transaction that was visible: its log is written before
/// anybody is told. (The kernel survives, so there is no need to wait for a disk.)
const SETTINGS: &str = "synchronous_commit = on\n";

/// The gateways' role may do what `roles.sql` grants, and no more.
const ROLES: &str = include_str!("../../../postgresql/roles.sql");
/// As which the gateways connect.
pub(super) const ROLE: &str = "piper";

/// Quick enough that nobody waits for them long.
const FLAGS: [&str; 6] = ["--heartbeat", "400ms", "--drain", "2s", "--pool-size", "3"];

impl Arena {
    /// A server for any number of arenas, one after the other.
    pub(super) async fn server() -> TestServer {
        TestServer::start_on_disk(SETTINGS).await
    }

    /// An arena with so many gateways, all of them ready.
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

    /// A superuser's connection, as soon as PostgreSQL gives one.
    pub(super) async fn administrator(&self) -> Client {
        let connected = async {
            loop {
                if let Ok(client) = try_connect(&self.database.url()).await {
                    return client;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, connected).await.expect("PostgreSQL takes connections")
    }

    /// Executes as superuser, until that has succeeded.
    pub(super) async fn administer(&self, sql: &str) {
        let executed = async {
            while let Err(error) = self.administrator().await.batch_execute(sql).await {
                assert!(!is_wrong(&error), "{sql}: {error:?}");
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, executed).await.expect(sql);
    }

    /// Notes something that must not be.
    pub(super) fn found(&self, what: String) {
        println!("FOUND: {what}");
        self.findings.lock().unwrap().push(what);
    }

    /// What was noted.
    pub(super) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap().clone()
    }

    /// Starts gateways again that fall, which none should.
    pub(super) async fn watch(&self, until: CancellationToken) {
        while until.run_until_cancelled(sleep(Duration::from_millis(100))).await.is_some() {
            for (number, station) in self.stations.iter().enumerate() {
                let Ok(mut gateway) = station.gateway.try_lock() else { continue };
                if let Some(status) = gateway.fallen() {
                    let log = gateway.log();
                    let last: Vec<&str> = log.lines().rev().take(4).collect();
                    self.found(format!("gateway {number} ended by itself, {status}: {last:#?}"));
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
