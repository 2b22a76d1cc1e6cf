//! Pumps deliver all events to sinks: today to aggregators, HTTP services with a store of their own.
//!
//! One [`Pump`] feeds one [`sink`] while it holds the [`lease`]. It asks the sink for its latest event
//! (an [`aggregator`] over HTTP), decides where to resume ([`resume`]), reads the log ahead in strict order
//! ([`feed`]), and posts one batch or event after the other (`delivery`). The log itself is the only
//! queue. The checkpoint is a position in it.

pub mod aggregator;
mod delivery;
pub mod feed;
pub mod fields;
pub mod lease;
mod progress;
mod refusals;
pub mod resume;
mod settings;
pub mod sign;
pub mod sink;
pub mod status;
pub mod tls;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::settings::{CatchUp, OnRefusal, Settings};
use self::{aggregator::Aggregator, delivery::Delivery, lease::Lease, status::Status};
use crate::{read::Read, store::server::Server};

/// How long a shutdown waits for a request in progress.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// The pump of one aggregator.
#[derive(Debug)]
pub struct Pump {
    server: Server,
    read: Arc<Read>,
    settings: Settings,
    status: Status,
}

impl Pump {
    /// A pump for the log on `server`, which `read` reads. The lease and the checkpoint are stored
    /// there too.
    #[must_use]
    pub fn new(server: &Server, read: &Arc<Read>, settings: Settings, status: Status) -> Self {
        Self { server: server.clone(), read: Arc::clone(read), settings, status }
    }

    /// Delivers events until `leaving` is cancelled.
    pub async fn run(self, leaving: CancellationToken) {
        loop {
            let acquire = Box::pin(lease::acquire(&self.server, &self.settings.name, &self.status));
            let Some(lease) = leaving.run_until_cancelled(acquire).await else { return };
            self.deliver(&lease, &leaving).await;
            if leaving.is_cancelled() {
                return lease.release().await;
            }
            self.status.lost();
        }
    }

    async fn deliver(&self, lease: &Lease, leaving: &CancellationToken) {
        let sink = Aggregator::new(self.settings.target.clone());
        let delivery =
            Delivery::new(sink, &self.read, &self.settings, &self.status, lease, leaving);
        let overdue = async {
            leaving.cancelled().await;
            sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            () = delivery.run() => {}
            () = lease.lost() => {}
            () = overdue => {}
        }
    }
}
