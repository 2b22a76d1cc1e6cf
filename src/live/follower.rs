//! The progress of one subscription through the log, without I/O: its position, what to read next, and which
//! events to deliver.
//!
//! A follower first joins the recent events, then reads what it missed from the table, and then continues
//! from the place where it joined. It may meet an event twice on the way; its cursor admits the event once.
//! A follower whose place was evicted from the recent events joins again.

use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

use super::recent::{Entry, Recent, Sequence};
use crate::{
    consumer::ConsumerId,
    cursor::{Cursor, Mark},
    event::{EventId, Logged},
    order::Position,
    snapshot::Snapshot,
};

/// The progress of one subscription through the log.
#[derive(Debug)]
pub struct Follower {
    consumers: Box<[ConsumerId]>,
    cursor: Cursor,
    stage: Stage,
    from_table: bool,
    /// Whether every event that the follower lacks is in memory.
    in_memory: bool,
    /// While the cursor has a snapshot: at least the greatest id of a row that the snapshot sees, once it is
    /// known.
    seen_upto: Option<EventId>,
}

#[derive(Debug)]
enum Stage {
    /// Every event that is still to be delivered is in the recent events, from `next` on. To a client that
    /// resumed, those before `replayed` are history.
    Live { next: Sequence, replayed: Option<Sequence> },
    /// Some of the events that are still to be delivered must be read from the table.
    Replaying(Box<Replay>),
}

/// A read of the table, before the follower continues from the place where it joined.
#[derive(Clone, Debug)]
struct Replay {
    /// The reader's position when the follower joined.
    joined: Position,
    /// The place in the recent events from which the follower continues.
    next: Sequence,
    /// Recent events before this place are history to a client that resumed.
    replayed: Sequence,
    scan: Scan,
    /// The scans that follow `scan`.
    rest: VecDeque<Scan>,
}

/// How far a snapshot reaches into the log. It is read from the table after the follower has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The transaction of every row below this id is visible to the snapshot, or in its list. `None` if this
    /// holds for every visible row.
    pub first_owed: Option<EventId>,
    /// At least the greatest id of a row that the snapshot sees.
    pub seen_upto: EventId,
}

/// What a replay reads from the table next: a page of rows in id order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The rows of these transactions that are above the transaction's mark, above `after`, and at most
    /// `upto`.
    Marked {
        /// The transactions of which the reader has delivered more than the client has, or all.
        marks: Vec<Mark>,
        /// The last id that was read.
        after: EventId,
        /// The last id to read.
        upto: EventId,
    },
    /// All rows above `after` and at most `upto`.
    Rows {
        /// The last id that was read.
        after: EventId,
        /// The last id to read.
        upto: EventId,
    },
    /// No rows, but how far this snapshot reaches. See [`Follower::reach`].
    Reach(Arc<Snapshot>),
}

/// The result of [`Follower::live`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Every event that exists by now was delivered.
    Drained,
    /// Every event that exists by now was delivered, and with these, for the first time, all that the client
    /// missed while it was disconnected.
    CaughtUp,
    /// `deliver` broke off. There may be more events.
    Stopped,
    /// The follower's place was evicted from the recent events. It has to [`rejoin`](Follower::rejoin).
    Lagging,
    /// There are new events, which this follower reads from the table. It has joined again to do so.
    ToRead,
}

impl Scan {
    /// Whether the scan covers no ids, so that no query is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Marked { after, upto, .. } | Self::Rows { after, upto } => after >= upto,
            Self::Reach(_) => false,
        }
    }
}

impl Replay {
    /// The scan after this page; `None` after the last one.
    fn scan_after<E: Logged>(&self, rows: &[E], last_page: bool) -> Option<Scan> {
        if last_page {
            return self.rest.front().cloned();
        }
        let mut scan = self.scan.clone();
        if let (Scan::Marked { after, .. } | Scan::Rows { after, .. }, Some(last)) =
            (&mut scan, rows.last())
        {
            *after = last.id();
        }
        Some(scan)
    }
}

