//! `event-piper append`: sends events to a gateway, from arguments or from lines on standard
//! input, once each whatever happens on the way.

mod lines;
mod post;

use std::{collections::HashMap, process::ExitCode};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Url;
use serde_json::{Value, value::RawValue};

use self::{
    lines::{Line, Lines},
    post::Post,
};

/// Which events, and where they go.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Payloads, JSON each; without any, lines come on standard input
    #[arg(value_name = "PAYLOAD", requires = "kind")]
    payloads: Vec<String>,
    /// The events' type; a line is then a payload, else it is a whole event
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    kind: Option<String>,
    /// The consumer that they are for
    #[arg(long, short = 'c', value_name = "NAME", requires = "kind")]
    consumer: Option<String>,
    /// The stream that they are appended to
    #[arg(long, short = 's', value_name = "STREAM", requires = "kind")]
    stream: Option<String>,
    /// A name for this input: sent again under the same name, no line of it is written twice
    #[arg(long, value_name = "NAME")]
    resume: Option<String>,
    /// Where the gateway is
    #[arg(long, env = "EVENT_PIPER_URL", default_value = "http://127.0.0.1:4000")]
    url: Url,
}

/// As much goes in one request.
const MOST_EVENTS: usize = 500;
const MOST_BYTES: usize = 256 << 10;

pub(super) async fn append(mut args: Args) -> anyhow::Result<ExitCode> {
    if args.kind.is_some() && args.consumer.is_none() && args.stream.is_none() {
        bail!("say who the events are for (--consumer), or which stream they are of (--stream)");
    }
    let post = Post::new(&args.url)?;
    let mut lines = Lines::open(std::mem::take(&mut args.payloads));
    let progress = progress(&lines);
    let mut written = 0;
    loop {
        let batch = batch(&args, &mut lines).await?;
        let Some((first, last)) = batch.first().zip(batch.last()) else { break };
        let (first, last) = (first.number, last.number);
        let events: Vec<&RawValue> = batch.iter().map(|event| &*event.event).collect();
        let say = |why: String| progress.println(why);
        let sent = post.send(&events, say).await;
        sent.with_context(|| format!("lines {first} to {last}; {written} events are written"))?;
        written += events.len();
        progress.set_position(lines.read());
        progress.set_message(written.to_string());
    }
    progress.finish_and_clear();
    println!("{written} events are written");
    Ok(ExitCode::SUCCESS)
}

/// A bar where the length is known, a count where it is not; nothing where nobody looks.
fn progress(lines: &Lines) -> ProgressBar {
    let (bar, template) = match lines.length() {
        Some(length) => (ProgressBar::new(length), "{bar:40} {percent}% {msg} events {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} events {elapsed}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message("0")
}

/// An event, and the line that it came from.
struct Numbered {
    number: u64,
    event: Box<RawValue>,
}

async fn batch(args: &Args, lines: &mut Lines) -> anyhow::Result<Vec<Numbered>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < MOST_EVENTS && bytes < MOST_BYTES {
        let Some(line) = lines.next().await? else { break };
        let event = event(args, &line).with_context(|| format!("line {}", line.number))?;
        bytes += event.get().len();
        batch.push(Numbered { number: line.number, event });
    }
    Ok(batch)
}

/// The event of a line, with a `uid`: so it can be sent again when no answer came.
fn event(args: &Args, line: &Line) -> anyhow::Result<Box<RawValue>> {
    let raw = |text: String| RawValue::from_string(text).context("no JSON");
    let uid = post::uid(args.resume.as_deref(), line);
    let Some(kind) = &args.kind else {
        let given: HashMap<String, &RawValue> =
            serde_json::from_str(&line.text).context("no event")?;
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
