//! What each client was owed, by the table, and whether it got that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use event_piper::item::frame::compact;
use tokio_postgres::Client;

use super::{
    clients::{Diary, Got, Habits, digest},
    writers::Fate,
};

/// The table at the end: nothing else decides what was owed.
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

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What of the table is not as its writers were told.
    pub(super) fn against(&self, fates: &HashMap<u64, Fate>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut there = BTreeSet::new();
        for (id, row) in &self.0 {
            if !there.insert(row.number) {
                faults.push(format!("the table has {} twice, again as {id}", row.number));
            }
        }
        for (number, fate) in fates {
            if (*fate == Fate::Committed) != there.contains(number) && *fate != Fate::Unknown {
                faults.push(format!("the table and the writer of {number} differ: {fate:?}"));
            }
        }
        faults
    }

    /// The ids that a client of these habits is owed from `begin` on.
    pub(super) fn owed(&self, habits: &Habits, begin: &str) -> BTreeSet<i64> {
        let begin = Begin::read(begin);
        let its = |(id, row): &(&i64, &Row)| {
            habits.consumers.contains(&row.subscriber)
                && (habits.kinds.is_empty() || habits.kinds.contains(&row.kind.as_str()))
                && begin.owes(**id, row.xid)
        };
        self.0.iter().filter(its).map(|(id, _)| *id).collect()
    }

    /// Everything that is wrong with what a client got, in words; nothing if all is well.
    pub(super) fn judge(&self, habits: &Habits, diary: &Diary) -> Vec<String> {
        let Some(begin) = &diary.begin else { return vec!["it never had a cursor".into()] };
        let owed = self.owed(habits, begin);
        let mut faults = diary.complaints.clone();
        let mut got = BTreeMap::new();
        for event in &diary.got {
            if let Some(first) = got.insert(event.row, event.connection) {
                let again = event.connection;
                faults.push(format!("{} twice: on connections {first} and {again}", event.row));
            }
            match self.0.get(&event.row) {
                None => faults.push(format!("{} is no event at all", event.row)),
                Some(_) if !owed.contains(&event.row) => {
                    faults.push(format!("{} on {} is foreign", event.row, event.connection));
                }
                Some(row) if row.digest != event.digest => {
                    faults.push(format!("{} on {} is altered", event.row, event.connection));
                }
                Some(_) => {}
            }
        }
        for id in owed.iter().filter(|id| !got.contains_key(id)) {
            let row = &self.0[id];
            faults.push(format!("{id} of {} is missing (transaction {})", row.subscriber, row.xid));
        }
        faults.extend(disorder(&diary.got));
        faults
    }
}

/// Events come in id order, save those that say that they are late.
fn disorder(got: &[Got]) -> Vec<String> {
    let mut last = 0;
    let mut faults = Vec::new();
    for event in got.iter().filter(|event| !event.late) {
        if event.row < last {
            let (row, connection) = (event.row, event.connection);
            faults.push(format!("{row} on {connection} came behind {last}, and is not late"));
        }
        last = last.max(event.row);
    }
    faults
}

/// A cursor, read without any help of the code that is on trial.
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

/// A report of one client's faults, short enough to read.
pub(super) fn report(habits: &Habits, diary: &Diary, faults: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = format!("client {:?} of {:?}:\n", habits.name, habits.consumers);
    for fault in faults.iter().take(SHOWN) {
        writeln!(text, "  {fault}").unwrap();
    }
    if faults.len() > SHOWN {
        writeln!(text, "  and {} more", faults.len() - SHOWN).unwrap();
    }
    writeln!(text, "  it began at {:?}; its last connections were:", diary.begin).unwrap();
    let skipped = diary.connections.len().saturating_sub(SHOWN);
    for (number, line) in diary.connections.iter().enumerate().skip(skipped) {
        writeln!(text, "  {:>5}  {line}", number + 1).unwrap();
    }
    text
}
