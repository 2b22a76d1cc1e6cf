//! Checks that each client received exactly the events of the table that it had to get.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use event_piper::item::frame::compact;
use tokio_postgres::Client;

use super::{
    clients::{Behavior, Got, Journal, digest},
    writers::Fate,
};

/// The contents of the table after the run. It alone decides which events clients had to get.
#[derive(Debug, Default)]
pub(super) struct Truth(BTreeMap<i64, Row>);

#[derive(Debug)]
struct Row {
    xid: u64,
    subscriber: String,
    kind: String,
    digest: u64,
    number: u64,
}

const TABLE: &str = "
select id, xid::text, subscriber, type, payload::text, (payload->>'n')::int8
from events where id > $1 order by id limit 2000";

impl Truth {
    /// Reads the whole table.
    pub(super) async fn read(client: &Client) -> Self {
        let mut truth = Self::default();
        loop {
            let last = truth.0.last_key_value().map_or(0, |(id, _)| *id);
            let page = client.query(TABLE, &[&last]).await.unwrap();
            if page.is_empty() {
                return truth;
            }
            for row in page {
                let kind: String = row.get(3);
                let digest = digest(&kind, &compact(row.get(4)));
                let xid = row.get::<_, String>(1).parse().unwrap();
                let number = row.get::<_, i64>(5).try_into().unwrap();
                let read = Row { xid, subscriber: row.get(2), kind, digest, number };
                truth.0.insert(row.get(0), read);
            }
        }
    }

    /// The number of events.
    pub(super) fn event_count(&self) -> usize {
        self.0.len()
    }

    /// Compares the table with what its writers know. Returns the differences.
    pub(super) fn against(&self, fates: &HashMap<u64, Fate>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut numbers = BTreeSet::new();
        for (id, row) in &self.0 {
            if !numbers.insert(row.number) {
                faults
                    .push(format!("number {} is in the table twice, again as id {id}", row.number));
            }
        }
        for (number, fate) in fates {
            if (*fate == Fate::Committed) != numbers.contains(number) && *fate != Fate::Unknown {
                faults
                    .push(format!("the table contradicts the writer of number {number}: {fate:?}"));
            }
        }
        faults
    }

    /// The ids of the events that a client must get after the cursor `begin`.
    pub(super) fn owed(&self, behavior: &Behavior, begin: &str) -> BTreeSet<i64> {
        let begin = Begin::read(begin);
        let its = |(id, row): &(&i64, &Row)| {
            behavior.consumers.contains(&row.subscriber)
                && (behavior.kinds.is_empty() || behavior.kinds.contains(&row.kind.as_str()))
                && begin.owes(**id, row.xid)
        };
        self.0.iter().filter(its).map(|(id, _)| *id).collect()
    }

    /// Checks the events of a client. Returns a description of each failure.
    pub(super) fn judge(&self, behavior: &Behavior, journal: &Journal) -> Vec<String> {
        let Some(begin) = &journal.begin else { return vec!["it never received a cursor".into()] };
        let owed = self.owed(behavior, begin);
        let mut faults = journal.complaints.clone();
        let mut got = BTreeMap::new();
        for event in &journal.got {
            if let Some(first) = got.insert(event.row, event.connection) {
                let again = event.connection;
                faults
                    .push(format!("event {} twice, on connections {first} and {again}", event.row));
            }
            match self.0.get(&event.row) {
                None => faults.push(format!("event {} is not in the table", event.row)),
                Some(_) if !owed.contains(&event.row) => faults.push(format!(
                    "event {} on connection {} is not for this client",
                    event.row, event.connection
                )),
                Some(row) if row.digest != event.digest => faults.push(format!(
                    "event {} on connection {} was altered",
                    event.row, event.connection
                )),
                Some(_) => {}
            }
        }
        for id in owed.iter().filter(|id| !got.contains_key(id)) {
            let row = &self.0[id];
            faults.push(format!(
                "event {id} of {} is missing (transaction {})",
                row.subscriber, row.xid
            ));
        }
        faults.extend(disorder(&journal.got));
        faults
    }
}

/// Events must arrive in id order, except those that are marked as late.
fn disorder(got: &[Got]) -> Vec<String> {
    let mut last = 0;
    let mut faults = Vec::new();
    for event in got.iter().filter(|event| !event.late) {
        if event.row < last {
            let (row, connection) = (event.row, event.connection);
            faults.push(format!(
                "event {row} on connection {connection} arrived after {last}, and is not late"
            ));
        }
        last = last.max(event.row);
    }
    faults
}

/// A cursor, parsed without the code under test.
struct Begin {
    head: i64,
    marks: HashMap<u64, i64>,
}

impl Begin {
    fn read(cursor: &str) -> Self {
        let mut parts = cursor.split('~');
        let head = parts.next().unwrap().rsplit('@').next().unwrap().parse().unwrap();
        let mark = |part: &str| {
            let (xid, upto) = part.split_once(':').unwrap();
            (xid.parse().unwrap(), upto.parse().unwrap())
        };
        Self { head, marks: parts.map(mark).collect() }
    }

    fn owes(&self, id: i64, xid: u64) -> bool {
        id > self.head || self.marks.get(&xid).is_some_and(|upto| id > *upto)
    }
}

/// A short report of one client's failures.
pub(super) fn report(behavior: &Behavior, journal: &Journal, faults: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = format!("client {:?} of {:?}:\n", behavior.name, behavior.consumers);
    for fault in faults.iter().take(SHOWN) {
        writeln!(text, "  {fault}").unwrap();
    }
    if faults.len() > SHOWN {
        writeln!(text, "  and {} more", faults.len() - SHOWN).unwrap();
    }
    writeln!(text, "  it started after {:?}; its last connections were:", journal.begin).unwrap();
    let skipped = journal.connections.len().saturating_sub(SHOWN);
    for (number, line) in journal.connections.iter().enumerate().skip(skipped) {
        writeln!(text, "  {:>5}  {line}", number + 1).unwrap();
    }
    text
}
