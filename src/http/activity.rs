//! Whether a connection that carries many requests is still of use to anybody.

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

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

/// A request that was not answered to the end yet.
struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Activity {
    /// Counts a request until its answer was sent, or given up.
    pub(super) fn during<F>(
        &self,
        answer: F,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<F>
    where
        F: Future<Output = Result<Response, Infallible>>,
    {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.0));
        async move {
            let answer = answer.await?;
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &open;
                    frame
                }))
            }))
        }
    }

    /// Waits until no request has been open for this time, or for up to twice as long.
    pub(super) async fn idle(&self, within: Duration) {
        loop {
            let before = self.0.ended.load(Ordering::SeqCst);
            sleep(within).await;
            if self.0.begun.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }
}
