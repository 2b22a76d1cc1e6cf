//! Where to go on: decided from what the aggregator has and what the checkpoint says.

use std::fmt::{self, Display, Formatter};

use crate::{cursor::Cursor, event::EventId, store::pumps::Checkpoint};

/// What an aggregator's answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// 404: it has nothing.
    Nothing,
    /// 204, or 200 with something that is not ours: it does not say.
    Unsaid,
    /// 200 with this event of ours.
    Ours(EventId),
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Unsaid => f.write_str("not said"),
            Self::Ours(event) => write!(f, "event {event}"),
        }
    }
}

/// Where to begin with an aggregator that wants no bootstrap, and of which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event: nothing can be missing.
    #[default]
    Beginning,
    /// With the next event.
    Now,
}

/// The checkpoint to go on from, or to begin at `start` where nothing is known.
#[must_use]
pub fn resume(seen: Seen, known: Checkpoint, start: Cursor) -> Checkpoint {
    match (seen, known.position) {
        // It has what it was given, which is nothing: what there was, was not for it.
        (Seen::Nothing, Some(_)) if known.delivered == EventId::ZERO => {
            Checkpoint { booted: false, ..known }
        }
        // It has lost what it had, or nothing is known of it: all of it.
        (Seen::Nothing, _) => Checkpoint { position: Some(EventId::ZERO), ..Checkpoint::default() },
        // Behind its latest there are only events that it was not to have.
        (Seen::Ours(latest), Some(position)) if latest == known.delivered => {
            let owed = known.owed.clone();
            Checkpoint { position: Some(position.max(latest)), ..known }.owing(owed)
        }
        // It has more than was noted, or was set back. Where it was never noted that it is
        // booted, its bootstrap goes on.
        (Seen::Ours(latest), _) => {
            let (position, delivered) = (Some(latest), latest);
            Checkpoint { position, delivered, booted: known.booted, owed: None }.owing(known.owed)
        }
        (Seen::Unsaid, Some(_)) => known,
        (Seen::Unsaid, None) => Checkpoint::beginning_at(start),
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
    fn every_answer_at_every_moment_has_its_place_to_go_on_from() {
        let never = Checkpoint::default();
        let ours = |id| Seen::Ours(EventId::new(id));
        for (seen, known, expected) in [
            (Seen::Nothing, never.clone(), at(0, 0, false)),
            (Seen::Nothing, at(50, 40, false), at(0, 0, false)),
            (Seen::Nothing, at(50, 40, true), at(0, 0, false)),
            (Seen::Nothing, at(50, 0, true), at(50, 0, false)),
            (Seen::Nothing, at(50, 50, true), at(0, 0, false)),
            (Seen::Unsaid, never.clone(), at(0, 0, true)),
            (Seen::Unsaid, at(50, 40, false), at(50, 40, false)),
            (Seen::Unsaid, at(50, 40, true), at(50, 40, true)),
            // Half-finished, and nothing noted.
            (ours(7), never, at(7, 7, false)),
            (ours(45), at(50, 40, false), at(45, 45, false)),
            (ours(40), at(50, 40, false), at(50, 40, false)),
            // An answer was lost, or the last note of it.
            (ours(60), at(50, 40, true), at(60, 60, true)),
            // 41 to 50 were not for it.
            (ours(40), at(50, 40, true), at(50, 40, true)),
            // Restored from a backup.
            (ours(30), at(50, 40, true), at(30, 30, true)),
        ] {
            assert_eq!(resumed(seen, known.clone()), expected, "{seen:?} at {known:?}");
        }
    }

    #[test]
    fn who_says_nothing_may_begin_with_the_next_event() {
        let newest = Cursor::behind(EventId::new(100));
        let now = resume(Seen::Unsaid, Checkpoint::default(), newest);
        assert_eq!(now, at(100, 100, true));
    }

    #[test]
    fn what_is_owed_of_late_transactions_is_kept_until_the_position_has_passed_it() {
        let start: Cursor = "100~7:20".parse().unwrap();
        let begun = resume(Seen::Unsaid, Checkpoint::default(), start.clone());
        assert_eq!(begun, Checkpoint { owed: Some(start.clone()), ..at(20, 100, true) });
        let ours = |id| Seen::Ours(EventId::new(id));
        for (seen, expected) in [
            (Seen::Unsaid, begun.clone()),
            (ours(30), Checkpoint { owed: Some(start), ..at(30, 30, true) }),
            (ours(100), at(100, 100, true)),
            (Seen::Nothing, at(0, 0, false)),
        ] {
            assert_eq!(resumed(seen, begun.clone()), expected, "{seen:?}");
        }
    }
}
