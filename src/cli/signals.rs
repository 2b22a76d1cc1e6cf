//! The signals that ask a program to leave.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

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

/// Works until a signal. The first one drains; a second one leaves at once, and whatever is
/// dropped then, the embedded PostgreSQL too, is told to stop without being waited for.
pub(super) async fn until_signals(
    work: impl Future<Output = anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    tokio::pin!(work);
    tokio::select! {
        outcome = &mut work => return done(outcome),
        name = signals.next() => info!("received {name}: draining; a second signal exits at once"),
    }
    shutdown.cancel();
    tokio::select! {
        outcome = &mut work => done(outcome),
        name = signals.next() => {
            warn!("received {name} again: exiting at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn done(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}
