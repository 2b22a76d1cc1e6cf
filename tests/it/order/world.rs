//! A simulated database: writers, the locks of the doorbell, and the visible rows.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use event_piper::event::{EventId, Logged, Xid};

use super::replaced::Backup;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) xid: u64,
    pub(super) consumer: usize,
    /// The number of its type.
    pub(super) kind: usize,
    /// Incremented when the row is erased.
    pub(super) version: u32,
}

impl Row {
    /// The payload, which identifies the log of the row, and its version.
    pub(super) fn payload(&self) -> String {
        format!("[{},{}]", self.version, self.xid)
    }

    /// Parses the version and the transaction from a payload.
    pub(super) fn what_says(payload: &[u8]) -> [u64; 2] {
        serde_json::from_slice(payload).unwrap()
    }
}

impl Logged for Row {
    fn id(&self) -> EventId {
        EventId::new(self.id)
    }
    fn xid(&self) -> Xid {
        Xid::new(self.xid)
    }
}

/// An open transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    begun: Instant,
    pub(super) rows: Vec<Row>,
    /// Whether the keeper was asleep when it started, so that it notifies when it commits.
    pub(super) rings: bool,
    /// Whether it rarely acts, and so stays open while many others start and end.
    slow: bool,
}

/// When a row became visible, and what determines how soon it must reach a live client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    pub(super) at: Instant,
    /// Whether ids were missing before it.
    pub(super) doubtful: bool,
    /// The time for which its transaction was open.
    pub(super) lasted: Duration,
}

/// The simulated database. Ids are drawn before commit; transactions commit or roll back in any order.
pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) now: Instant,
    /// The maximum latency of a query to the database, and of its result back, in microseconds.
    pub(super) latency: u64,
    pub(super) next_id: i64,
    pub(super) next_xid: u64,
    /// Ids with the transactions that drew them. A pair is never drawn again, because it identifies a row.
    drawn_by: HashSet<(i64, u64)>,
    pub(super) open: BTreeMap<u64, Transaction>,
    pub(super) rows: BTreeMap<i64, Row>,
    pub(super) commits: BTreeMap<i64, Commit>,
    /// The position of each gateway: its head, and its horizon.
    pub(super) passed: [(EventId, EventId); GATEWAYS],
    pub(super) pruned: BTreeMap<i64, Row>,
    /// Consumers whose rows were erased, in order.
    pub(super) erased: Vec<usize>,
    pub(super) erased_at: BTreeMap<(i64, u32), Instant>,
    /// The gateway that holds the bell, and the keeper.
    pub(super) bell: Option<usize>,
    pub(super) keeper: Option<usize>,
    pub(super) readers: HashSet<usize>,
    /// The time at which a notification reaches each gateway.
    pub(super) heard: [Option<Instant>; GATEWAYS],
    /// The greatest id that a TRUNCATE recorded as pruned.
    pub(super) noted: i64,
    /// A row was deleted that no gateway had read.
    pub(super) has_deleted: bool,
    /// How often rows were pruned.
    pub(super) prunings: usize,
    /// Which log this is: counts up when it is replaced. Up to `same_upto` it has rows of the one
    /// before only.
    pub(super) log: usize,
    pub(super) same_upto: EventId,
    pub(super) backup: Option<Backup>,
    /// Whether the log was replaced in a way that a gateway cannot detect with what it may have stored.
    pub(super) unknowable: bool,
    /// Transactions that were late at a gateway, and those that were open when one started.
    pub(super) late_ever: HashSet<u64>,
    pub(super) open_at_start: HashSet<u64>,
    /// The number of transactions that will still write hundreds of rows and commit late.
    pub(super) bulks: usize,
}

pub(super) const GATEWAYS: usize = 2;
pub(super) const CONSUMERS: usize = 3;
pub(super) const KINDS: usize = 3;

