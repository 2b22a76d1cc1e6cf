//! The pump: keeps aggregators up to date, HTTP services with a store of their own.
//!
//! One [`Pump`] feeds one aggregator, for as long as it has the [`lease`]. It asks what the
//! aggregator has ([`aggregator`]), decides where to go on ([`resume`]), reads the log in strict
//! order and ahead ([`feed`]), and posts what it read, one batch or event after the other
//! (`delivery`). The log itself is the only queue, the checkpoint a plain number.

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

/// At the end a request that is under way is waited for, but no longer than this.
const FAREWELL: Duration = Duration::from_secs(5);

/// The pump of one aggregator.
#[derive(Debug)]
pub struct Pump {
    server: Server,
    read: Arc<Read>,
    settings: Settings,
    status: Status,
}

impl Pump {
    /// Reads the log on `server`, where lease and checkpoint are too, by way of `read`.
    #[must_use]
    pub fn new(server: &Server, read: &Arc<Read>, settings: Settings, status: Status) -> Self {
        Self { server: server.clone(), read: Arc::clone(read), settings, status }
    }

    /// Pumps until `leaving`.
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
            sleep(FAREWELL).await;
        };
        tokio::select! {
            () = delivery.run() => {}
            () = lease.lost() => {}
            () = overdue => {}
        }
    }
}
