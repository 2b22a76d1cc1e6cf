//! The *horizon*: the id up to which the log is settled, because nothing can appear at or below it any more.
//! Neither an open transaction at a hole, nor a late one that was passed over, can still add an event there.
//! Readers in strict order read the table up to the horizon.

use tokio::sync::watch;

use crate::{
    cursor::Cursor,
    event::EventId,
    order::{Late, Position},
};

/// How far the log is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// The number of the log, which increases when the log is found replaced. 0 until the log was read.
    pub epoch: u64,
    /// The reader's head: the greatest id that it has passed.
    pub head: EventId,
    /// The horizon itself: nothing can appear at or below this id any more.
    pub settled: EventId,
    /// The transactions that can still write events between `settled` and `head`.
    pub late: Late,
    /// The process is shutting down.
    pub closing: bool,
}

impl Horizon {
    /// The horizon of a reader at this position.
    #[must_use]
    pub fn at(epoch: u64, position: &Position, closing: bool) -> Self {
        let (head, settled, late) = (position.head, position.horizon(), position.late.clone());
        Self { epoch, head, settled, late, closing }
    }

    /// A cursor after every event that is visible by now.
    #[must_use]
    pub fn now(&self) -> Cursor {
        Cursor::now(&Position { head: self.head, late: self.late.clone() })
    }
}

/// Shows the horizon to any number of readers.
#[derive(Debug, Default)]
pub struct Horizons(watch::Sender<Horizon>);

impl Horizons {
    /// A receiver of the current horizon and of each later one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Horizon> {
        self.0.subscribe()
    }

    /// Shows a new horizon. Wakes readers only if it differs from the current one.
    pub fn show(&self, now: Horizon) {
        self.0.send_if_modified(|shown| {
            let moved = *shown != now;
            *shown = now;
            moved
        });
    }

    /// Reading starts at this position, for the first time or because the log was replaced.
    pub fn restart(&self, position: &Position) {
        self.0.send_modify(|it| *it = Horizon::at(it.epoch + 1, position, it.closing));
    }

    /// The reader has advanced to this position.
    pub fn advance(&self, position: &Position) {
        self.0.send_if_modified(|shown| {
            let now = Horizon::at(shown.epoch, position, shown.closing);
            let moved = *shown != now;
            *shown = now;
            moved
        });
    }

    /// The process is shutting down: every reader stops.
    pub fn close(&self) {
        self.0.send_modify(|shown| shown.closing = true);
    }
}
