//! `event-piper erase`: erases the payloads of a subscriber or a stream.

use std::process::ExitCode;

use super::{
    maintenance::{self, Work},
    output,
};
use crate::store::{
    erase::{Erase, EraseTarget},
    server::Server,
};

/// The events to erase.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Args {
    /// Erase all events for this subscriber
    #[arg(long, value_name = "NAME")]
    subscriber: Option<String>,
    /// Erase all events of this stream, whichever subscriber they are for
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

/// Erases in steps until everything is erased or a signal comes. `vacuum` is the command that frees the
/// disk space.
pub(super) async fn run(server: &Server, args: Args, vacuum: &str) -> anyhow::Result<ExitCode> {
    let whose = match (args.subscriber, args.stream) {
        (Some(name), _) => EraseTarget::Subscriber(name),
        (None, name) => EraseTarget::Stream(name.unwrap_or_default()),
    };
    let mut erase = Erase::begin(server, whose).await?;
    let mut work = Work::new("erased", None)?;
    let all = maintenance::work(&mut work, async || Ok(erase.step().await?)).await?;
    output::line(work.summary())?;
    if !all {
        output::note("interrupted: run the command again to continue");
        return Ok(ExitCode::FAILURE);
    }
    output::line(format_args!(
        "running gateways evict these events from memory within seconds. To remove them from disk: {vacuum}\n\
         Backups and WAL archives still contain them."
    ))?;
    Ok(ExitCode::SUCCESS)
}
