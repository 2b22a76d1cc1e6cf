//! What goes wrong: each fault strikes, lasts, and is over.

use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::arena::{Arena, ROLE, Station};
use crate::support::{
    chaos_proxy::{ChaosProxy, Strike, Weather},
    postgres::{Stop, TestServer},
};

/// Everything that goes wrong here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9`.
    GatewayKilled,
    /// SIGTERM.
    GatewayTerminated,
    /// SIGSTOP, and SIGCONT later.
    GatewayFrozen,
    /// The gateway that keeps the bell is frozen, whichever that is.
    KeeperFrozen,
    PostgresStopped,
    PostgresAborted,
    /// `kill -9` of the postmaster and all of its children.
    PostgresKilled,
    /// Each write takes longer: commits, too.
    DiskSlow,
    /// What is there can be overwritten, and nothing grows: inserts fail, PostgreSQL may panic.
    DiskFull,
    ListenersEnded,
    PoolsEnded,
    /// The session that keeps the bell is ended.
    KeeperEnded,
    /// Between a gateway and PostgreSQL.
    DatabaseCut,
    DatabaseBlackHole,
    /// PostgreSQL vanishes without a word; the gateway's socket stays open.
    DatabaseVanishes,
    /// The gateway vanishes without a word: its sessions, and their locks, stay.
    GatewayVanishes,
    DatabaseSlow,
    DatabaseRefuses,
    /// Between a gateway and its clients.
    ClientsCut,
    ClientsBlackHole,
    GatewayVanishesForClients,
    ClientsVanish,
    ClientsSlow,
    /// The gateways' role gets no connection.
    ConnectionLimit,
    /// An administrator sets timeouts for the gateways' role that nothing can keep.
    Timeouts,
}

/// Of the gateway's process.
pub(super) const OF_GATEWAYS: [Fault; 4] =
    [Fault::GatewayKilled, Fault::GatewayTerminated, Fault::GatewayFrozen, Fault::KeeperFrozen];

/// Of PostgreSQL, and of its administrator.
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

/// Of the network before PostgreSQL.
pub(super) const OF_THE_NETWORK: [Fault; 6] = [
    Fault::DatabaseCut,
    Fault::DatabaseBlackHole,
    Fault::DatabaseVanishes,
    Fault::GatewayVanishes,
    Fault::DatabaseSlow,
    Fault::DatabaseRefuses,
];

/// Of the network before the clients.
pub(super) const OF_CLIENTS: [Fault; 5] = [
    Fault::ClientsCut,
    Fault::ClientsBlackHole,
    Fault::GatewayVanishesForClients,
    Fault::ClientsVanish,
    Fault::ClientsSlow,
];

/// A fault in time and space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blow {
    pub(super) at: Duration,
    pub(super) fault: Fault,
    pub(super) station: usize,
    pub(super) lasts: Duration,
}

/// Faults at random, so close that they overlap.
pub(super) fn storm(dice: &mut Rng, length: Duration, stations: usize) -> Vec<Blow> {
    let all = [&OF_GATEWAYS[..], &OF_POSTGRES, &OF_THE_NETWORK, &OF_CLIENTS].concat();
    let mut at = Duration::from_secs(1);
    let mut blows = Vec::new();
    while at < length {
        blows.push(Blow::random(dice, at, all[dice.clone().usize(0..all.len())], stations));
        at += Duration::from_millis(dice.u64(50..2_500));
    }
    blows
}

impl Blow {
    /// This fault, somewhere, for some time: short mostly, at times longer than a gateway
    /// waits for an answer.
    pub(super) fn random(dice: &mut Rng, at: Duration, fault: Fault, stations: usize) -> Self {
        let longest = if dice.u8(0..12) == 0 { 12_000 } else { 1_500 };
        let lasts = Duration::from_millis(dice.u64(50..longest));
        Self { at, fault, station: dice.usize(0..stations), lasts }
    }

    /// Strikes, lasts, and is over.
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
            other => unreachable!("{other:?} is no fault of the network"),
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
            gateway.ended(Duration::from_mins(2)).await.expect("who is killed ends");
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
                Some(status) => arena.found(format!("SIGTERM: left with {status}")),
                None => {
                    arena.found("SIGTERM: still there long after the time to drain".into());
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

    /// A log that cannot grow makes PostgreSQL panic, and it may not come up again before there
    /// is room: an administrator starts it then.
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

    /// Sessions that began meanwhile keep those timeouts as long as they live.
    async fn set_timeouts(self, arena: &Arena) {
        let all = ["statement_timeout", "lock_timeout", "idle_session_timeout"];
        // The last one is there from version 14 on.
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

/// Ends the gateways' sessions that are so, if PostgreSQL is there.
async fn end(arena: &Arena, which: &str) {
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and {which}"
    );
    // It may be away, by another fault.
    let _ = arena.administrator().await.batch_execute(&sql).await;
}

/// The station whose gateway keeps the bell, if one of them does.
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
