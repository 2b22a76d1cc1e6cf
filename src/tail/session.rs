//! One session on the listening connection.

mod hold;
mod publication;
mod report;
mod steps;

pub(super) use self::steps::{Session, SessionContext};
