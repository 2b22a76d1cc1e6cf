//! The recent end of the log, in memory, in the order in which it was delivered.
//!
//! It is both a channel and a history. A live subscription is a position in it. A reconnecting
//! subscription usually finds its position again without a query. A subscription whose position has been
//! evicted continues from the table. A slow subscription delays nothing and costs no memory here.
//!
//! A reconnecting client that is served from memory gets only what memory has, so memory must know exactly
//! for which clients it is complete. A `Claim` states that: one claim holds for every consumer, and a
//! consumer whose entries are still in memory while those of others were evicted has a lower one.

mod backlog;
mod claim;
mod entry;
mod invariant;
mod memory;
mod reach;

pub use self::{
    entry::{Entry, HistoryPage, Sequence},
    memory::Recent,
    reach::Reach,
};
