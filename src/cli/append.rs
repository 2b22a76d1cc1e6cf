//! `event-piper append`: sends events to a gateway, from arguments or from lines on standard
//! input, once each whatever happens on the way. A pipe is live: what comes is sent at once, and a
//! signal ends it after everything is written that was read.

mod lines;
mod post;
mod report;

use std::{collections::HashMap, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use reqwest::Url;
use serde_json::{Value, value::RawValue};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use self::{
    lines::{Line, Lines},
    post::Post,
    report::Report,
};
use super::{output, signals::Signals, token::Token};
use crate::config::commands;

/// Which events, and where they go.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Payloads, each as JSON; without payloads, lines are read from standard input
    #[arg(value_name = "PAYLOAD", requires = "kind")]
    payloads: Vec<String>,
    /// The type of the events; each line is then a payload, otherwise a whole event
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// The consumer that the events are for
    #[arg(long, short = 'c', value_name = "NAME", requires = "kind")]
    consumer: Option<String>,
    /// The stream to append the events to
    #[arg(long, short = 's', value_name = "STREAM", requires = "kind")]
    stream: Option<String>,
    /// A name for this input: if it is sent again with the same name, no line is written twice
    #[arg(long, value_name = "NAME")]
    resume: Option<String>,
    /// The URL of the gateway
    #[arg(long, env = commands::URL, default_value = "http://127.0.0.1:4000")]
    url: Url,
    #[command(flatten)]
    token: Token,
}

/// As much goes in one request.
const MOST_EVENTS: usize = 500;
const MOST_BYTES: usize = 256 << 10;
/// An event waits for others no longer than this before it is sent: so that a pipe is live.
const GATHERING: Duration = Duration::from_millis(50);

pub(super) async fn append(mut args: Args) -> anyhow::Result<ExitCode> {
    if args.kind.is_some() && args.consumer.is_none() && args.stream.is_none() {
        bail!("--consumer or --stream is required with --type");
    }
    let post = Post::new(&args.url, args.token.clone())?;
    let lines = Lines::open(std::mem::take(&mut args.payloads))?;
    let report = Report::new(&lines);
    let mut work = Work {
        args,
        post,
        lines,
        report,
        batch: Vec::new(),
        signals: Signals::new()?,
        left: false,
    };
    let done = work.all().await;
    work.report.end();
    match done {
        Ok(()) => work.finished(),
        Err(error) => Err(anyhow!("{error:#}; {}", work.report.summary())),
    }
}

/// An event, and the line that it came from.
struct Numbered {
    number: u64,
    event: Box<RawValue>,
}

struct Work {
    args: Args,
    post: Post,
    lines: Lines,
    report: Report,
    /// Read, and not written yet.
    batch: Vec<Numbered>,
    signals: Signals,
    /// A signal came: what was read is written still.
    left: bool,
}

impl Work {
    async fn all(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                gathered = gather(&self.args, &mut self.lines, &mut self.batch) => gathered?,
                name = self.signals.next(), if !self.left => {
                    self.leave(name);
                    continue;
                }
            }
            if self.batch.is_empty() {
                return Ok(());
            }
            self.send().await?;
        }
    }

    fn leave(&mut self, signal: &str) {
        self.left = true;
        self.lines.stop();
        self.report.say(format_args!(
            "{signal}: writing the lines that were read; a second signal aborts"
        ));
    }

    /// Sends what was gathered, until it is written or somebody asks to give up.
    async fn send(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
        let of = (first.number, last.number);
        let what = if self.lines.are_input() { "lines" } else { "arguments" };
        let events: Vec<&RawValue> = batch.iter().map(|event| &*event.event).collect();
        let (told, mut tellings) = mpsc::unbounded_channel();
        let sending = self.post.send(&events, |why| drop(told.send(why)));
        tokio::pin!(sending);
        let ids = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                Some(why) = tellings.recv() => self.report.say(why),
                name = self.signals.next() => {
                    if self.left {
                        bail!("{what} {} to {}: aborted ({name}); it is not known whether they were written", of.0, of.1);
                    }
                    self.left = true;
                    self.lines.stop();
                    self.report.say(format_args!("{name}: writing the lines that were read; a second signal aborts"));
                }
            }
        };
        let ids = ids.with_context(|| format!("{what} {} to {}", of.0, of.1))?;
        self.report.written(of, batch.len(), &ids, &self.lines);
        Ok(())
    }

    /// Says what was done. Whoever ends a pipe has had enough; of a file something may be missing.
    fn finished(&self) -> anyhow::Result<ExitCode> {
        output::line(self.report.summary())?;
        if let Some(line) = self.lines.unfinished() {
            output::note(format_args!("line {line} was incomplete and was not written"));
        }
        if self.left && self.lines.length().is_some() && !self.lines.at_end() {
            output::note("interrupted: the rest of the input was not written");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads events until there are enough for a request, or the first has waited for long enough, or
/// the input ends: only then there may be none.
///
/// # Cancel safety
/// What was read is in `batch`.
async fn gather(args: &Args, lines: &mut Lines, batch: &mut Vec<Numbered>) -> anyhow::Result<()> {
    let mut bytes: usize = batch.iter().map(|event| event.event.get().len()).sum();
    let gathered = sleep(GATHERING);
    tokio::pin!(gathered);
    while batch.len() < MOST_EVENTS && bytes < MOST_BYTES {
        let line = tokio::select! {
            biased;
            line = lines.next() => line?,
            () = &mut gathered, if !batch.is_empty() => break,
        };
        let Some(line) = line else { break };
        if batch.is_empty() {
            gathered.as_mut().reset(Instant::now() + GATHERING);
        }
        let event = event(args, &line).with_context(|| format!("line {}", line.number))?;
        bytes += event.get().len();
        batch.push(Numbered { number: line.number, event });
    }
    Ok(())
}

/// The event of a line, with a `uid`: so it can be sent again when no answer came.
fn event(args: &Args, line: &Line) -> anyhow::Result<Box<RawValue>> {
    let raw = |text: String| RawValue::from_string(text).context("not valid JSON");
    let uid = post::uid(args.resume.as_deref(), line);
    let Some(kind) = &args.kind else {
        let given: HashMap<String, &RawValue> =
            serde_json::from_str(&line.text).context("not an event")?;
        if given.contains_key("uid") {
            return raw(line.text.clone());
        }
        // The text is kept as it is, for numbers that would not survive being parsed.
        let members = line.text.trim_start().strip_prefix('{').unwrap_or_default();
        let comma = if given.is_empty() { "" } else { "," };
        return raw(format!(r#"{{"uid":"{uid}"{comma}{members}"#));
    };
    let payload = raw(line.text.clone())?;
    let text = |text: &str| Value::from(text).to_string();
    let member = |name: &str, value: &Option<String>| {
        value.as_deref().map(|value| format!(r#","{name}":{}"#, text(value))).unwrap_or_default()
    };
    let whose = member("subscriber", &args.consumer) + &member("stream", &args.stream);
    raw(format!(r#"{{"uid":"{uid}","type":{}{whose},"payload":{payload}}}"#, text(kind)))
}
