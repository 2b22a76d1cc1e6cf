//! Amendments are tried before they are written: one that cannot be applied would only leave the
//! event that it corrects to be shown as it was.
//!
//! The database has the last word, also where two are written at the same moment.
//!
//! Who amends an event changes what its readers see, so it takes the right to write what that event is
//! of. And who may not read it learns nothing from a refusal: there is one for all reasons, and a JSON
//! Patch, which applies or not by what the event says, is not tried.

use std::collections::BTreeMap;

use tracing::warn;

use crate::{
    access::principal::{Principal, Refused},
    consumer::ConsumerId,
    event::{EventId, draft::Draft, name::StreamName},
    http::{app::App, error::Problem, events::may_see},
    store::{
        error::Chain,
        history::{History, HistoryError, StoredEvent},
    },
};

/// An event that cannot be written, by its place in the request, and why.
pub(super) type Unfit = (usize, Problem);

/// Refuses what does not fit the event that it amends.
pub(super) async fn check(app: &App, who: &Principal, drafts: &[Draft]) -> Result<(), Unfit> {
    let mut amendments: BTreeMap<EventId, Vec<usize>> = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        draft.amends.inspect(|target| amendments.entry(*target).or_default().push(at));
    }
    for (target, places) in amendments {
        of_one_event(app, who, target, drafts, &places).await?;
    }
    Ok(())
}

/// All amendments of one event are tried together: each applies behind those before it.
async fn of_one_event(
    app: &App,
    who: &Principal,
    target: EventId,
    drafts: &[Draft],
    places: &[usize],
) -> Result<(), Unfit> {
    let first = places[0];
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
        return Err(refuse(first, misfit(target, "it is an amendment itself")));
    }
    let (mut patches, mut tried) = (Vec::new(), Vec::new());
    for &at in places {
        let draft = &drafts[at];
        if !is_related(draft, &event) {
            let why = "it is of another subscriber and another stream";
            return Err(refuse(at, misfit(target, why)));
        }
        let patch = draft.payload.as_str();
        if !visible && patch.starts_with('[') {
            return Err((at, concealed(target)));
        }
        // What was written already fitted then.
        if !is_written(&history, draft).await.map_err(|error| (at, failed(target, &error)))? {
            patches.push(patch.to_owned());
            tried.push(at);
        }
    }
    if patches.is_empty() {
        return Ok(());
    }
    let fits = app
        .gateway
        .read()
        .try_patches(who.name(), &event, patches, app.settings.limits.event)
        .await;
    let fits = fits.map_err(|error| (first, failed(target, &error)))?;
    fits.map_err(|(patch, why)| refuse(tried[patch], misfit(target, &why)))
}

async fn is_written(history: &History, draft: &Draft) -> Result<bool, HistoryError> {
    match draft.uid {
        Some(uid) => history.has_uid(uid).await,
        None => Ok(false),
    }
}

/// What the target is of, its amendment changes.
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

/// What the database says of an amendment, as this writer may hear it.
pub(super) fn as_told_to(who: &Principal, target: EventId, problem: Problem) -> Problem {
    if who.may_read_all().is_ok() { problem } else { concealed(target) }
}

/// The one answer for all that must not be told apart.
fn concealed(target: EventId) -> Problem {
    Problem::forbidden(format!(
        "this does not amend {target}: there is no such event, or it is not one that you may amend in \
         this way (who may not read an event amends it by a merge patch)"
    ))
}

fn missing(who: &Principal, target: EventId) -> Problem {
    let everything = who.may_read_all().is_ok();
    if everything { misfit(target, "there is no such event") } else { concealed(target) }
}

fn misfit(target: EventId, why: &str) -> Problem {
    Problem::conflict(format!("this does not amend {target}: {why}"))
}

fn failed(target: EventId, error: &HistoryError) -> Problem {
    warn!(error = %Chain(error), %target, "looking up what is amended failed");
    Problem::unavailable("PostgreSQL cannot be asked just now; try again")
}
