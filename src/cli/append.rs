//! `event-piper append`: sends events to a gateway, from arguments or from lines on standard input. Each
//! event is written once, in spite of retries. Lines from a pipe are sent as they arrive. After a signal,
//! the lines that were read are still written.

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

/// The number of events in one request.
const MAX_BATCH_EVENTS: usize = 500;
/// The size of the events at which a request is sent.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// How long an event waits for others before it is sent.
const BATCH_DELAY: Duration = Duration::from_millis(50);

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
        stopping: false,
    };
    let done = work.all().await;
    work.report.end();
    match done {
        Ok(()) => work.finished(),
        Err(error) => Err(anyhow!("{error:#}; {}", work.report.summary())),
    }
}

/// An event, and the number of its line.
struct Numbered {
    number: u64,
    event: Box<RawValue>,
}

struct Work {
    args: Args,
    post: Post,
    lines: Lines,
    report: Report,
    /// Events that were read and not written yet.
    batch: Vec<Numbered>,
    signals: Signals,
    /// Whether a signal came. The events that were read are still written.
    stopping: bool,
}

impl Work {
    async fn all(&mut self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                gathered = gather(&self.args, &mut self.lines, &mut self.batch) => gathered?,
                name = self.signals.next(), if !self.stopping => {
                    self.stop(name);
                    continue;
                }
            }
            if self.batch.is_empty() {
                return Ok(());
            }
            self.send().await?;
        }
    }

    fn stop(&mut self, signal: &str) {
        self.stopping = true;
        self.lines.stop();
        self.report.say(format_args!(
            "{signal}: writing the lines that were read; a second signal aborts"
        ));
    }

    /// Sends the batch until it is written or another signal comes.
    async fn send(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
        let of = (first.number, last.number);
        let what = if self.lines.are_input() { "lines" } else { "arguments" };
        let events: Vec<&RawValue> = batch.iter().map(|event| &*event.event).collect();
        let (messages, mut received) = mpsc::unbounded_channel();
        let sending = self.post.send(&events, |why| drop(messages.send(why)));
        tokio::pin!(sending);
        let ids = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                Some(why) = received.recv() => self.report.say(why),
                name = self.signals.next() => {
                    if self.stopping {
                        bail!("{what} {} to {}: aborted ({name}); it is not known whether they were written", of.0, of.1);
                    }
                    self.stopping = true;
                    self.lines.stop();
                    self.report.say(format_args!("{name}: writing the lines that were read; a second signal aborts"));
                }
            }
        };
        let ids = ids.with_context(|| format!("{what} {} to {}", of.0, of.1))?;
        self.report.written(of, batch.len(), &ids, &self.lines);
        Ok(())
    }

    /// Prints a summary. Ending a pipe by a signal is success; ending a file early is not.
    fn finished(&self) -> anyhow::Result<ExitCode> {
        output::line(self.report.summary())?;
        if let Some(line) = self.lines.unfinished() {
            output::note(format_args!("line {line} was incomplete and was not written"));
        }
        if self.stopping && self.lines.length().is_some() && !self.lines.at_end() {
            output::note("interrupted: the rest of the input was not written");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads events until a request is full, the first event has waited for [`BATCH_DELAY`], or the input ends.
/// Only at the end of the input the batch may be empty.
///
/// # Cancel safety
/// The events that were read are in `batch`.
async fn gather(args: &Args, lines: &mut Lines, batch: &mut Vec<Numbered>) -> anyhow::Result<()> {
    let mut bytes: usize = batch.iter().map(|event| event.event.get().len()).sum();
    let gathered = sleep(BATCH_DELAY);
    tokio::pin!(gathered);
    while batch.len() < MAX_BATCH_EVENTS && bytes < MAX_BATCH_BYTES {
        let line = tokio::select! {
            biased;
            line = lines.next() => line?,
            () = &mut gathered, if !batch.is_empty() => break,
        };
        let Some(line) = line else { break };
        if batch.is_empty() {
            gathered.as_mut().reset(Instant::now() + BATCH_DELAY);
        }
        let event = event(args, &line).with_context(|| format!("line {}", line.number))?;
        bytes += event.get().len();
        batch.push(Numbered { number: line.number, event });
    }
    Ok(())
}

/// The event of a line, with a `uid`, so that it can be sent again after a lost response.
fn event(args: &Args, line: &Line) -> anyhow::Result<Box<RawValue>> {
    let raw = |text: String| RawValue::from_string(text).context("not valid JSON");
    let uid = post::uid(args.resume.as_deref(), line);
    let Some(kind) = &args.kind else {
        let given: HashMap<String, &RawValue> =
            serde_json::from_str(&line.text).context("not an event")?;
        if given.contains_key("uid") {
            return raw(line.text.clone());
        }
        // The text is not parsed and written again, since numbers could lose digits.
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
