//! Events and what they consist of.

pub mod draft;
mod id;
pub mod json;
pub mod name;
pub mod timestamp;

pub use id::{EventId, Logged, Xid};

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A row of this id, by this transaction.
    pub(crate) struct Row(pub(crate) i64, pub(crate) u64);

    impl Logged for Row {
        fn id(&self) -> EventId {
            EventId::new(self.0)
        }
        fn xid(&self) -> Xid {
            Xid::new(self.1)
        }
    }
}
