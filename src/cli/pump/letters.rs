//! `event-piper pump list`, `retry` and `skip`: manages events that aggregators refused.

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    cli::output,
    event::EventId,
    store::{
        pumps::{self, DeadLetterState, PumpState},
        server::Server,
    },
};

/// Prints all pumps, each with its refused events.
pub(super) async fn list(server: &Server) -> anyhow::Result<ExitCode> {
    let client = server.client().await.context("connecting to PostgreSQL")?;
    let all = pumps::pumps(&client).await.context(
        "cannot read the pumps; if the schema is not up to date, run event-piper migrate",
    )?;
    let letters = pumps::dead_letters(&client).await.context(
        "cannot read the dead letters; if the schema is not up to date, run event-piper migrate",
    )?;
    if all.is_empty() {
        output::line("there are no pumps yet")?;
    }
    for pump in &all {
        output::line(line(pump))?;
        for letter in letters.iter().filter(|letter| letter.pump == pump.name) {
            let (event, state, at) = (letter.event, &letter.state, &letter.noted_at);
            let reason = &letter.reason;
            output::line(format_args!("    {event} {state} since {at}: {reason}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(pump: &PumpState) -> String {
    let running = if pump.running { "running" } else { "not running" };
    let booted = if pump.checkpoint.booted { "booted" } else { "not booted" };
    let position = pump.checkpoint.position.map(|_| pump.checkpoint.cursor().head().to_string());
    let position = position.unwrap_or_else(|| "the beginning".into());
    format!("{}: {running}, {booted}, at {position}, {} events behind", pump.name, pump.behind)
}

/// A decision about refused events.
pub(super) struct Mark {
    pub(super) name: String,
    pub(super) events: Vec<EventId>,
    pub(super) letter: DeadLetterState,
}

impl Mark {
    /// Stores the decision. The pump that holds the lease carries it out.
    pub(super) async fn apply(&self, server: &Server) -> anyhow::Result<ExitCode> {
        let client = server.client().await.context("connecting to PostgreSQL")?;
        let marked = pumps::mark(&client, &self.name, &self.events, self.letter);
        let marked = marked.await.context(
            "cannot mark the events; if the schema is not up to date, run event-piper migrate",
        )?;
        let how = self.letter.as_str();
        output::line(format_args!("{marked} events marked: {how}"))?;
        if marked == 0 {
            output::note(
                "none of these events is refused; `event-piper pump list` shows the refused events",
            );
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}
