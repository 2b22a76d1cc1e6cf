//! The faults. Each starts, lasts for a while, and ends.

use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::arena::{Arena, ROLE, Station};
use crate::support::{
    chaos_proxy::{ChaosProxy, Strike, Weather},
    postgres::{Stop, TestServer},
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9`.
    GatewayKilled,
    /// SIGTERM.
    GatewayTerminated,
    /// SIGSTOP, and SIGCONT later.
    GatewayFrozen,
    /// The same for the gateway that keeps the bell.
    KeeperFrozen,
    PostgresStopped,
    PostgresAborted,
    /// `kill -9` of the postmaster and all of its children.
    PostgresKilled,
    /// Each write to disk takes longer, and so do commits.
    DiskSlow,
    /// Files cannot grow: inserts fail, and PostgreSQL may panic.
    DiskFull,
    ListenersEnded,
    PoolsEnded,
    /// The session that keeps the bell is terminated.
    KeeperEnded,
    /// The connections between a gateway and PostgreSQL are closed.
    DatabaseCut,
    DatabaseBlackHole,
    /// PostgreSQL vanishes silently; the gateway's socket stays open.
    DatabaseVanishes,
    /// The gateway vanishes silently; its sessions and their locks stay.
    GatewayVanishes,
    DatabaseSlow,
    DatabaseRefuses,
    /// The connections between a gateway and its clients are closed.
    ClientsCut,
    ClientsBlackHole,
    GatewayVanishesForClients,
    ClientsVanish,
    ClientsSlow,
    /// The gateways' role cannot connect.
    ConnectionLimit,
    /// An administrator sets timeouts of 1 ms for the gateways' role.
    Timeouts,
}

/// Faults of the gateway's process.
pub(super) const OF_GATEWAYS: [Fault; 4] =
    [Fault::GatewayKilled, Fault::GatewayTerminated, Fault::GatewayFrozen, Fault::KeeperFrozen];

/// Faults of PostgreSQL and of its administrator.
pub(super) const OF_POSTGRES: [Fault; 10] = [
    Fault::PostgresStopped,
    Fault::PostgresAborted,
    Fault::PostgresKilled,
    Fault::DiskSlow,
    Fault::DiskFull,
    Fault::ListenersEnded,
    Fault::PoolsEnded,
    Fault::KeeperEnded,
    Fault::ConnectionLimit,
    Fault::Timeouts,
];

/// Faults of the network between gateways and PostgreSQL.
pub(super) const OF_THE_NETWORK: [Fault; 6] = [
    Fault::DatabaseCut,
    Fault::DatabaseBlackHole,
    Fault::DatabaseVanishes,
    Fault::GatewayVanishes,
    Fault::DatabaseSlow,
    Fault::DatabaseRefuses,
];

/// Faults of the network between gateways and clients.
pub(super) const OF_CLIENTS: [Fault; 5] = [
    Fault::ClientsCut,
    Fault::ClientsBlackHole,
    Fault::GatewayVanishesForClients,
    Fault::ClientsVanish,
    Fault::ClientsSlow,
];

/// A scheduled fault: its kind, its time, its duration, and the gateway that it affects.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScheduledFault {
    pub(super) at: Duration,
    pub(super) fault: Fault,
    pub(super) station: usize,
    pub(super) lasts: Duration,
}

/// Random faults, so close together that they overlap.
pub(super) fn storm(random: &mut Rng, length: Duration, stations: usize) -> Vec<ScheduledFault> {
    let all = [&OF_GATEWAYS[..], &OF_POSTGRES, &OF_THE_NETWORK, &OF_CLIENTS].concat();
    let mut at = Duration::from_secs(1);
    let mut schedule = Vec::new();
    while at < length {
        schedule.push(ScheduledFault::random(
            random,
            at,
            all[random.clone().usize(0..all.len())],
            stations,
        ));
        at += Duration::from_millis(random.u64(50..2_500));
    }
    schedule
}

impl ScheduledFault {
    /// Schedules this fault for a random gateway and duration: mostly short, sometimes longer than a gateway's
    /// deadlines.
    pub(super) fn random(random: &mut Rng, at: Duration, fault: Fault, stations: usize) -> Self {
        let longest = if random.u8(0..12) == 0 { 12_000 } else { 1_500 };
        let lasts = Duration::from_millis(random.u64(50..longest));
        Self { at, fault, station: random.usize(0..stations), lasts }
    }

    /// Runs the fault from its start to its end.
    pub(super) async fn strike(self, arena: &Arena) {
        let station = &arena.stations[self.station];
        match self.fault {
            Fault::GatewayKilled => self.kill(station).await,
            Fault::GatewayTerminated => self.terminate(arena, station).await,
            Fault::GatewayFrozen => self.freeze(station).await,
            Fault::KeeperFrozen => self.freeze(keeper(arena).await.unwrap_or(station)).await,
            Fault::PostgresStopped => self.restart_postgres(arena, Stop::Fast).await,
            Fault::PostgresAborted => self.restart_postgres(arena, Stop::Immediate).await,
            Fault::PostgresKilled => self.restart_postgres(arena, Stop::Kill).await,
            Fault::DiskSlow => self.slow_disk(arena).await,
            Fault::DiskFull => self.fill_disk(arena).await,
            Fault::ListenersEnded => end(arena, "application_name = 'event-piper listener'").await,
            Fault::PoolsEnded => end(arena, "application_name = 'event-piper'").await,
            Fault::KeeperEnded => end(arena, KEEPS_THE_BELL).await,
            Fault::ConnectionLimit => {
                self.alter_role(arena, "connection limit 0", "connection limit -1").await;
            }
            Fault::Timeouts => self.set_timeouts(arena).await,
            _ => self.strike_network(station).await,
        }
    }

    async fn strike_network(self, station: &Station) {
        let (database, clients) = (&station.to_postgres, &station.to_clients);
        let fair = Weather::default();
        let black = Weather { black_hole: true, ..fair };
        let slow = Weather { delay: self.lasts / 20, ..fair };
        let narrow = Weather { pace: Some(20_000), ..slow };
        match self.fault {
            Fault::DatabaseCut => database.strike(Strike::Cut),
            Fault::DatabaseVanishes => database.strike(Strike::LoseServer),
            Fault::GatewayVanishes => database.strike(Strike::LoseClient),
            Fault::DatabaseBlackHole => self.change(database, black).await,
            Fault::DatabaseSlow => self.change(database, slow).await,
            Fault::DatabaseRefuses => {
                database.strike(Strike::Cut);
                self.change(database, Weather { refuse: true, ..fair }).await;
            }
            Fault::ClientsCut => clients.strike(Strike::Cut),
            Fault::GatewayVanishesForClients => clients.strike(Strike::LoseServer),
            Fault::ClientsVanish => clients.strike(Strike::LoseClient),
            Fault::ClientsBlackHole => self.change(clients, black).await,
            Fault::ClientsSlow => self.change(clients, narrow).await,
            other => unreachable!("{other:?} is not a network fault"),
        }
    }

    async fn change(self, proxy: &ChaosProxy, weather: Weather) {
        proxy.set(weather);
        sleep(self.lasts).await;
        proxy.clear();
    }

    async fn kill(self, station: &Station) {
        let mut gateway = station.gateway.lock().await;
        if gateway.fallen().is_none() {
            gateway.signal(Signal::SIGKILL);
            gateway.ended(Duration::from_mins(2)).await.expect("a killed process exits");
        }
        sleep(self.lasts / 2).await;
        gateway.start();
    }

    async fn terminate(self, arena: &Arena, station: &Station) {
        let mut gateway = station.gateway.lock().await;
        if gateway.fallen().is_none() {
            gateway.signal(Signal::SIGTERM);
            match gateway.ended(Duration::from_secs(8)).await {
                Some(status) if status.success() => {}
                Some(status) => arena.found(format!("SIGTERM: the gateway exited with {status}")),
                None => {
                    arena.found("SIGTERM: the gateway did not exit long after --drain".into());
                    gateway.signal(Signal::SIGKILL);
                    gateway.ended(Duration::from_secs(10)).await;
                }
            }
        }
        sleep(self.lasts / 4).await;
        gateway.start();
    }

    async fn freeze(self, station: &Station) {
        let gateway = station.gateway.lock().await;
        gateway.signal(Signal::SIGSTOP);
        sleep(self.lasts).await;
        gateway.signal(Signal::SIGCONT);
    }

    async fn restart_postgres(self, arena: &Arena, how: Stop) {
        let _turn = arena.postgres_turn.lock().await;
        arena.postgres.stop(how).await;
        sleep(self.lasts / 2).await;
        arena.postgres.start().await;
    }

    async fn slow_disk(self, arena: &Arena) {
        arena.postgres.disk().set_slow(Some(Duration::from_millis(30)));
        sleep(self.lasts).await;
        arena.postgres.disk().set_slow(None);
    }

    /// If the WAL cannot grow, PostgreSQL panics, and may not restart until there is space. Then it is started, as an
    /// administrator would.
    async fn fill_disk(self, arena: &Arena) {
        let _turn = arena.postgres_turn.lock().await;
        arena.postgres.disk().set_full(true);
        sleep(self.lasts).await;
        arena.postgres.disk().set_full(false);
        if !arena.postgres.runs().await {
            arena.postgres.start().await;
        }
    }

    async fn alter_role(self, arena: &Arena, bad: &str, good: &str) {
        let _turn = arena.postgres_turn.lock().await;
        arena.administer(&format!("alter role {ROLE} {bad}")).await;
        end(arena, "application_name like 'event-piper%'").await;
        sleep(self.lasts).await;
        arena.administer(&format!("alter role {ROLE} {good}")).await;
    }

    /// Sessions that start during the fault keep these timeouts after its end.
    async fn set_timeouts(self, arena: &Arena) {
        let all = ["statement_timeout", "lock_timeout", "idle_session_timeout"];
        // idle_session_timeout exists since version 14.
        let all = &all[..if TestServer::major() < 14 { 2 } else { 3 }];
        let set = all.iter().map(|name| format!("set {name} = '1ms'; alter role {ROLE} "));
        let reset = all.iter().map(|name| format!("reset {name}; alter role {ROLE} "));
        let [set, reset] = [set.collect::<String>(), reset.collect()];
        let (set, reset) = (set + "connection limit -1", reset + "connection limit -1");
        self.alter_role(arena, &set, &reset).await;
    }
}

const KEEPS_THE_BELL: &str = "pid in (
    select pid from pg_locks where locktype = 'advisory' and classid = 17744 and objid = 3)";

/// Terminates the gateways' sessions that match a condition, if PostgreSQL is available.
async fn end(arena: &Arena, which: &str) {
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and {which}"
    );
    // Ignore errors: another fault may have made PostgreSQL unavailable.
    let _ = arena.administrator().await.batch_execute(&sql).await;
}

/// The station of the gateway that keeps the bell, if there is one.
async fn keeper(arena: &Arena) -> Option<&Station> {
    for station in &arena.stations {
        let gateway = station.gateway.try_lock().ok()?;
        for state in ["asleep", "awake"] {
            if gateway.metric(&format!("doorbell{{state=\"{state}\"}}")).await == Some(1.0) {
                return Some(station);
            }
        }
    }
    None
}
