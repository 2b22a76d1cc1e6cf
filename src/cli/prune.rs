//! `event-piper prune`: take old events out of the log.

use std::{num::NonZeroU32, process::ExitCode, time::Duration};

use anyhow::bail;

use super::{
    output,
    upkeep::{self, Work, counted},
};
use crate::store::{
    prune::{Prune, What},
    server::Server,
};

/// What shall go, and what shall stay.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Events that are older than this, by their timestamp, such as 90d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Of each stream so many stay, the newest: 1 at least, so that its versions go on
    #[arg(long, value_name = "N", value_parser = keep)]
    keep: Option<NonZeroU32>,
    /// Streams that stay as a whole; * stands for anything. The table `events_keep` has more
    #[arg(long, value_name = "PATTERN")]
    except: Vec<String>,
    /// Also what says that it is old among what is younger, wherever it stands: reads the whole log
    #[arg(long)]
    whole_log: bool,
    /// Count what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Prunes until all that is to go has gone, or a signal comes.
pub(super) async fn run(server: &Server, args: Args) -> anyhow::Result<ExitCode> {
    if args.older_than.is_none() && args.keep.is_none() {
        bail!("say what shall go: --older-than 90d, --keep 1000 (of each stream), or both");
    }
    let what = What {
        older_than: args.older_than,
        keep: args.keep.unwrap_or(NonZeroU32::MIN),
        except: args.except,
        whole_log: args.whole_log,
    };
    let mut prune = Prune::begin(server, what, args.dry_run).await?;
    let verb = if args.dry_run { "would go" } else { "pruned" };
    let mut work = Work::new(verb, Some(prune.newest()))?;
    let all = upkeep::work(&mut work, async || Ok(prune.step().await?)).await?;
    output::line(work.summary())?;
    if !all {
        output::note(format_args!("interrupted at event {}: run it again to go on", work.upto()));
        return Ok(ExitCode::FAILURE);
    }
    if args.dry_run {
        let went = counted(work.changed());
        output::line(format_args!("nothing was changed; without --dry-run, {went} go"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(text: &str) -> Result<NonZeroU32, String> {
    let number: u32 = text.parse().map_err(|_| "expected a number of events".to_owned())?;
    NonZeroU32::new(number).ok_or_else(|| {
        "the newest event of a stream stays, so that its versions go on and none comes twice; \
         what it says goes by event-piper erase --stream"
            .to_owned()
    })
}
