//! The gateway's own events, in the same wire form as everybody's.

use std::{fmt::Write, time::Duration};

use crate::{cursor::Cursor, event::EventId};

/// Something that the gateway itself says to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The connection lives, and nothing has come for a while.
    Heartbeat,
    /// All that the client missed while it was away has been sent.
    CaughtUp,
    /// Events between these ids can be sent no more.
    Gap {
        /// The last id that the client has.
        from: EventId,
        /// The last id that is missing.
        to: EventId,
        /// Why.
        reason: GapReason,
    },
    /// The event before this one is shown as it was written: it cannot be corrected.
    Unamended {
        /// The event.
        event: EventId,
        /// The first of its amendments that does not apply.
        amendment: EventId,
    },
    /// The stream ends on purpose; the client should come back.
    Closing {
        /// Why.
        reason: &'static str,
    },
}

/// Why events can be sent no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// They were pruned.
    Pruned,
    /// The log was truncated or restored from a backup: it ends before the client's cursor.
    Reset,
}

impl Signal {
    /// Appends the frame; `cursor` is where the client is after it, where that is known.
    ///
    /// # Panics
    /// Never: writing to a `String` does not fail.
    pub fn put(self, out: &mut String, cursor: Option<&Cursor>) {
        if let Some(cursor) = cursor {
            writeln!(out, "id: {cursor}").expect("a String takes all");
        }
        let (event, data) = self.parts();
        write!(out, "event: {event}\ndata: {data}\n\n").expect("a String takes all");
    }

    fn parts(self) -> (&'static str, String) {
        match self {
            Self::Heartbeat => ("heartbeat", "thump".into()),
            Self::CaughtUp => ("$caught-up", "{}".into()),
            Self::Gap { from, to, reason } => {
                let reason = reason.as_str();
                ("$gap", format!(r#"{{"from":{from},"to":{to},"reason":"{reason}"}}"#))
            }
            Self::Unamended { event, amendment } => {
                ("$unamended", format!(r#"{{"event":{event},"amendment":{amendment}}}"#))
            }
            Self::Closing { reason } => ("$closing", format!(r#"{{"reason":"{reason}"}}"#)),
        }
    }
}

impl GapReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Reset => "reset",
        }
    }
}

/// Appends the time after which a client that lost its connection should come back: some
/// time up to `spread` behind `least`, drawn anew for every client, so that they do not all
/// come at once.
///
/// # Panics
/// Never: writing to a `String` does not fail.
pub fn put_retry(out: &mut String, least: Duration, spread: Duration) {
    let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    let millis = least.as_millis() + u128::from(fastrand::u64(0..=spread));
    write!(out, "retry: {millis}\n\n").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_come_back_do_not_come_all_at_once() {
        let (least, spread) = (Duration::from_secs(1), Duration::from_secs(2));
        let drawn: std::collections::BTreeSet<u64> = (0..100)
            .map(|_| {
                let mut out = String::new();
                put_retry(&mut out, least, spread);
                out.trim_start_matches("retry: ").trim_end().parse().unwrap()
            })
            .collect();
        assert!(drawn.len() > 10, "{drawn:?}");
        assert!(drawn.iter().all(|millis| (1000..=3000).contains(millis)), "{drawn:?}");
    }

    #[test]
    fn a_heartbeat_carries_the_cursor() {
        let mut out = String::new();
        Signal::Heartbeat.put(&mut out, Some(&"7~9:3".parse().unwrap()));
        assert_eq!(out, "id: 7~9:3\nevent: heartbeat\ndata: thump\n\n");
    }
}