impl Follower {
    /// Joins the recent events after `cursor`. Without a cursor, joins at their end.
    #[must_use]
    pub fn join(recent: &Recent, consumers: Box<[ConsumerId]>, cursor: Option<Cursor>) -> Self {
        let resumed = cursor.is_some();
        let cursor = cursor.unwrap_or_else(|| Cursor::now(recent.position()));
        let stage = Stage::Live { next: recent.end(), replayed: None };
        let mut follower =
            Self { consumers, cursor, stage, from_table: false, in_memory: false, seen_upto: None };
        if resumed {
            follower.rejoin(recent);
        }
        follower
    }

    /// Makes the follower read every event from the table. The recent events then only show that there is
    /// something to read.
    #[must_use]
    pub fn from_table(mut self, recent: &Recent) -> Self {
        self.from_table = true;
        self.rejoin(recent);
        self
    }

    /// Joins the recent events again, after the follower's cursor.
    pub fn rejoin(&mut self, recent: &Recent) {
        let end = recent.end();
        let place = recent.seek(&self.cursor, &self.consumers).filter(|_| !self.from_table);
        let replay = |(scan, rest): (Scan, VecDeque<Scan>)| {
            let joined = recent.position().clone();
            let next = place.unwrap_or(end);
            Stage::Replaying(Box::new(Replay { joined, next, replayed: end, scan, rest }))
        };
        self.stage = match (place, self.cursor.snapshot()) {
            // What to read from the table is known once it is known how far the snapshot reaches.
            (_, Some(snapshot)) => replay((Scan::Reach(Arc::clone(snapshot)), VecDeque::new())),
            (Some(next), None) => Stage::Live { next, replayed: Some(end) },
            (None, None) => replay(scans(&self.cursor, recent.position(), None)),
        };
        self.in_memory = place.is_some();
    }

    /// Takes the answer to [`Scan::Reach`].
    pub fn reach(&mut self, reach: Reach) {
        let Stage::Replaying(replay) = &mut self.stage else { return };
        self.seen_upto = Some(reach.seen_upto);
        if self.in_memory {
            let (next, replayed) = (replay.next, Some(replay.replayed));
            self.stage = Stage::Live { next, replayed };
            return;
        }
        (replay.scan, replay.rest) = scans(&self.cursor, &replay.joined, Some(reach));
    }

    /// The log was replaced; up to `origin` it is the same. What the client got above `origin` is no longer
    /// valid. What it had not got up to `origin` is still delivered.
    pub fn restart(&mut self, recent: &Recent, origin: EventId) {
        let position = recent.position();
        self.cursor.go_back(origin);
        if self.cursor.head() < position.head || !self.cursor.marks().is_empty() {
            self.rejoin(recent);
        } else {
            self.cursor = Cursor::now(position);
            self.stage = Stage::Live { next: recent.end(), replayed: None };
        }
    }

    /// The consumers whose events the follower delivers.
    #[must_use]
    pub fn consumers(&self) -> &[ConsumerId] {
        &self.consumers
    }

    /// The client's cursor.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The id up to which the client has every event, including those of late transactions. It is below the
    /// cursor's head while the follower reads rows of a late transaction.
    #[must_use]
    pub fn complete_upto(&self) -> EventId {
        let head = self.cursor.head();
        match self.wants() {
            Some(Scan::Marked { after, .. }) => head.min(*after),
            Some(Scan::Rows { .. } | Scan::Reach(_)) | None => head,
        }
    }

    /// What to read from the table next; `None` if the follower is live.
    #[must_use]
    pub fn wants(&self) -> Option<&Scan> {
        match &self.stage {
            Stage::Replaying(replay) => Some(&replay.scan),
            Stage::Live { .. } => None,
        }
    }

    /// What to read from the table after this [`page`](Self::page).
    #[must_use]
    pub fn wants_after<E: Logged>(&self, rows: &[E], last_page: bool) -> Option<Scan> {
        match &self.stage {
            Stage::Replaying(replay) => replay.scan_after(rows, last_page),
            Stage::Live { .. } => None,
        }
    }

