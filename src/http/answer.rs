//! The bytes of an answer, from before it is made until it was sent.

use std::sync::Arc;

use axum::{body::HttpBody, extract::Request, response::Response};

use super::{
    app::App,
    error::Problem,
    event_stream,
    send_progress::{SendProgress, StillPermitted, TrackedBody},
    stream::PAGE_BYTES,
};
use crate::{
    access::{
        budget::{Exhausted, Share},
        principal::Principal,
    },
    crash::Lock,
    metrics::{Metrics, Reason},
};

/// What every answer takes: its head, and what it is made with.
const LEAST_BYTES: usize = 8 << 10;

/// Room for an answer. A handler that reads much asks for it before it does.
#[derive(Clone)]
pub(super) struct AnswerPermit {
    share: Arc<Lock<Option<Share>>>,
    app: Arc<App>,
}

impl AnswerPermit {
    /// Room for an answer to this request, and puts it into the request for its handler.
    pub(super) fn acquire(
        app: &Arc<App>,
        who: &Principal,
        request: &mut Request,
    ) -> Result<Self, Problem> {
        let share = app.answers.share(who);
        let permit = Self { share: Arc::new(Lock::new(Some(share))), app: Arc::clone(app) };
        permit.reserve(LEAST_BYTES)?;
        request.extensions_mut().insert(permit.clone());
        Ok(permit)
    }

    /// Room for a page of a stream.
    pub(super) fn reserve_page(&self) -> Result<(), Problem> {
        self.reserve(usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX))
    }

    /// Room for so many bytes more, of which the answer may be made.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), Problem> {
        let mut share = self.share.lock();
        let grown = share.as_mut().map_or(Ok(()), |share| share.grow(bytes));
        grown.map_err(|exhausted| refused(self.app.gateway.metrics(), exhausted))
    }

    /// Counts the answer until it was sent. A stream is counted among streams.
    pub(super) fn hold_until_sent(
        self,
        response: Response,
        permitted: Option<StillPermitted>,
    ) -> Response {
        let share = self.share.lock().take();
        let progress = SendProgress::current();
        if let (Some(progress), Some(permitted)) = (&progress, permitted) {
            progress.permitted(permitted);
        }
        let exact = response.body().size_hint().exact().and_then(|it| usize::try_from(it).ok());
        let share = share.filter(|_| !event_stream::is_stream(&response)).map(|mut share| {
            share.settle(exact.unwrap_or_default().max(LEAST_BYTES));
            share
        });
        if share.is_none() && progress.is_none() {
            return response;
        }
        response.map(|body| TrackedBody::body(body, progress, share))
    }
}

fn refused(metrics: &Metrics, exhausted: Exhausted) -> Problem {
    let (reason, problem) = match exhausted {
        Exhausted::InAll => (
            "answer-buffer",
            Problem::unavailable(
                "too many answers are on their way to clients that have not read them \
                 (--answer-buffer): try again in a second",
            ),
        ),
        Exhausted::ByPrincipal => (
            "answer-buffer-of-a-principal",
            Problem::too_many_of(
                "you have too many answers that you have not read \
                 (--answer-buffer-per-principal): read them, then try again",
            ),
        ),
    };
    metrics.refused.get_or_create(&Reason { reason }).inc();
    problem
}
