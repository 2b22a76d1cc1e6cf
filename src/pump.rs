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
pub mod sign;
pub mod status;
pub mod tls;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    aggregator::Target, delivery::Delivery, feed::Shape, lease::Lease, resume::Start,
    status::Status,
};
use crate::{read::Read, store::server::Server};

/// What to do with an event that the aggregator refuses again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefusal {
    /// Wait before it until somebody decides.
    #[default]
    Stop,
    /// Note it as a dead letter, and go on behind it.
    SetAside,
}

/// How a booted aggregator gets several events that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// One by one, as every aggregator takes them.
    #[default]
    Events,
    /// In batches, for an aggregator to which a batch is not the beginning of a bootstrap.
    Batches,
}

/// What an operator can turn on one pump.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of lease and checkpoint.
    pub name: String,
    /// The aggregator.
    pub target: Target,
    /// Which events it gets, and how.
    pub shape: Shape,
    /// Where it begins, when neither side knows.
    pub start: Start,
    /// The longest pause between attempts.
    pub longest_pause: Duration,
    /// So many refusals of one event, and it counts as refused.
    pub refusals: u32,
    /// What happens then.
    pub on_refusal: OnRefusal,
    /// How it catches up.
    pub catch_up: CatchUp,
}

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
        let delivery = Delivery::new(&self.read, &self.settings, &self.status, lease, leaving);
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
