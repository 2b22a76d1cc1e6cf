//! Who may write, and read what is not one consumer's alone.

use super::{App, error::Problem};
use crate::{
    access::{RetryAfter, principal::Principal},
    event::draft::Draft,
    gateway::writer::Writer,
};

/// What writes, for one who may write something: asked before a body is read.
pub(super) fn writer<'a>(app: &'a App, who: &Principal) -> Result<&'a Writer, Problem> {
    let writer = app.gateway.writer();
    let writer = writer.ok_or_else(|| Problem::forbidden("writing is switched off (--writing)"))?;
    who.may_write_anything()?;
    Ok(writer)
}

/// Whether one may write each of these: for its consumer, and into its stream.
pub(super) fn each(who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    drafts.iter().try_for_each(|draft| one(who, draft))
}

/// The same of one.
pub(super) fn one(who: &Principal, draft: &Draft) -> Result<(), Problem> {
    if let Some(subscriber) = &draft.subscriber {
        who.may_write_to(subscriber)?;
    }
    if let Some(place) = &draft.place {
        who.may_write_stream(place.stream.as_str())?;
    }
    Ok(())
}

/// Whether one may write so many events now.
pub(super) fn pace(app: &App, who: &Principal, events: usize) -> Result<(), Problem> {
    app.access.append(who, events).map_err(|RetryAfter(wait)| Problem::too_many(wait))
}
