//! Who may write, and read what is not one consumer's alone.

use super::{
    app::App,
    class::{Class, Needs},
    error::Problem,
};
use crate::{
    access::{
        RetryAfter,
        principal::{Kind, Principal},
    },
    event::draft::Draft,
    write::Writer,
};

/// What writes, where writing is switched on.
pub(super) fn writer(app: &App) -> Result<&Writer, Problem> {
    app.gateway.writer().ok_or_else(|| Problem::forbidden("writing is switched off (--writing)"))
}

/// Whether one may do what the class of a route needs: asked before anything else of the request is looked at.
pub(super) fn route(app: &App, who: &Principal, class: Class) -> Result<(), Problem> {
    match class.needs() {
        Needs::Nothing => {}
        Needs::ToWrite => {
            writer(app)?;
            who.may_write_anything()?;
        }
        Needs::ToReadAll => who.may_read_all()?,
        Needs::ToSeeMetrics => who.may_see_metrics()?,
    }
    Ok(())
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

/// Whether one may write these events now.
pub(super) fn rate(app: &App, who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    let most = app.access.append_bytes();
    if omitted(drafts).saturating_mul(OMITTED_WEIGHT) > most {
        return Err(Problem::too_large(format!(
            "the numbers of these events leave out more than {} digits, with which they are kept and \
             sent: send fewer at once (--max-append-bytes-per-principal)",
            most / OMITTED_WEIGHT
        )));
    }
    let appended = app.access.append(who, drafts.len(), rated_bytes(who, drafts));
    appended.map_err(|RetryAfter(wait)| Problem::too_many(wait))
}

/// A few bytes can say a number of a hundred thousand digits. They cost nothing to send, so they
/// count more than what comes by wire.
const OMITTED_WEIGHT: usize = 16;

/// The digits that are kept and sent, and were not received.
fn omitted(drafts: &[Draft]) -> usize {
    let digits = |draft: &Draft| draft.printed_len().saturating_sub(draft.bytes());
    drafts.iter().map(digits).fold(0, usize::saturating_add)
}

/// The bytes of these that count against the rate of whoever writes them. In the open mode nobody
/// has a rate, save of digits that do not come by wire.
pub(super) fn rated_bytes(who: &Principal, drafts: &[Draft]) -> usize {
    let received = match who.kind() {
        Kind::Anybody => 0,
        _ => drafts.iter().map(Draft::bytes).fold(0, usize::saturating_add),
    };
    omitted(drafts).saturating_mul(OMITTED_WEIGHT).saturating_add(received)
}
