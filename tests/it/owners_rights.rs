//! Functions that run with their owner's rights (`security definer`) do only their work for the log,
//! whichever role calls them.
//!
//! The tests find the functions in the system catalog, so that functions of later versions are tested as
//! well.

mod callers;
mod impostors;
mod migrated;
mod owners;
mod world;