    /// Takes the page of rows that it [wants](Self::wants). `last_page` means that there was no row after
    /// these when they were read. Calls `deliver` for each row that the client lacks, with the client's
    /// cursor after that row.
    pub fn page<'a, E: Logged>(
        &mut self,
        rows: &'a [E],
        last_page: bool,
        mut deliver: impl FnMut(&'a E, &Cursor),
    ) {
        let Stage::Replaying(replay) = &mut self.stage else { return };
        let late = &replay.joined.late;
        for row in rows.iter().filter(|row| !late.has(*row)) {
            if self.cursor.is_before(row) {
                let owed = !self.cursor.sees(row);
                self.cursor.advance(row, late);
                if owed {
                    deliver(row, &self.cursor);
                }
            }
        }
        if let Some(scan) = replay.scan_after(rows, last_page) {
            replay.scan = scan;
            if last_page {
                replay.rest.pop_front();
            }
        } else {
            let (next, replayed) = (replay.next, Some(replay.replayed));
            self.stage = Stage::Live { next, replayed };
        }
    }

    /// Reads the events that were published since the last call. Calls `deliver` for each event that the
    /// client lacks, with the client's cursor after that event, until `deliver` breaks.
    pub fn live(
        &mut self,
        recent: &Recent,
        mut deliver: impl FnMut(&Entry, &Cursor) -> ControlFlow<()>,
    ) -> Live {
        let Stage::Live { next, replayed } = &mut self.stage else { return Live::Lagging };
        let Some(mut entries) = recent.read(&self.consumers, *next) else { return Live::Lagging };
        if self.from_table && entries.next().is_some() {
            drop(entries);
            self.rejoin(recent);
            return Live::ToRead;
        }
        for entry in entries {
            *next = entry.sequence + 1;
            if !offer(&mut self.cursor, entry, replayed.is_some_and(|end| *next <= end)) {
                continue;
            }
            if deliver(entry, &self.cursor).is_break() {
                return Live::Stopped;
            }
        }
        *next = recent.end();
        self.cursor.catch_up(recent.position());
        if let Some(seen_upto) = self.seen_upto {
            self.cursor.release_snapshot(seen_upto, recent.position());
        }
        if replayed.take().is_some() { Live::CaughtUp } else { Live::Drained }
    }
}

/// Whether the client lacks the event. If so, its cursor has advanced over it.
fn offer(cursor: &mut Cursor, entry: &Entry, history: bool) -> bool {
    if cursor.is_before(&entry.frame) {
        let owed = !cursor.sees(&entry.frame);
        cursor.advance(&entry.frame, &entry.position.late);
        return owed;
    }
    let found = entry.found && !history && !cursor.sees(&entry.frame);
    if found {
        cursor.catch_up(&entry.position);
    }
    found
}

/// The scans that a client with this cursor needs after the follower has joined at this position.
fn scans(cursor: &Cursor, joined: &Position, reach: Option<Reach>) -> (Scan, VecDeque<Scan>) {
    // The remaining rows of a transaction that is late at the reader are delivered live.
    let delivered =
        |mark: &Mark| joined.late.get(mark.xid).is_none_or(|late| late.since > mark.upto);
    let mut scans = VecDeque::new();
    let upto = cursor.head().min(joined.head);
    let marks: Vec<Mark> = cursor.marks().iter().filter(|mark| delivered(mark)).copied().collect();
    if let Some(after) = marks.iter().map(|mark| mark.upto).min() {
        scans.push_back(Scan::Marked { marks, after, upto });
    }
    let mut after = cursor.head();
    if let (Some(snapshot), Some(reach)) = (cursor.snapshot(), reach) {
        // Up to this id, only transactions of the list wrote rows that the client lacks.
        let seen = reach.first_owed.map_or(joined.head, |first| first.previous().min(joined.head));
        let marks = snapshot.in_progress().iter().map(|&xid| Mark { xid, upto: after });
        let marks: Vec<Mark> = marks.filter(delivered).collect();
        if seen > after && !marks.is_empty() {
            scans.push_back(Scan::Marked { marks, after, upto: seen });
        }
        after = after.max(seen);
    }
    let last = Scan::Rows { after, upto: joined.head };
    let Some(first) = scans.pop_front() else { return (last, scans) };
    scans.push_back(last);
    (first, scans)
}
