//! Whether events are moving: what `/readyz` says.

use std::{
    sync::MutexGuard,
    time::{Duration, Instant},
};

use crate::crash::Lock;

/// What the reader last said of itself.
#[derive(Debug)]
pub struct Health(Lock<Report>);

#[derive(Debug)]
struct Report {
    state: Reading,
    /// What the database lacks of what delivery rests on.
    danger: Option<String>,
    /// When PostgreSQL last answered the reader.
    answered: Instant,
}

#[derive(Debug)]
enum Reading {
    Waiting(String),
    Moving,
}

impl Health {
    /// PostgreSQL is asked at least every second; silence for longer than this is a fault.
    const SILENCE: Duration = Duration::from_secs(5);

    /// Not ready, for the reason that nothing has been read yet.
    #[must_use]
    pub fn starting(now: Instant) -> Self {
        let state = Reading::Waiting("starting: PostgreSQL has not been reached yet".into());
        Self(Lock::new(Report { state, danger: None, answered: now }))
    }

    /// PostgreSQL has answered, and events move.
    pub fn moving(&self, now: Instant) {
        let mut report = self.report();
        (report.state, report.answered) = (Reading::Moving, now);
    }

    /// Events do not move, for this reason.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.report().state = Reading::Waiting(reason.into());
    }

    /// Events can be lost, for this reason; or not any more.
    pub fn endangered(&self, reason: Option<String>) {
        self.report().danger = reason;
    }

    /// Nothing, or why events do not move, or can be lost.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let report = self.report();
        let silent = now.saturating_duration_since(report.answered);
        match &report.state {
            Reading::Waiting(reason) => Err(reason.clone()),
            Reading::Moving if silent > Self::SILENCE => {
                Err(format!("PostgreSQL has not answered for {} s", silent.as_secs()))
            }
            Reading::Moving => report.danger.clone().map_or(Ok(()), Err),
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.0.lock()
    }
}
