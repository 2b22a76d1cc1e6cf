//! How far the log is settled, for those who read the table in strict order.

use tokio::sync::watch;

use crate::{
    cursor::Cursor,
    event::EventId,
    order::{Late, Position},
};

/// How far the log is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Which log this is: it counts up when the log is found replaced. 0: nothing was read yet.
    pub epoch: u64,
    /// The greatest id that was passed.
    pub head: EventId,
    /// Nothing at or before this can appear any more.
    pub settled: EventId,
    /// The transactions that can still write between `settled` and `head`.
    pub late: Late,
    /// The process is about to end.
    pub closing: bool,
}

impl Horizon {
    /// The horizon of a reader at this position.
    #[must_use]
    pub fn at(epoch: u64, position: &Position, closing: bool) -> Self {
        let (head, settled, late) = (position.head, position.horizon(), position.late.clone());
        Self { epoch, head, settled, late, closing }
    }

    /// Behind everything that is visible by now.
    #[must_use]
    pub fn now(&self) -> Cursor {
        Cursor::now(&Position { head: self.head, late: self.late.clone() })
    }
}

/// Shows the horizon to any number of readers.
#[derive(Debug, Default)]
pub struct Horizons(watch::Sender<Horizon>);

impl Horizons {
    /// The horizon now, and each later one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Horizon> {
        self.0.subscribe()
    }

    /// Shows this horizon, if it differs from the one that is shown.
    pub fn show(&self, now: Horizon) {
        self.0.send_if_modified(|shown| {
            let moved = *shown != now;
            *shown = now;
            moved
        });
    }

    /// Reading begins at this position, for the first time or in a log that was replaced.
    pub fn restart(&self, position: &Position) {
        self.0.send_modify(|it| *it = Horizon::at(it.epoch + 1, position, it.closing));
    }

    /// Reading went on up to this position.
    pub fn advance(&self, position: &Position) {
        self.0.send_if_modified(|shown| {
            let now = Horizon::at(shown.epoch, position, shown.closing);
            let moved = *shown != now;
            *shown = now;
            moved
        });
    }

    /// The process is about to end: every reader stops.
    pub fn close(&self) {
        self.0.send_modify(|shown| shown.closing = true);
    }
}
