//! Decides where delivery resumes, by the aggregator's latest event and the checkpoint.

use std::fmt::{self, Display, Formatter};

use crate::{cursor::Cursor, event::EventId, store::pumps::Checkpoint};

/// The meaning of an aggregator's answer about its latest event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// 404: the aggregator has no events.
    Nothing,
    /// 204, or 200 with something that is not an event of this log.
    Unknown,
    /// 200 with this event of the log.
    Event(EventId),
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Unknown => f.write_str("unknown"),
            Self::Event(event) => write!(f, "event {event}"),
        }
    }
}

/// Where to start with an aggregator that needs no bootstrap and does not tell its latest event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event, so that none can be missing.
    #[default]
    Beginning,
    /// With the next event.
    Now,
}

/// The checkpoint at which delivery resumes: at `start` if neither side knows.
#[must_use]
pub fn resume(seen: Seen, known: Checkpoint, start: Cursor) -> Checkpoint {
    match (seen, known.position) {
        // No event was delivered, because none matched the filter: the aggregator is up to date.
        (Seen::Nothing, Some(_)) if known.delivered == EventId::ZERO => {
            Checkpoint { booted: false, ..known }
        }
        // The aggregator has lost its events, or is new: bootstrap it.
        (Seen::Nothing, _) => Checkpoint { position: Some(EventId::ZERO), ..Checkpoint::default() },
        // The events between its latest one and the position did not match the filter.
        (Seen::Event(latest), Some(position)) if latest == known.delivered => {
            let owed = known.owed.clone();
            Checkpoint { position: Some(position.max(latest)), ..known }.owing(owed)
        }
        // It has more than the checkpoint says, or was restored to an earlier state. If the checkpoint
        // does not say that the bootstrap is complete, the bootstrap continues.
        (Seen::Event(latest), _) => {
            let (position, delivered) = (Some(latest), latest);
            Checkpoint { position, delivered, booted: known.booted, owed: None }.owing(known.owed)
        }
        (Seen::Unknown, Some(_)) => known,
        (Seen::Unknown, None) => Checkpoint::beginning_at(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: i64, delivered: i64, booted: bool) -> Checkpoint {
        let position = Some(EventId::new(position));
        Checkpoint { position, delivered: EventId::new(delivered), booted, owed: None }
    }

    fn resumed(seen: Seen, known: Checkpoint) -> Checkpoint {
        resume(seen, known, Cursor::default())
    }

    #[test]
    fn every_answer_leads_to_a_checkpoint() {
        let never = Checkpoint::default();
        let event = |id| Seen::Event(EventId::new(id));
        for (seen, known, expected) in [
            (Seen::Nothing, never.clone(), at(0, 0, false)),
            (Seen::Nothing, at(50, 40, false), at(0, 0, false)),
            (Seen::Nothing, at(50, 40, true), at(0, 0, false)),
            (Seen::Nothing, at(50, 0, true), at(50, 0, false)),
            (Seen::Nothing, at(50, 50, true), at(0, 0, false)),
            (Seen::Unknown, never.clone(), at(0, 0, true)),
            (Seen::Unknown, at(50, 40, false), at(50, 40, false)),
            (Seen::Unknown, at(50, 40, true), at(50, 40, true)),
            // The bootstrap was interrupted before a checkpoint was written.
            (event(7), never, at(7, 7, false)),
            (event(45), at(50, 40, false), at(45, 45, false)),
            (event(40), at(50, 40, false), at(50, 40, false)),
            // A response was lost, or the last write of the checkpoint.
            (event(60), at(50, 40, true), at(60, 60, true)),
            // 41 to 50 did not match the filter.
            (event(40), at(50, 40, true), at(50, 40, true)),
            // The aggregator was restored from a backup.
            (event(30), at(50, 40, true), at(30, 30, true)),
        ] {
            assert_eq!(resumed(seen, known.clone()), expected, "{seen:?} at {known:?}");
        }
    }

    #[test]
    fn an_unknown_aggregator_may_start_with_the_next_event() {
        let newest = Cursor::behind(EventId::new(100));
        let now = resume(Seen::Unknown, Checkpoint::default(), newest);
        assert_eq!(now, at(100, 100, true));
    }

    #[test]
    fn late_transactions_are_kept_until_the_position_passes_them() {
        let start: Cursor = "100~7:20".parse().unwrap();
        let begun = resume(Seen::Unknown, Checkpoint::default(), start.clone());
        assert_eq!(begun, Checkpoint { owed: Some(start.clone()), ..at(20, 100, true) });
        let event = |id| Seen::Event(EventId::new(id));
        for (seen, expected) in [
            (Seen::Unknown, begun.clone()),
            (event(30), Checkpoint { owed: Some(start), ..at(30, 30, true) }),
            (event(100), at(100, 100, true)),
            (Seen::Nothing, at(0, 0, false)),
        ] {
            assert_eq!(resumed(seen, begun.clone()), expected, "{seen:?}");
        }
    }
}
