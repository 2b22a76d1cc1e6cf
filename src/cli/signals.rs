//! The signals that end the program: SIGTERM and SIGINT.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Receives SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From now on the signals do not end the process by themselves.
    pub(super) fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Exits at the first signal, whatever the program is doing. This is for commands without cleanup, which
    /// may be blocked because the reader of their output has stopped reading.
    pub(super) fn exit_on_signal() -> anyhow::Result<()> {
        let mut signals = Self::new()?;
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(0);
        });
        Ok(())
    }

    /// Waits for the next signal, and returns its name.
    ///
    /// # Cancel safety
    /// Signals that arrive between calls are not lost.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs `work` until it ends or a signal comes. The first signal cancels `shutdown`, and `work` drains. The
/// second signal drops `work`: everything, the embedded PostgreSQL included, stops without being waited
/// for.
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
