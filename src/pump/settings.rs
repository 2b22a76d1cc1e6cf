//! The settings of one pump.

use std::time::Duration;

use super::{aggregator::Target, feed::Shape, resume::Start};

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
