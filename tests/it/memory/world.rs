//! A model of writers and of the table that they write to.

use std::collections::BTreeMap;

use event_piper::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    item::frame::{Encoder, Frame},
};

pub(super) const CONSUMERS: usize = 3;

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) xid: u64,
    whose: usize,
    /// Increases when the event is erased.
    pub(super) edition: u32,
}

impl Logged for Row {
    fn id(&self) -> EventId {
        EventId::new(self.id)
    }
    fn xid(&self) -> Xid {
        Xid::new(self.xid)
    }
}

impl Row {
    pub(super) fn consumer(&self) -> ConsumerId {
        consumer(self.whose)
    }

    pub(super) fn frame(&self) -> Frame {
        Encoder::default().encode(self, "t", self.edition.to_string().as_bytes())
    }
}

/// The edition of the event in this frame.
pub(super) fn edition(frame: &str) -> u32 {
    let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
    data.and_then(|data| data.parse().ok()).expect("a frame has data")
}

pub(super) fn consumer(at: usize) -> ConsumerId {
    ["a", "b", "c"][at].parse().unwrap()
}

/// Writers and the table. Ids are drawn before the commit; transactions commit or roll back in any order.
pub(super) struct World {
    pub(super) dice: fastrand::Rng,
    pub(super) next_id: i64,
    next_xid: u64,
    pub(super) open: BTreeMap<u64, Vec<Row>>,
    pub(super) table: BTreeMap<i64, Row>,
    pub(super) pruned: Vec<Row>,
}

impl World {
    pub(super) fn new(dice: fastrand::Rng) -> Self {
        let (open, table) = (BTreeMap::new(), BTreeMap::new());
        Self { dice, next_id: 1, next_xid: 100, open, table, pruned: Vec::new() }
    }

    pub(super) fn chance(&mut self, of: f64) -> bool {
        self.dice.f64() < of
    }

    pub(super) fn newest(&self) -> i64 {
        self.table.keys().next_back().copied().unwrap_or(0)
    }

    pub(super) fn pruned_upto(&self) -> i64 {
        self.pruned.iter().map(|row| row.id).max().unwrap_or(0)
    }

    pub(super) fn rows_down_from(&self, upto: EventId) -> impl Iterator<Item = Row> {
        self.table.range(..=upto.get()).rev().map(|(_, row)| *row)
    }

    /// A few random steps of the writers.
    pub(super) fn moves(&mut self) {
        for _ in 0..self.dice.usize(0..3) {
            if self.open.len() < 4 && (self.open.is_empty() || self.chance(0.3)) {
                self.open.insert(self.next_xid, Vec::new());
                self.next_xid += 1;
            } else {
                self.step_of_a_writer();
            }
        }
    }

    fn step_of_a_writer(&mut self) {
        let xid = *self.open.keys().nth(self.dice.usize(0..self.open.len())).unwrap();
        match self.dice.u8(0..100) {
            0..55 => {
                // One consumer gets most events, so that those of the others remain between them.
                let whose = if self.chance(0.6) { 0 } else { self.dice.usize(0..CONSUMERS) };
                let row = Row { id: self.next_id, xid, whose, edition: 0 };
                self.open.get_mut(&xid).unwrap().push(row);
                self.next_id += 1;
            }
            55..60 => self.next_id += 1, // drawn, and never used
            60..85 => {
                let rows = self.open.remove(&xid).unwrap();
                self.table.extend(rows.into_iter().map(|row| (row.id, row)));
            }
            85..90 => {
                self.open.remove(&xid);
            }
            _ => {}
        }
    }

    /// Changes some events of a consumer, and returns it.
    pub(super) fn erase(&mut self) -> Option<ConsumerId> {
        let whose = self.dice.usize(0..CONSUMERS);
        let from = self.dice.i64(0..self.next_id);
        let rows = self.table.range_mut(from..).map(|(_, row)| row);
        let rows = rows.filter(|row| row.whose == whose).take(5).map(|row| row.edition += 1);
        (rows.count() > 0).then(|| consumer(whose))
    }

    /// Prunes the oldest events, none after `settled`.
    pub(super) fn prune(&mut self, settled: i64) {
        let upto = settled.min(self.dice.i64(0..self.next_id));
        let kept = self.table.split_off(&(upto + 1));
        self.pruned.extend(std::mem::replace(&mut self.table, kept).into_values());
    }
}
