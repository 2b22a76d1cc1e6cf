//! Authorization: the rights and rates of a principal.

use super::{
    app::App,
    class::{Class, RequiredRight},
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

/// The writer of the gateway.
///
/// # Errors
/// 403 if writing is disabled (`--writing off`).
pub(super) fn writer(app: &App) -> Result<&Writer, Problem> {
    app.gateway.writer().ok_or_else(|| Problem::forbidden("writing is disabled (--writing)"))
}

/// Checks the right that the class of the route requires. This happens before anything else in the request
/// is examined.
pub(super) fn route(app: &App, who: &Principal, class: Class) -> Result<(), Problem> {
    match class.required() {
        RequiredRight::Nothing => {}
        RequiredRight::Write => {
            writer(app)?;
            who.may_write_anything()?;
        }
        RequiredRight::ReadAll => who.may_read_all()?,
        RequiredRight::SeeMetrics => who.may_see_metrics()?,
    }
    Ok(())
}

/// Checks that the principal may write each draft: for its consumer, and into its stream.
pub(super) fn drafts(who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    drafts.iter().try_for_each(|draft| self::draft(who, draft))
}

/// Checks that the principal may write this draft.
pub(super) fn draft(who: &Principal, draft: &Draft) -> Result<(), Problem> {
    if let Some(subscriber) = &draft.subscriber {
        who.may_write_to(subscriber)?;
    }
    if let Some(place) = &draft.place {
        who.may_write_stream(place.stream.as_str())?;
    }
    Ok(())
}

/// Counts the drafts against the principal's rates.
///
/// # Errors
/// 429 if a rate is exceeded; 413 if omitted digits alone exceed it, so that waiting cannot help.
pub(super) fn rate(app: &App, who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    let max_bytes = app.access.append_bytes();
    if omitted_digits(drafts).saturating_mul(OMITTED_DIGIT_BYTES) > max_bytes {
        return Err(Problem::too_large(format!(
            "written out, the numbers of these events have over {} more digits than were sent: send \
             fewer events at once (--max-append-bytes-per-principal)",
            max_bytes / OMITTED_DIGIT_BYTES
        )));
    }
    let appended = app.access.append(who, drafts.len(), rated_bytes(who, drafts));
    appended.map_err(|RetryAfter(wait)| Problem::too_many(wait))
}

/// What an omitted digit counts against the rate. A few bytes such as `1e99999` denote a number of a
/// hundred thousand digits. These cost nothing to send, so they count more than received bytes.
const OMITTED_DIGIT_BYTES: usize = 16;

/// The number of digits that are stored and delivered but were not received.
fn omitted_digits(drafts: &[Draft]) -> usize {
    let digits = |draft: &Draft| draft.printed_len().saturating_sub(draft.bytes());
    drafts.iter().map(digits).fold(0, usize::saturating_add)
}

/// The bytes that count against the principal's rate. In the open mode only omitted digits count.
pub(super) fn rated_bytes(who: &Principal, drafts: &[Draft]) -> usize {
    let received = match who.kind() {
        Kind::Open => 0,
        _ => drafts.iter().map(Draft::bytes).fold(0, usize::saturating_add),
    };
    omitted_digits(drafts).saturating_mul(OMITTED_DIGIT_BYTES).saturating_add(received)
}
