//! What identifies a row of the log: its id and its transaction.

use std::{fmt, num::ParseIntError, str::FromStr};

/// The place of an event in the log: the `id` of its row. Ids start at 1. They are drawn before COMMIT, so
/// they say nothing about the order in which rows become visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(i64);

impl EventId {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The id of a row.
    #[must_use]
    pub const fn new(id: i64) -> Self {
        Self(id)
    }

    /// The number, as PostgreSQL stores it.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The id that is drawn after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The id that was drawn before this one.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = ParseIntError;

    /// Accepts digits only: no sign, no white space.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = if text.starts_with(['+', '-']) { "" } else { text };
        digits.parse().map(Self)
    }
}

/// A writing transaction: PostgreSQL's `xid8`, which never wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(u64);

impl Xid {
    /// The transaction with this full (64-bit) id.
    #[must_use]
    pub const fn new(xid: u64) -> Self {
        Self(xid)
    }

    /// The number, as PostgreSQL stores it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Widens a 32-bit `xid`, as the lock table shows it. `near` is a full id that was assigned at about the
    /// same time: less than 2^31 transactions apart.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "modular arithmetic on transaction ids is what PostgreSQL does too"
    )]
    pub const fn widen(xid: u32, near: Self) -> Self {
        let ahead = xid.wrapping_sub(near.0 as u32) as i32;
        Self(near.0.wrapping_add(ahead as i64 as u64))
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Xid {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A row of the log, as far as the rules of order are concerned.
pub trait Logged {
    /// The row's id.
    fn id(&self) -> EventId;
    /// The transaction that wrote it.
    fn xid(&self) -> Xid;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_ids() {
        assert_eq!("42".parse(), Ok(EventId::new(42)));
        for wrong in ["", "-1", "+1", " 1", "1 ", "0x1", "9223372036854775808", "1e3"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn widens_an_xid_across_the_wrap() {
        let near = Xid::new((7 << 32) + 5);
        assert_eq!(Xid::widen(3, near), Xid::new((7 << 32) + 3));
        assert_eq!(Xid::widen(9, near), Xid::new((7 << 32) + 9));
        assert_eq!(Xid::widen(u32::MAX, near), Xid::new((7 << 32) - 1));
    }
}
