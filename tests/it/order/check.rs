//! What each client was promised, against what it got.

use std::{collections::BTreeSet, time::Duration};

use event_piper::order::Hold;

use super::{
    Stage,
    client::{Client, Manner},
    gateway::SLACK,
    ledger::Got,
    replaced::OLD,
    world::World,
};

/// A client is owed all of its own that became visible after it first connected, once, and what was
/// pruned before it could come is told.
pub(super) fn check(seed: u64, client: &Client, stage: &Stage) -> usize {
    let (world, ledger) = (&stage.world, &client.ledger);
    let got: BTreeSet<i64> = ledger.got.iter().map(|got| got.id).collect();
    assert_eq!(got.len(), ledger.got.len(), "seed {seed}: repeated in {:?}", ledger.got);
    let its = world.rows.values().filter(|row| client.wants(row)).map(|row| row.id);
    let lost: Vec<i64> = its.filter(|id| ledger.owes(*id) && !got.contains(id)).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    for got in &ledger.got {
        check_event(seed, got, client, stage);
    }
    check_strict(seed, client, stage.hold);
    check_pruned(seed, client, world);
    check_erased(seed, client, world);
    if client.manner == Manner::Probe {
        check_delays(seed, client, stage);
    }
    got.len()
}

/// An event is the client's own, of this log, and of the time since it came; and it says that it is
/// late only where its transaction was open longer than the hold.
fn check_event(seed: u64, got: &Got, client: &Client, stage: &Stage) {
    let world = &stage.world;
    if let Some(row) = world.rows.get(&got.id) {
        assert!(client.wants(row), "seed {seed}: foreign {row:?}");
        let same = got.xid == row.xid || row.xid == OLD;
        assert!(same, "seed {seed}: {got:?} is of another log than {row:?}");
    }
    let old = client.ledger.forbids(got.id) && !world.open_at_start.contains(&got.xid);
    assert!(!old, "seed {seed}: {got:?} was there before the client came");
    let Some(commit) = world.commits.get(&got.id) else { return };
    let held = match stage.hold {
        Hold::For(hold) => commit.lasted >= hold,
        Hold::Unlimited => false,
    };
    assert!(!got.late || held, "seed {seed}: {got:?} is late, of {commit:?}");
}

/// With an unlimited hold all comes in the order of the ids.
fn check_strict(seed: u64, client: &Client, hold: Hold) {
    let in_order = client.ledger.got.is_sorted_by_key(|got| got.id);
    assert!(hold != Hold::Unlimited || in_order, "seed {seed}: {:?}", client.ledger.got);
}

/// What is missing because it was pruned lies in a gap that was told.
fn check_pruned(seed: u64, client: &Client, world: &World) {
    let ledger = &client.ledger;
    let came = |id: i64| ledger.got.iter().any(|got| got.id == id);
    let its = world.pruned.values().filter(|row| client.wants(row)).map(|row| row.id);
    let silent: Vec<i64> =
        its.filter(|&id| ledger.owes(id) && !ledger.was_told(id) && !came(id)).collect();
    assert!(silent.is_empty(), "seed {seed}: {silent:?} were pruned, and not told");
}

/// What was erased is let go of with the next safety poll.
fn check_erased(seed: u64, client: &Client, world: &World) {
    for got in &client.ledger.got {
        let Some(erased) = world.erased_at.get(&(got.id, got.version)) else { continue };
        let late = got.at.saturating_duration_since(*erased);
        let most = Duration::from_secs(1) + SLACK;
        assert!(late < most, "seed {seed}: {got:?} came {late:?} after it was erased");
    }
}

/// Live means live: a row that nothing stands before comes at once, whatever is open; any other one
/// within one hold, and what passes before its writers are asked for.
fn check_delays(seed: u64, client: &Client, stage: &Stage) {
    for got in &client.ledger.got {
        let Some(commit) = stage.world.commits.get(&got.id) else { continue };
        let most = match stage.hold {
            _ if !commit.doubtful => SLACK,
            Hold::For(hold) => SLACK + hold + hold / 8,
            Hold::Unlimited => continue,
        };
        let took = got.at.saturating_duration_since(commit.at);
        assert!(took <= most, "seed {seed}: {got:?} took {took:?} of {most:?}");
    }
}
