//! Detects connections that have carried no request for some time.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use http_body_util::BodyExt;
use tokio::time::sleep;

/// Counts the requests of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct IdleTracker(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    started: AtomicUsize,
    finished: AtomicUsize,
}

/// A request whose response has not been sent completely. Counted as finished when it is dropped.
struct OpenRequest(Arc<Counts>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.finished.fetch_add(1, Ordering::SeqCst);
    }
}

impl IdleTracker {
    /// Counts a request until its response has been sent or dropped.
    pub(super) fn track<F>(
        &self,
        response: F,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<F>
    where
        F: Future<Output = Result<Response, Infallible>>,
    {
        self.0.started.fetch_add(1, Ordering::SeqCst);
        let open = OpenRequest(Arc::clone(&self.0));
        async move {
            let response = response.await?;
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &open;
                    frame
                }))
            }))
        }
    }

    /// Waits until no request has been open for `within`. Returns after at most twice that time.
    pub(super) async fn wait_idle(&self, within: Duration) {
        loop {
            let before = self.0.finished.load(Ordering::SeqCst);
            sleep(within).await;
            if self.0.started.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }
}
