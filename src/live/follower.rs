//! One subscription's way through the log, without the waiting: where it stands, what it
//! wants to read next, and which events it admits.
//!
//! It joins the recent events first, reads what it missed from the table second, and then
//! goes on from the place where it joined. What it meets twice on the way, its cursor
//! admits once. A follower that has fallen out of the recent events joins again.

use std::ops::ControlFlow;

use super::recent::{Entry, Recent, Sequence};
use crate::{
    consumer::ConsumerId,
    cursor::{Cursor, Mark},
    event::{EventId, Logged},
    order::Position,
};

/// See the module.
#[derive(Debug)]
pub struct Follower {
    consumers: Box<[ConsumerId]>,
    cursor: Cursor,
    stage: Stage,
    from_table: bool,
}

#[derive(Debug)]
enum Stage {
    /// Everything that is still owed comes in the recent events from `next` on. Until
    /// `replayed`, those are history to a client that resumed.
    Live { next: Sequence, replayed: Option<Sequence> },
    /// Something is owed that only the table has.
    Replaying(Box<Replay>),
}

/// What is read from the table before going on from the place where the follower joined.
#[derive(Clone, Debug)]
struct Replay {
    /// Where the reader was when the follower joined.
    joined: Position,
    /// The place in the recent events at which it joined.
    next: Sequence,
    scan: Scan,
}

/// What a replay reads from the table next: a page of rows in id order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Rows of these transactions: each above its mark, above `after`, and up to `upto`.
    Marked {
        /// The transactions that the client is behind in, and of which the reader has delivered
        /// more, or all.
        marks: Vec<Mark>,
        /// The last id that was read, and so passed.
        after: EventId,
        /// The last id to read.
        upto: EventId,
    },
    /// All rows above `after` up to `upto`.
    Rows {
        /// The last id that was read, and so passed.
        after: EventId,
        /// The last id to read.
        upto: EventId,
    },
}

/// What there is for a live follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// It has been given all there is by now.
    Drained,
    /// It has been given all there is by now, and with that all that it missed while it was
    /// away.
    CaughtUp,
    /// The receiver wanted no more; there may be more.
    Stopped,
    /// It has fallen out of the recent events, and has to [`join`](Follower::rejoin) again.
    Lagging,
    /// There is something, which it reads from the table: it has joined again for that.
    ToRead,
}

impl Scan {
    /// Whether there is nothing to read, so that no query is needed to know it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let (Self::Marked { after, upto, .. } | Self::Rows { after, upto }) = self;
        after >= upto
    }
}

impl Replay {
    /// What is to be read behind this page; nothing behind the last one.
    fn behind<E: Logged>(&self, rows: &[E], last_page: bool) -> Option<Scan> {
        match &self.scan {
            Scan::Marked { upto, .. } if last_page => {
                Some(Scan::Rows { after: *upto, upto: self.joined.head })
            }
            Scan::Rows { .. } if last_page => None,
            scan => {
                let mut scan = scan.clone();
                if let Some(last) = rows.last() {
                    let (Scan::Marked { after, .. } | Scan::Rows { after, .. }) = &mut scan;
                    *after = last.id();
                }
                Some(scan)
            }
        }
    }
}

impl Follower {
    /// Joins the recent events: after `cursor`, or from now on without one.
    #[must_use]
    pub fn join(recent: &Recent, consumers: Box<[ConsumerId]>, cursor: Option<Cursor>) -> Self {
        let resumed = cursor.is_some();
        let cursor = cursor.unwrap_or_else(|| Cursor::now(recent.position()));
        let stage = Stage::Live { next: recent.end(), replayed: None };
        let mut follower = Self { consumers, cursor, stage, from_table: false };
        if resumed {
            follower.rejoin(recent);
        }
        follower
    }

    /// Reads everything from the table from now on: recent events only tell that there is
    /// something to read.
    #[must_use]
    pub fn from_table(mut self, recent: &Recent) -> Self {
        self.from_table = true;
        self.rejoin(recent);
        self
    }

