//! The recent end of the log, in memory, in the order in which it was delivered.
//!
//! It is channel and history at once: a live subscription is a place in it, a reconnecting
//! one usually finds its place again without a query, and one that has fallen out of it
//! reads on from the table. Nothing waits for a slow subscription, and none costs memory.
//!
//! A reconnecting client is given nothing but what stands here, so memory must know exactly what
//! it is complete for. That is a `Claim`: one for everybody, and a lower one for each consumer
//! whose entries are still there while those of others were let go of.

mod backlog;
mod claim;
mod entry;
mod invariant;
mod memory;
mod reach;

pub use self::{
    entry::{Entry, Past, Sequence},
    memory::Recent,
    reach::Reach,
};
