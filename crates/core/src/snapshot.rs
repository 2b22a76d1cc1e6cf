//! PostgreSQL snapshots: which transactions a query of the client saw.
//!
//! The text format is that of `pg_current_snapshot()`: `731:735:731,733` sees every transaction below 735,
//! except 731 and 733, which were in progress.

use std::{fmt, str::FromStr};

use crate::event::Xid;

/// A PostgreSQL snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    /// In ascending order, each at least `xmin` and below `xmax`.
    in_progress: Box<[Xid]>,
}

/// The text is not a usable snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    /// The text does not have the form of a snapshot.
    #[error("it does not have the form xmin:xmax:xip,xip,...")]
    Form,
    /// The numbers contradict each other.
    #[error(
        "its numbers are out of order: xmin is at most xmax, and the transactions in progress ascend from \
         xmin to below xmax"
    )]
    Order,
    /// More than [`Snapshot::MAX_IN_PROGRESS`] transactions were in progress. The field is their number.
    #[error(
        "it has {0} transactions in progress, more than {max}: read the state again when fewer transactions \
         are open",
        max = Snapshot::MAX_IN_PROGRESS
    )]
    TooMany(usize),
}

impl Snapshot {
    /// The most transactions in progress that a snapshot may have. The cursor contains their list, and the
    /// gateway sends it in each `id:`.
    pub const MAX_IN_PROGRESS: usize = 1000;

    /// Whether the rows of this transaction were visible to the query.
    #[must_use]
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }

    /// The first transaction id that was not assigned yet.
    #[must_use]
    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    /// The transactions below `xmax` that were in progress, in ascending order.
    #[must_use]
    pub fn in_progress(&self) -> &[Xid] {
        &self.in_progress
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        let mut separator = "";
        self.in_progress.iter().try_for_each(|xid| {
            write!(f, "{separator}{xid}")?;
            separator = ",";
            Ok(())
        })
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(InvalidSnapshot::Form);
        let (xmin, xmax, list) = (number(part()?)?, number(part()?)?, part()?);
        let count = list.split(',').count();
        if count > Self::MAX_IN_PROGRESS {
            return Err(InvalidSnapshot::TooMany(count));
        }
        let numbers = list.split(',').filter(|_| !list.is_empty()).map(number);
        let in_progress = numbers.collect::<Result<Box<[Xid]>, _>>()?;
        let ascends = in_progress.windows(2).all(|pair| pair[0] < pair[1]);
        let within = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin.get() == 0 || xmin > xmax || !ascends || !within {
            return Err(InvalidSnapshot::Order);
        }
        Ok(Self { xmin, xmax, in_progress })
    }
}

fn number(text: &str) -> Result<Xid, InvalidSnapshot> {
    text.parse().map_err(|_| InvalidSnapshot::Form)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot: Snapshot = "731:735:731,733".parse().unwrap();
        let seen = (729..737).filter(|&xid| snapshot.sees(Xid::new(xid)));
        assert_eq!(seen.collect::<Vec<_>>(), [729, 730, 732, 734]);
        let idle: Snapshot = "735:735:".parse().unwrap();
        assert!(idle.sees(Xid::new(734)) && !idle.sees(Xid::new(735)));
    }

    #[test]
    fn a_text_that_is_no_snapshot_is_refused_with_the_reason() {
        use InvalidSnapshot::{Form, Order};
        for (text, reason) in [
            ("", Form),
            ("1", Form),
            ("1:2", Form),
            ("1:2:x", Form),
            ("1:2:,", Form),
            ("1:2:1,", Form),
            ("-1:2:", Form),
            ("1:2:1:1", Form),
            ("0:2:", Order),
            ("3:2:", Order),
            ("1:5:3,2", Order),
            ("1:5:2,2", Order),
            ("2:5:1", Order),
            ("1:5:5", Order),
        ] {
            assert_eq!(text.parse::<Snapshot>(), Err(reason), "{text:?}");
        }
        let of = |count: u64| {
            let list = (1..=count).map(|xid| xid.to_string()).collect::<Vec<_>>();
            format!("1:9999:{}", list.join(",")).parse::<Snapshot>()
        };
        assert!(of(1000).is_ok());
        assert_eq!(of(1001), Err(InvalidSnapshot::TooMany(1001)));
    }

    proptest! {
        #[test]
        fn a_snapshot_survives_the_wire(list in proptest::collection::btree_set(1_u64..5000, 0..50), behind in 1_u64..9) {
            let xmin = list.first().copied().unwrap_or(5000);
            let xmax = list.last().copied().unwrap_or(5000) + behind;
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            let text = format!("{xmin}:{xmax}:{}", list.join(","));
            prop_assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9:,]{0,30}|\\PC{0,20}") {
            let _ = text.parse::<Snapshot>();
        }
    }
}
