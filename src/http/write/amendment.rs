//! Checks amendments before they are written. An amendment that cannot be applied would have no effect: the
//! event would be shown as it was.
//!
//! The database makes the final decision, also when two amendments are written at the same time.
//!
//! An amendment changes what readers of an event see, so it requires the right to write for the consumer and
//! the stream of that event. A refusal must reveal nothing to a principal that may not read the event.
//! So it gives the same reason in all cases, and a JSON Patch, whose success depends on the content of the
//! event, is not tried.

use std::collections::BTreeMap;

use tracing::warn;

use crate::{
    access::principal::{Principal, Refused},
    consumer::ConsumerId,
    event::{EventId, draft::Draft, name::StreamName},
    http::{app::App, error::Problem, events::may_see},
    store::{
        error::ErrorChain,
        history::{History, HistoryError, StoredEvent},
    },
};

/// The index of a draft that cannot be written, and the reason.
pub(super) type RefusedDraft = (usize, Problem);

/// Refuses amendments that do not apply to the event that they amend.
pub(super) async fn check(
    app: &App,
    who: &Principal,
    drafts: &[Draft],
) -> Result<(), RefusedDraft> {
    let mut amendments: BTreeMap<EventId, Vec<usize>> = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        draft.amends.inspect(|target| amendments.entry(*target).or_default().push(at));
    }
    for (target, indexes) in amendments {
        check_target(app, who, target, drafts, &indexes).await?;
    }
    Ok(())
}

/// Checks all amendments of one event together, because each applies to the result of the previous ones.
async fn check_target(
    app: &App,
    who: &Principal,
    target: EventId,
    drafts: &[Draft],
    indexes: &[usize],
) -> Result<(), RefusedDraft> {
    let first = indexes[0];
    let history = app.gateway.read().history_for(who.name());
    let event = history.event(target).await.map_err(|error| (first, failed(target, &error)))?;
    let Some(event) = event else {
        return Err((first, missing(who, target)));
    };
    let visible = may_see(who, &event);
    let refuse =
        |at: usize, problem: Problem| (at, if visible { problem } else { concealed(target) });
    may_write(who, &event).map_err(|refused| refuse(first, refused.into()))?;
    if event.amends.is_some() {
        return Err(refuse(first, not_applicable(target, "it is an amendment itself")));
    }
    let (mut patches, mut tried) = (Vec::new(), Vec::new());
    for &at in indexes {
        let draft = &drafts[at];
        if !is_related(draft, &event) {
            let why = "it has another subscriber and another stream";
            return Err(refuse(at, not_applicable(target, why)));
        }
        let patch = draft.payload.as_str();
        if !visible && patch.starts_with('[') {
            return Err((at, concealed(target)));
        }
        // A draft that was already written was applicable then.
        if !is_written(&history, draft).await.map_err(|error| (at, failed(target, &error)))? {
            patches.push(patch.to_owned());
            tried.push(at);
        }
    }
    if patches.is_empty() {
        return Ok(());
    }
    let tried_patches = app
        .gateway
        .read()
        .try_patches(who.name(), &event, patches, app.settings.limits.event)
        .await;
    let applied = tried_patches.map_err(|error| (first, failed(target, &error)))?;
    applied.map_err(|(patch, why)| refuse(tried[patch], not_applicable(target, &why)))
}

async fn is_written(history: &History, draft: &Draft) -> Result<bool, HistoryError> {
    match draft.uid {
        Some(uid) => history.has_uid(uid).await,
        None => Ok(false),
    }
}

/// Checks that the principal may write for the consumer and into the stream of the target.
fn may_write(who: &Principal, event: &StoredEvent) -> Result<(), Refused> {
    if let Some(subscriber) = &event.subscriber {
        who.may_write_to(&ConsumerId::logged(subscriber))?;
    }
    if let Some(stream) = &event.stream {
        who.may_write_stream(stream)?;
    }
    Ok(())
}

fn is_related(draft: &Draft, event: &StoredEvent) -> bool {
    let subscriber = draft.subscriber.as_ref().map(ConsumerId::as_str);
    let stream = draft.stream().map(StreamName::as_str);
    let related = |its: &Option<String>, ours| its.is_some() && its.as_deref() == ours;
    related(&event.subscriber, subscriber) || related(&event.stream, stream)
}

/// The database's refusal of an amendment, concealed unless the principal may read everything.
pub(super) fn conceal_unless_readable(
    who: &Principal,
    target: EventId,
    problem: Problem,
) -> Problem {
    if who.may_read_all().is_ok() { problem } else { concealed(target) }
}

/// The same response for all reasons that must not be distinguishable.
fn concealed(target: EventId) -> Problem {
    Problem::forbidden(format!(
        "this does not amend {target}: there is no such event, or you may not amend it in this way \
         (without the right to read an event, amend it by a merge patch)"
    ))
}

fn missing(who: &Principal, target: EventId) -> Problem {
    let everything = who.may_read_all().is_ok();
    if everything { not_applicable(target, "there is no such event") } else { concealed(target) }
}

fn not_applicable(target: EventId, why: &str) -> Problem {
    Problem::conflict(format!("this does not amend {target}: {why}"))
}

fn failed(target: EventId, error: &HistoryError) -> Problem {
    warn!(error = %ErrorChain(error), %target, "looking up the event to amend failed");
    Problem::unavailable("PostgreSQL is not available at present; try again")
}
