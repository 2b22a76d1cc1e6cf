//! Memory accounting for responses, from before a response is built until it has been sent.

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

/// Bytes that are counted for every response: its head, and the state of its request.
const MIN_BYTES: usize = 8 << 10;

/// Permission to hold bytes of a response. A handler that reads much data reserves the bytes before it
/// reads.
#[derive(Clone)]
pub(super) struct AnswerPermit {
    share: Arc<Lock<Option<Share>>>,
    app: Arc<App>,
}

impl AnswerPermit {
    /// Reserves the bytes that every response needs, and adds the permit to the request for its handler.
    ///
    /// # Errors
    /// 503 when all responses together exceed `--answer-buffer`; 429 when those of this principal exceed
    /// `--answer-buffer-per-principal`.
    pub(super) fn acquire(
        app: &Arc<App>,
        who: &Principal,
        request: &mut Request,
    ) -> Result<Self, Problem> {
        let share = app.answers.share(who);
        let permit = Self { share: Arc::new(Lock::new(Some(share))), app: Arc::clone(app) };
        permit.reserve(MIN_BYTES)?;
        request.extensions_mut().insert(permit.clone());
        Ok(permit)
    }

    /// Reserves the bytes of a page of a stream.
    pub(super) fn reserve_page(&self) -> Result<(), Problem> {
        self.reserve(usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX))
    }

    /// Reserves more bytes for building the response.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), Problem> {
        let mut share = self.share.lock();
        let grown = share.as_mut().map_or(Ok(()), |share| share.grow(bytes));
        grown.map_err(|exhausted| refused(self.app.gateway.metrics(), exhausted))
    }

    /// Keeps the bytes of the response reserved until it has been sent. Event streams have a limit of
    /// their own, so their reservation is released here.
    pub(super) fn hold_until_sent(
        self,
        response: Response,
        permitted: Option<StillPermitted>,
    ) -> Response {
        let share = self.share.lock().take();
        let progress = SendProgress::current();
        if let (Some(progress), Some(permitted)) = (&progress, permitted) {
            progress.set_permitted(permitted);
        }
        let exact = response.body().size_hint().exact().and_then(|it| usize::try_from(it).ok());
        let share = share.filter(|_| !event_stream::is_stream(&response)).map(|mut share| {
            share.settle(exact.unwrap_or_default().max(MIN_BYTES));
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
                "clients have not yet read the responses that fill --answer-buffer: try again in a \
                 second",
            ),
        ),
        Exhausted::ByPrincipal => (
            "answer-buffer-of-a-principal",
            Problem::too_many_of(
                "you have not yet read the responses that fill --answer-buffer-per-principal: read \
                 them, then try again",
            ),
        ),
    };
    metrics.refused.get_or_create(&Reason { reason }).inc();
    problem
}
