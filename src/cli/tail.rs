//! `event-piper tail`: follows a gateway from the terminal, and reconnects.

mod print;

use std::{
    error::Error,
    io::{self, ErrorKind},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use self::print::Printer;
use super::{signals::Signals, token::Token};
use crate::{
    backoff::Policy,
    config::commands,
    consumer::ConsumerId,
    sse::{Event, Item, Parser},
    web,
};

/// Which gateway, whose events, from where, and how they are shown.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The consumer whose events to follow; may be repeated
    #[arg(long = "consumer", short, value_name = "NAME")]
    consumers: Vec<ConsumerId>,
    /// The URL of the gateway
    #[arg(long, env = commands::URL, default_value = "http://127.0.0.1:4000")]
    url: Url,
    /// The id or cursor after which to start; 0 is the beginning [default: the next event]
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// Only events of these types, separated by commas
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    #[command(flatten)]
    token: Token,
    /// Print one JSON object per line, with id (the cursor), type and the unchanged data
    #[arg(long)]
    json: bool,
}

const CONSUMER: HeaderName = HeaderName::from_static("x-consumer-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The pause before the first reconnect, unless the gateway has sent `retry`.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
/// The pauses between attempts to reach a gateway: at most 15 seconds.
const RECONNECT_BACKOFF: Policy = Policy::new(Duration::from_millis(500), Duration::from_secs(15));
/// How long to wait for a connection, and for the body of an error.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without data for this long counts as lost. If the gateway's heartbeat interval is longer,
/// the command reconnects unnecessarily, but loses no event.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(2);
/// The length of a gateway's error message that is shown.
const MAX_DETAIL_CHARS: usize = 400;

pub(super) async fn tail(args: Args) -> anyhow::Result<ExitCode> {
    Signals::exit_on_signal()?;
    let mut tail = Tail::new(args)?;
    match tail.follow().await {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        followed => followed.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe)
}

struct Tail {
    client: Client,
    url: Url,
    headers: HeaderMap,
    token: Token,
    cursor: String,
    retry: Duration,
    /// The number of attempts since the last successful connection.
    failures: u32,
    printer: Printer,
}

/// How a connection has ended.
enum Ended {
    /// It could not be established, or was lost, for this reason. Reconnect.
    Because(String),
    /// The gateway has asked not to reconnect (204).
    ForGood,
}

impl Tail {
    fn new(args: Args) -> anyhow::Result<Self> {
        let mut headers =
            HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
        let url = address(&args, &mut headers)?;
        Ok(Self {
            client: client(&url)?,
            token: args.token,
            url,
            headers,
            cursor: args.from.unwrap_or_default(),
            retry: DEFAULT_RETRY,
            failures: 0,
            printer: Printer::new(args.json),
        })
    }

    /// Follows the stream until the gateway ends it for good, or until an error.
    async fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let Ended::Because(why) = self.connect().await? else { return Ok(()) };
            let pause = self.pause();
            self.printer.note(&format!("{why}; reconnecting in {:.1} s", pause.as_secs_f32()));
            sleep(pause).await;
        }
    }

    async fn connect(&mut self) -> anyhow::Result<Ended> {
        let mut headers = self.headers.clone();
        if !self.cursor.is_empty() {
            let cursor = HeaderValue::from_str(&self.cursor);
            headers.insert(LAST_EVENT_ID, cursor.context("--from is not a valid id or cursor")?);
        }
        if let Some(bearer) = self.token.header()? {
            headers.insert(AUTHORIZATION, bearer);
        }
        match self.client.get(self.url.clone()).headers(headers).send().await {
            Ok(response) => self.answered(response).await,
            Err(error) if error.is_builder() || error.is_redirect() => {
                bail!("cannot request {}: {}", self.url, root_cause(&error))
            }
            Err(error) => {
                Ok(Ended::Because(format!("cannot reach {}: {}", self.url, root_cause(&error))))
            }
        }
    }

    async fn answered(&mut self, response: Response) -> anyhow::Result<Ended> {
        let status = response.status();
        match status {
            StatusCode::OK if is_event_stream(&response) => self.read(response).await,
            StatusCode::OK => bail!(
                "the response of {} is not an event stream; check that it is a gateway",
                self.url
            ),
            StatusCode::NO_CONTENT => Ok(Ended::ForGood),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Ended::Because(error_message(response).await))
            }
            _ if status.is_server_error() => Ok(Ended::Because(error_message(response).await)),
            _ => bail!(error_message(response).await),
        }
    }

    async fn read(&mut self, mut response: Response) -> anyhow::Result<Ended> {
        if self.failures > 0 {
            self.printer.note("reconnected");
        }
        self.failures = 0;
        let mut parser = Parser::resuming(self.cursor.clone());
        loop {
            let bytes = match timeout(SILENCE_TIMEOUT, response.chunk()).await {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => {
                    return Ok(Ended::Because("the gateway ended the connection".into()));
                }
                Ok(Err(error)) => {
                    return Ok(Ended::Because(format!("connection lost: {}", root_cause(&error))));
                }
                Err(_) => return Ok(Ended::Because("no data and no heartbeat arrived".into())),
            };
            for item in parser.push(&bytes) {
                self.take(item)?;
            }
            // The cursor moves only after the events were printed.
            self.printer.flush()?;
            parser.last_id().clone_into(&mut self.cursor);
        }
    }

    fn take(&mut self, item: Item) -> io::Result<()> {
        match item {
            Item::Retry(retry) => self.retry = retry,
            Item::Event(event) if event.is_heartbeat() => {}
            Item::Event(event) => match event.kind.as_str() {
                "$caught-up" => {}
                "$closing" => self.printer.note("the gateway is closing"),
                "$gap" => self.gap(&event)?,
                // Unknown signals of later versions. They are not events.
                kind if kind.starts_with('$') => {}
                _ => self.printer.event(&event)?,
            },
        }
        Ok(())
    }

    /// Reports a gap.
    fn gap(&mut self, event: &Event) -> io::Result<()> {
        self.printer.warn(&format!("events are permanently missing: {}", event.data));
        if self.printer.is_for_programs() { self.printer.event(event) } else { Ok(()) }
    }

    /// The pause before the next attempt: the gateway's `retry` at first, and longer after failures.
    fn pause(&mut self) -> Duration {
        let failures = self.failures;
        self.failures += 1;
        if failures == 0 {
            return self.retry;
        }
        RECONNECT_BACKOFF.at_least(self.retry).after(failures)
    }
}

