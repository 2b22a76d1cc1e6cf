//! `event-piper prune`: take old events out of the log.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;

use super::upkeep::{self, Work, counted};
use crate::postgres::{
    prune::{Prune, What},
    server::Server,
};

/// What shall go, and what shall stay.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Events that are older than this, by their timestamp, such as 90d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Of each stream so many stay, the newest [default: 1, so that its versions go on]
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Streams that stay as a whole; * stands for anything. The table `events_keep` has more
    #[arg(long, value_name = "PATTERN")]
    except: Vec<String>,
    /// Count what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Prunes until all that is to go has gone, or a signal comes.
pub(super) async fn run(server: &Server, args: Args) -> anyhow::Result<ExitCode> {
    if args.older_than.is_none() && args.keep.is_none() {
        bail!("say what shall go: --older-than 90d, --keep 1000 (of each stream), or both");
    }
    let what =
        What { older_than: args.older_than, keep: args.keep.unwrap_or(1), except: args.except };
    let mut prune = Prune::begin(server, what, args.dry_run).await?;
    let verb = if args.dry_run { "would go" } else { "pruned" };
    let mut work = Work::new(verb, Some(prune.newest()))?;
    let all = upkeep::work(&mut work, async || Ok(prune.step().await?)).await?;
    println!("{}", work.summary());
    if !all {
        eprintln!("event-piper: interrupted at event {}: run it again to go on", work.upto());
        return Ok(ExitCode::FAILURE);
    }
    if args.dry_run {
        println!("nothing was changed; without --dry-run, {} go", counted(work.changed()));
    }
    Ok(ExitCode::SUCCESS)
}
