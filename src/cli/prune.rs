//! `event-piper prune`: deletes old events from the log.

use std::{num::NonZeroU32, process::ExitCode, time::Duration};

use anyhow::bail;

use super::{
    maintenance::{self, Work, counted},
    output,
};
use crate::store::{
    prune::{Prune, PrunePolicy},
    server::Server,
};

/// What shall go, and what shall stay.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Delete events that are older than this by their timestamp, such as 90d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Number of newest events of each stream to keep; at least 1, so that versions continue
    #[arg(long, value_name = "N", value_parser = keep)]
    keep: Option<NonZeroU32>,
    /// Streams to keep completely; * matches any text. The table `events_keep` lists more
    #[arg(long, value_name = "PATTERN")]
    except: Vec<String>,
    /// Read the whole log, to also delete old events that are among younger ones
    #[arg(long)]
    whole_log: bool,
    /// Count the events that would be deleted, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Prunes in steps until everything is pruned or a signal comes.
pub(super) async fn run(server: &Server, args: Args) -> anyhow::Result<ExitCode> {
    if args.older_than.is_none() && args.keep.is_none() {
        bail!("--older-than (such as 90d) or --keep (such as 1000, for each stream) is required");
    }
    let what = PrunePolicy {
        older_than: args.older_than,
        keep: args.keep.unwrap_or(NonZeroU32::MIN),
        except: args.except,
        whole_log: args.whole_log,
    };
    let mut prune = Prune::begin(server, what, args.dry_run).await?;
    let verb = if args.dry_run { "would be pruned" } else { "pruned" };
    let mut work = Work::new(verb, Some(prune.newest()))?;
    let all = maintenance::work(&mut work, async || Ok(prune.step().await?)).await?;
    output::line(work.summary())?;
    if !all {
        output::note(format_args!(
            "interrupted at event {}: run the command again to continue",
            work.upto()
        ));
        return Ok(ExitCode::FAILURE);
    }
    if args.dry_run {
        let went = counted(work.changed());
        output::line(format_args!(
            "nothing was changed; without --dry-run, {went} would be deleted"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(text: &str) -> Result<NonZeroU32, String> {
    let number: u32 = text.parse().map_err(|_| "expected a number of events".to_owned())?;
    NonZeroU32::new(number).ok_or_else(|| {
        "expected at least 1: the newest event of a stream stays, so that no version is used twice; \
         to remove its content, use event-piper erase --stream"
            .to_owned()
    })
}