/// The URL of the stream. One consumer goes into the header that an authenticating proxy sets as well;
/// several, or a name that a header cannot contain, go into the query.
fn address(args: &Args, headers: &mut HeaderMap) -> anyhow::Result<Url> {
    let mut url = args.url.clone();
    let web = ["http", "https"].contains(&url.scheme());
    let Some(mut path) = url.path_segments_mut().ok().filter(|_| web) else {
        bail!("--url {}: expected http://host:port", args.url)
    };
    path.pop_if_empty().push("events");
    drop(path);
    let mut query = url.query_pairs_mut();
    match args.consumers.as_slice() {
        [one] if one.as_str().bytes().all(|byte| byte.is_ascii_graphic()) => {
            headers.insert(CONSUMER, HeaderValue::from_str(one.as_str())?);
        }
        several => {
            query.extend_pairs(several.iter().map(|consumer| ("consumer", consumer.as_str())));
        }
    }
    query.extend_pairs(args.types.iter().map(|types| ("types", types)));
    drop(query);
    if url.query() == Some("") {
        url.set_query(None);
    }
    Ok(url)
}

pub(super) fn client(url: &Url) -> anyhow::Result<Client> {
    let mut client = web::client().connect_timeout(CONNECT_TIMEOUT);
    if is_loopback(url) {
        // A proxy would connect to its own loopback address.
        client = client.no_proxy();
    }
    client.build().context("preparing to connect")
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// The gateway's error message (RFC 9457), or the status if there is none.
pub(super) async fn error_message(response: Response) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let (status, url) = (response.status(), response.url().clone());
    let body = timeout(CONNECT_TIMEOUT, response.bytes()).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    match serde_json::from_slice(&body) {
        Ok(Problem { detail }) => {
            let detail: String = detail.chars().take(MAX_DETAIL_CHARS).collect();
            format!("the gateway responded with {status}: {}", print::escape_control(&detail))
        }
        Err(_) => format!("{url} answers {status}"),
    }
}

/// The innermost cause. The errors around it only say that a request failed.
pub(super) fn root_cause(error: &reqwest::Error) -> &dyn Error {
    let mut error: &dyn Error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}
