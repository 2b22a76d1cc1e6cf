//! Functions that run with their owner's rights do the log's work, whoever calls them, and nothing else.
//!
//! They are found in the catalogue, so that later ones are tried as well.

mod callers;
mod impostors;
mod migrated;
mod owners;
mod world;
