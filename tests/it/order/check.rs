//! Checks the events of each client against the guarantees.

use std::{collections::BTreeSet, time::Duration};

use event_piper::order::Hold;

use super::{
    Simulation,
    client::{Client, Reaction},
    gateway::SLACK,
    ledger::Got,
    replaced::OLD,
    world::World,
};

/// A client must get each of its events that became visible after it first connected, once, and a gap for events
/// that were pruned before they were delivered.
pub(super) fn check(seed: u64, client: &Client, simulation: &Simulation) -> usize {
    let (world, ledger) = (&simulation.world, &client.ledger);
    let got: BTreeSet<i64> = ledger.got.iter().map(|got| got.id).collect();
    assert_eq!(got.len(), ledger.got.len(), "seed {seed}: repeated in {:?}", ledger.got);
    let its = world.rows.values().filter(|row| client.wants(row)).map(|row| row.id);
    let lost: Vec<i64> = its.filter(|id| ledger.owes(*id) && !got.contains(id)).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    for got in &ledger.got {
        check_event(seed, got, client, simulation);
    }
    check_strict(seed, client, simulation.hold);
    check_pruned(seed, client, world);
    check_erased(seed, client, world);
    if client.reaction == Reaction::Probe {
        check_delays(seed, client, simulation);
    }
    got.len()
}

/// A received event must be for the client, of this log, and not from before the client connected. It may be marked as
/// late only if its transaction was open for longer than the hold.
fn check_event(seed: u64, got: &Got, client: &Client, simulation: &Simulation) {
    let world = &simulation.world;
    if let Some(row) = world.rows.get(&got.id) {
        assert!(client.wants(row), "seed {seed}: {row:?} is not for this client");
        let same = got.xid == row.xid || row.xid == OLD;
        assert!(same, "seed {seed}: {got:?} comes from another log than {row:?}");
    }
    let old = client.ledger.forbids(got.id) && !world.open_at_start.contains(&got.xid);
    assert!(!old, "seed {seed}: {got:?} was visible before the client connected");
    let Some(commit) = world.commits.get(&got.id) else { return };
    let held = match simulation.hold {
        Hold::For(hold) => commit.lasted >= hold,
        Hold::Unlimited => false,
    };
    assert!(!got.late || held, "seed {seed}: {got:?} is marked as late, but not by {commit:?}");
}

/// With an unlimited hold, events must arrive in id order.
fn check_strict(seed: u64, client: &Client, hold: Hold) {
    let in_order = client.ledger.got.is_sorted_by_key(|got| got.id);
    assert!(hold != Hold::Unlimited || in_order, "seed {seed}: {:?}", client.ledger.got);
}

/// Pruned events that are missing must lie in a gap that the client was told about.
fn check_pruned(seed: u64, client: &Client, world: &World) {
    let ledger = &client.ledger;
    let came = |id: i64| ledger.got.iter().any(|got| got.id == id);
    let its = world.pruned.values().filter(|row| client.wants(row)).map(|row| row.id);
    let silent: Vec<i64> =
        its.filter(|&id| ledger.owes(id) && !ledger.was_told(id) && !came(id)).collect();
    assert!(silent.is_empty(), "seed {seed}: {silent:?} were pruned without a gap");
}

/// Erased events must be evicted with the next safety poll.
fn check_erased(seed: u64, client: &Client, world: &World) {
    for got in &client.ledger.got {
        let Some(erased) = world.erased_at.get(&(got.id, got.version)) else { continue };
        let late = got.at.saturating_duration_since(*erased);
        let most = Duration::from_secs(1) + SLACK;
        assert!(late < most, "seed {seed}: {got:?} arrived {late:?} after it was erased");
    }
}

/// Limits of the delay: a row without missing ids before it must arrive at once, regardless of open transactions. Any
/// other row must arrive within one hold, plus the time until the writers are queried.
fn check_delays(seed: u64, client: &Client, simulation: &Simulation) {
    for got in &client.ledger.got {
        let Some(commit) = simulation.world.commits.get(&got.id) else { continue };
        let most = match simulation.hold {
            _ if !commit.doubtful => SLACK,
            Hold::For(hold) => SLACK + hold + hold / 8,
            Hold::Unlimited => continue,
        };
        let took = got.at.saturating_duration_since(commit.at);
        assert!(took <= most, "seed {seed}: {got:?} took {took:?}, limit {most:?}");
    }
}
