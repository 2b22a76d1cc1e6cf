//! `event-piper erase`: take out what the events of somebody said.

use std::process::ExitCode;

use super::{
    output,
    upkeep::{self, Work},
};
use crate::store::{
    erase::{Erase, Whose},
    server::Server,
};

/// Whose events.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Args {
    /// Of all events for this subscriber
    #[arg(long, value_name = "NAME")]
    subscriber: Option<String>,
    /// Of all events of this stream, whoever they are for
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

/// Erases until there is nothing left to erase, or a signal comes.
/// `vacuum` is the command that frees the disk.
pub(super) async fn run(server: &Server, args: Args, vacuum: &str) -> anyhow::Result<ExitCode> {
    let whose = match (args.subscriber, args.stream) {
        (Some(name), _) => Whose::Subscriber(name),
        (None, name) => Whose::Stream(name.unwrap_or_default()),
    };
    let mut erase = Erase::begin(server, whose).await?;
    let mut work = Work::new("erased", None)?;
    let all = upkeep::work(&mut work, async || Ok(erase.step().await?)).await?;
    output::line(work.summary())?;
    if !all {
        output::note("interrupted: run it again to go on");
        return Ok(ExitCode::FAILURE);
    }
    output::line(format_args!(
        "gateways that run let go of it within some seconds; to take it off the disk: {vacuum}\n\
         Backups and archived logs have it still."
    ))?;
    Ok(ExitCode::SUCCESS)
}
