//! The signals that ask a program to leave.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, from now on.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over: they do not end the process by themselves any more.
    pub(super) fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Leaves the process at the first one, whatever it does: for a program that has nothing to put in
    /// order at the end, and may be blocked by a reader of its output that has stopped reading.
    pub(super) fn leave() -> anyhow::Result<()> {
        let mut signals = Self::new()?;
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(0);
        });
        Ok(())
    }

    /// Waits for the next one, and names it.
    ///
    /// # Cancel safety
    /// A signal that comes in between is not lost.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