impl World {
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            random,
            now: Instant::now(),
            latency: 300,
            next_id: 1,
            next_xid: 100,
            drawn_by: HashSet::new(),
            open: BTreeMap::new(),
            rows: BTreeMap::new(),
            commits: BTreeMap::new(),
            passed: [(EventId::ZERO, EventId::ZERO); GATEWAYS],
            pruned: BTreeMap::new(),
            erased: Vec::new(),
            erased_at: BTreeMap::new(),
            bell: None,
            keeper: None,
            readers: HashSet::new(),
            heard: [None; GATEWAYS],
            noted: 0,
            has_deleted: false,
            prunings: 0,
            log: 0,
            same_upto: EventId::ZERO,
            backup: None,
            unknowable: false,
            late_ever: HashSet::new(),
            open_at_start: HashSet::new(),
            bulks: 0,
        }
    }

    pub(super) fn chance(&mut self, of: f64) -> bool {
        self.random.f64() < of
    }

    /// A random duration of at most `micros` microseconds.
    pub(super) fn random_duration(&mut self, micros: u64) -> Duration {
        Duration::from_micros(self.random.u64(1..=micros))
    }

    /// One random step of the writers.
    pub(super) fn move_writers(&mut self, most_open: usize) {
        if self.open.len() < most_open && self.chance(0.35) {
            let slow = self.chance(0.15);
            self.begin(slow);
            return;
        }
        if self.open.is_empty() {
            return;
        }
        let at = self.random.usize(0..self.open.len());
        let (xid, slow) = self.open.iter().nth(at).map(|(xid, open)| (*xid, open.slow)).unwrap();
        if slow && self.chance(0.9) {
            return;
        }
        match self.random.u8(0..100) {
            0..55 => {
                let rows = match self.bulks.checked_sub(1) {
                    Some(left) if slow => {
                        self.bulks = left;
                        self.random.usize(150..400)
                    }
                    _ if self.chance(0.05) => self.random.usize(20..80),
                    _ => 1,
                };
                (0..rows).for_each(|_| self.draw(xid));
            }
            55..60 => self.next_id += 1, // an id that is drawn and never used
            60..85 => self.end(xid, true),
            85..92 => self.end(xid, false),
            _ => {}
        }
    }

    /// Runs two transactions that draw an id each. The first rolls back, the second commits.
    pub(super) fn commit_behind_rollback(&mut self) {
        self.write_one(false);
        self.write_one(true);
    }

    /// Runs a transaction that writes one row and ends at once.
    pub(super) fn write_one(&mut self, commit: bool) {
        let xid = self.begin(false);
        self.draw(xid);
        self.end(xid, commit);
    }

    pub(super) fn begin(&mut self, slow: bool) -> u64 {
        let (xid, rings, begun) = (self.next_xid, self.bell.is_some(), self.now);
        self.open.insert(xid, Transaction { begun, rows: Vec::new(), rings, slow });
        self.next_xid += 1;
        xid
    }

    pub(super) fn draw(&mut self, xid: u64) {
        while !self.drawn_by.insert((self.next_id, xid)) {
            self.next_id += 1;
        }
        let (consumer, kind) = (self.random.usize(0..CONSUMERS), self.random.usize(0..KINDS));
        let row = Row { id: self.next_id, xid, consumer, kind, version: 0 };
        self.open.get_mut(&xid).unwrap().rows.push(row);
        self.next_id += 1;
    }

    pub(super) fn end_all(&mut self) {
        for xid in self.open.keys().copied().collect::<Vec<_>>() {
            self.end(xid, true);
        }
    }

    pub(super) fn end(&mut self, xid: u64, commit: bool) {
        let transaction = self.open.remove(&xid).unwrap();
        if !commit {
            return;
        }
        self.rows.extend(transaction.rows.iter().map(|row| (row.id, *row)));
        for row in transaction.rows {
            let (at, doubtful) = (self.now, self.is_doubtful(row.id));
            let lasted = at - transaction.begun;
            self.commits.insert(row.id, Commit { at, doubtful, lasted });
        }
        if transaction.rings {
            self.notify(None);
        }
    }

    /// Whether ids are missing before this one, which an open transaction may have drawn.
    fn is_doubtful(&self, id: i64) -> bool {
        let passed = self.passed.iter().map(|(head, _)| head.get()).min().unwrap_or(0);
        (passed + 1..id).any(|it| !self.rows.contains_key(&it))
    }

    pub(super) fn notify(&mut self, by: Option<usize>) {
        let at = self.now + Duration::from_micros(200);
        for gateway in 0..GATEWAYS {
            if Some(gateway) != by && self.readers.contains(&gateway) {
                self.heard[gateway].get_or_insert(at);
            }
        }
    }

    /// Ends the gateway's connection, and releases its locks.
    pub(super) fn disconnect(&mut self, gateway: usize) {
        self.bell.take_if(|holder| *holder == gateway);
        self.keeper.take_if(|holder| *holder == gateway);
        self.readers.remove(&gateway);
        self.heard[gateway] = None;
    }

    pub(super) fn try_keep(&mut self, gateway: usize) -> bool {
        *self.keeper.get_or_insert(gateway) == gateway
    }

    pub(super) fn try_sleep(&mut self, gateway: usize) -> bool {
        let free = self.open.values().all(|open| open.rings);
        if free {
            self.bell = Some(gateway);
        }
        free
    }

    /// Returns at most `limit` visible rows in this range, and whether these are all.
    pub(super) fn read(
        &self,
        (after, upto): (EventId, EventId),
        limit: usize,
        wanted: impl Fn(&Row) -> bool,
    ) -> (Vec<Row>, bool) {
        if after >= upto {
            return (Vec::new(), true);
        }
        let range = self.rows.range(after.get() + 1..=upto.get()).map(|(_, row)| *row);
        let mut rows: Vec<Row> = range.filter(wanted).take(limit + 1).collect();
        let all = rows.len() <= limit;
        rows.truncate(limit);
        (rows, all)
    }

    /// The last id that was drawn.
    pub(super) fn drawn(&self) -> EventId {
        EventId::new(self.next_id - 1)
    }

    /// `pg_current_snapshot()`.
    pub(super) fn snapshot(&self) -> String {
        let open: Vec<String> = self.open.keys().map(ToString::to_string).collect();
        let xmin = self.open.keys().next().unwrap_or(&self.next_xid);
        format!("{xmin}:{}:{}", self.next_xid, open.join(","))
    }

    /// The greatest visible id.
    pub(super) fn newest(&self) -> EventId {
        EventId::new(self.rows.keys().next_back().copied().unwrap_or(0))
    }

    pub(super) fn writers(&self) -> Vec<Xid> {
        self.open.keys().copied().map(Xid::new).collect()
    }

    pub(super) fn ended(&self, asked: &[Xid]) -> Vec<Xid> {
        asked.iter().copied().filter(|xid| !self.open.contains_key(&xid.get())).collect()
    }

    /// Deletes some of the oldest rows at or before the horizon of all gateways.
    pub(super) fn prune(&mut self) {
        let upto = self.passed.iter().map(|(_, settled)| settled.get()).min().unwrap_or(0);
        let ids: Vec<i64> = self.rows.range(..=upto).map(|(id, _)| *id).collect();
        let some = self.random.usize(0..=ids.len() / 2);
        self.prunings += usize::from(some > 0);
        for id in &ids[..some] {
            let row = self.rows.remove(id).unwrap();
            self.pruned.insert(*id, row);
            self.forget_in_backup(&row, true);
        }
    }

    /// Deletes the newest row, before any gateway has read it.
    pub(super) fn delete_newest(&mut self) {
        let passed = self.passed.iter().map(|(head, _)| head.get()).max().unwrap_or(0);
        if let Some(newest) = self.rows.last_entry().filter(|it| *it.key() > passed) {
            let row = newest.remove();
            self.has_deleted = true;
            self.forget_in_backup(&row, false);
        }
    }

    /// The greatest pruned id, as recorded. A record beyond all drawn ids belongs to another log.
    pub(super) fn pruned_upto(&self) -> EventId {
        let noted = EventId::new(self.noted);
        let noted = if noted <= self.drawn() { noted } else { EventId::ZERO };
        noted.max(EventId::new(self.pruned.keys().last().copied().unwrap_or(0)))
    }

    /// Erases all visible rows of a random consumer.
    pub(super) fn erase(&mut self) {
        let consumer = self.random.usize(0..CONSUMERS);
        for row in self.rows.values_mut().filter(|row| row.consumer == consumer) {
            self.erased_at.insert((row.id, row.version), self.now);
            row.version += 1;
        }
        self.erased.push(consumer);
    }
}
