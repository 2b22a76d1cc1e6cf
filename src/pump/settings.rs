//! The settings of one pump.

use std::time::Duration;

use super::{aggregator::Target, feed::EventFormat, resume::Start};

/// What to do with an event that the aggregator refuses repeatedly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRefusal {
    /// Stop before the event until an operator decides.
    #[default]
    Stop,
    /// Store it as a dead letter, and continue with the next event.
    SetAside,
}

/// How an aggregator gets pending events after its bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// One by one, which every aggregator supports.
    #[default]
    Events,
    /// In batches, for an aggregator that does not take a batch for the start of a bootstrap.
    Batches,
}

/// The settings of one pump.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the lease and of the checkpoint.
    pub name: String,
    /// The address of the aggregator, and how to talk to it.
    pub target: Target,
    /// Which events it gets, and in which form.
    pub format: EventFormat,
    /// Where to start if neither the aggregator nor the checkpoint tells.
    pub start: Start,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
    /// How often the aggregator must refuse an event before [`on_refusal`](Self::on_refusal) applies.
    pub refusals: u32,
    /// What to do with a refused event.
    pub on_refusal: OnRefusal,
    /// How pending events are delivered after the bootstrap.
    pub catch_up: CatchUp,
}
