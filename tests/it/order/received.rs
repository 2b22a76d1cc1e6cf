//! What a client receives: the events of a chunk, and the pages that its follower reads.

use event_piper::{
    consumer::ConsumerId,
    cursor::{Cursor, Mark},
    event::{EventId, Logged},
    item::{frame::Frame, output::Output, signal::Signal},
    live::follower::Scan,
};

use super::{
    gateway::consumer,
    world::{Row, World},
};

/// The events of one chunk, with the contents of their payloads and their cursors.
#[derive(Default)]
pub(super) struct Received {
    pub(super) events: Vec<(EventId, [u64; 2], String)>,
    /// The simulated size of each event in bytes.
    pub(super) weight: usize,
}

impl Output for Received {
    fn shared(&mut self, frame: &Frame, cursor: &Cursor) {
        let bytes = frame.bytes_at(cursor);
        let text = std::str::from_utf8(&bytes).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        self.event(frame.id(), cursor, "", data.as_bytes());
    }

    fn event(&mut self, id: EventId, cursor: &Cursor, _: &str, data: &[u8]) {
        self.events.push((id, Row::what_says(data), cursor.at(id).to_string()));
    }

    fn signal(&mut self, signal: Signal, _: Option<&Cursor>) {
        unreachable!("{signal:?} is not an event");
    }

    fn len(&self) -> usize {
        self.events.len() * self.weight
    }
}

/// The page of rows that this scan reads.
pub(super) fn scanned(
    world: &World,
    consumers: &[ConsumerId],
    scan: &Scan,
    limit: usize,
) -> (Vec<Row>, bool) {
    let (Scan::Marked { after, upto, .. } | Scan::Rows { after, upto }) = scan else {
        unreachable!("it is no page");
    };
    let its = |row: &Row| consumers.contains(&consumer(row.consumer));
    world.read((*after, *upto), limit, |row| match scan {
        Scan::Rows { .. } | Scan::Reach(_) => its(row),
        Scan::Marked { marks, .. } => {
            let marked = |mark: &Mark| mark.xid == row.xid() && row.id() > mark.upto;
            its(row) && marks.iter().any(marked)
        }
    })
}