    /// Joins the recent events again, after its cursor.
    pub fn rejoin(&mut self, recent: &Recent) {
        let end = recent.end();
        let place = recent.seek(&self.cursor, &self.consumers).filter(|_| !self.from_table);
        self.stage = match place {
            Some(next) => Stage::Live { next, replayed: Some(end) },
            None => Stage::Replaying(Box::new(Replay {
                joined: recent.position().clone(),
                next: end,
                scan: first_scan(&self.cursor, recent.position()),
            })),
        };
    }

    /// The log has been replaced: up to `origin` it is the same. What the client got above that is
    /// void; what it had not got yet of the rest is still owed.
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

    /// Whose events it follows.
    #[must_use]
    pub fn consumers(&self) -> &[ConsumerId] {
        &self.consumers
    }

    /// How far it has got.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Up to here the client has everything, whatever transaction it is of. While a transaction is
    /// read that was late, that is behind the cursor's head.
    #[must_use]
    pub fn complete_upto(&self) -> EventId {
        let head = self.cursor.head();
        match self.wants() {
            Some(Scan::Marked { after, .. }) => head.min(*after),
            Some(Scan::Rows { .. }) | None => head,
        }
    }

    /// What it wants to read from the table next; `None` when it is live.
    #[must_use]
    pub fn wants(&self) -> Option<&Scan> {
        match &self.stage {
            Stage::Replaying(replay) => Some(&replay.scan),
            Stage::Live { .. } => None,
        }
    }

    /// What it will want once it has taken this [`page`](Self::page).
    #[must_use]
    pub fn wants_behind<E: Logged>(&self, rows: &[E], last_page: bool) -> Option<Scan> {
        match &self.stage {
            Stage::Replaying(replay) => replay.behind(rows, last_page),
            Stage::Live { .. } => None,
        }
    }

    /// Takes the page of rows that it wanted. `last_page` says that no row stood behind
    /// these when they were read. Those that are owed go to `deliver`, each with the
    /// follower's cursor after it.
    pub fn page<'a, E: Logged>(
        &mut self,
        rows: &'a [E],
        last_page: bool,
        mut deliver: impl FnMut(&'a E, &Cursor),
    ) {
        let Stage::Replaying(replay) = &mut self.stage else { return };
        let late = &replay.joined.late;
        for row in rows.iter().filter(|row| !late.has(*row)) {
            if self.cursor.admits(row) {
                self.cursor.advance(row, late);
                deliver(row, &self.cursor);
            }
        }
        if let Some(scan) = replay.behind(rows, last_page) {
            replay.scan = scan;
        } else {
            let (next, replayed) = (replay.next, Some(replay.next));
            self.stage = Stage::Live { next, replayed };
        }
    }

    /// Gives a live follower what has come since it asked last. Those that are owed go to
    /// `deliver`, each with the follower's cursor after it, until that says stop.
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
        if replayed.take().is_some() { Live::CaughtUp } else { Live::Drained }
    }
}

/// Whether the event is owed; if so, the cursor has moved over it.
fn offer(cursor: &mut Cursor, entry: &Entry, history: bool) -> bool {
    if cursor.admits(&entry.frame) {
        cursor.advance(&entry.frame, &entry.position.late);
        return true;
    }
    let found = entry.found && !history;
    if found {
        cursor.catch_up(&entry.position);
    }
    found
}

fn first_scan(cursor: &Cursor, joined: &Position) -> Scan {
    // What is still to be delivered of a late transaction comes live.
    let delivered =
        |mark: &&Mark| joined.late.get(mark.xid).is_none_or(|late| late.since > mark.upto);
    let marks: Vec<Mark> = cursor.marks().iter().filter(delivered).copied().collect();
    let upto = cursor.head().min(joined.head);
    match marks.iter().map(|mark| mark.upto).min() {
        Some(after) => Scan::Marked { marks, after, upto },
        None => Scan::Rows { after: cursor.head(), upto: joined.head },
    }
}
