//! One listening connection at work.

mod hold;
mod publication;
mod report;
mod steps;

pub(super) use self::steps::{Session, Surroundings};
