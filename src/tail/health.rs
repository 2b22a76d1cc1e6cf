//! Whether events are moving, as `/readyz` reports it.

use std::{
    sync::MutexGuard,
    time::{Duration, Instant},
};

use crate::crash::Lock;

/// The state that the tail last reported.
#[derive(Debug)]
pub struct Health(Lock<Report>);

#[derive(Debug)]
struct Report {
    state: Reading,
    /// Why events can be lost, if a safety check failed.
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
    /// The tail queries PostgreSQL at least every second. No answer for longer than this is a fault.
    const MAX_SILENCE: Duration = Duration::from_secs(5);

    /// The initial state: not ready, because PostgreSQL has not been reached yet.
    #[must_use]
    pub fn starting(now: Instant) -> Self {
        let state = Reading::Waiting("starting: PostgreSQL has not been reached yet".into());
        Self(Lock::new(Report { state, danger: None, answered: now }))
    }

    /// Reports that PostgreSQL has answered, and events move.
    pub fn moving(&self, now: Instant) {
        let mut report = self.report();
        (report.state, report.answered) = (Reading::Moving, now);
    }

    /// Reports that events do not move, for this reason.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.report().state = Reading::Waiting(reason.into());
    }

    /// Reports that events can be lost, for this reason; `None`: they cannot.
    pub fn endangered(&self, reason: Option<String>) {
        self.report().danger = reason;
    }

    /// Checks that events move and cannot be lost.
    ///
    /// # Errors
    /// The reason why events do not move or can be lost, in words for an operator.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let report = self.report();
        let silent = now.saturating_duration_since(report.answered);
        match &report.state {
            Reading::Waiting(reason) => Err(reason.clone()),
            Reading::Moving if silent > Self::MAX_SILENCE => {
                Err(format!("PostgreSQL has not answered for {} s", silent.as_secs()))
            }
            Reading::Moving => report.danger.clone().map_or(Ok(()), Err),
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.0.lock()
    }
}
