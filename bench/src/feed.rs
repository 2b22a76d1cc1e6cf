//! Where messages come from: rows for the gateway, HTTP requests for its peers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{
    postgres::Session,
    swarm::{mark, now},
};

/// As long as a small event is.
const FILLING: &str = "all the news that an event has to tell, which is not much, and yet enough";

/// How a message gets to a server.
#[derive(Clone)]
pub(crate) enum Feed {
    /// As a row of `events` in this database, a transaction each.
    Insert { url: String },
    /// In the body of a POST, by the channel's name in the query.
    Post { port: u16 },
    /// As an item of Pushpin's.
    Items { port: u16 },
}

/// What a message says; its number's mark is all that the swarm looks for.
fn payload(number: u32) -> String {
    format!(r#"{{"n": "{}", "text": "{FILLING}"}}"#, mark(number))
}

/// The consumer that belongs to this client.
pub(crate) fn consumer(client: usize) -> String {
    format!("c{client}")
}

/// One connection, open to write messages.
pub(crate) enum Pen {
    Insert { session: Session, statement: tokio_postgres::Statement },
    Post(Line),
    Items(Line),
}

const INSERT: &str = "insert into events (type, timestamp, subscriber, payload) \
                      values ('insert', now(), $1, $2::text::jsonb)";

impl Feed {
    pub(crate) fn open(&self) -> anyhow::Result<Pen> {
        Ok(match self {
            Self::Insert { url } => {
                let session = Session::open(url)?;
                let statement = session.prepare(INSERT)?;
                Pen::Insert { session, statement }
            }
            Self::Post { port } => Pen::Post(Line::open(*port)?),
            Self::Items { port } => Pen::Items(Line::open(*port)?),
        })
    }
}

impl Pen {
    /// Returns when the server has answered; for a row, when it is committed.
    pub(crate) fn write(&mut self, consumer: &str, number: u32) -> anyhow::Result<()> {
        match self {
            Self::Insert { session, statement } => {
                session.execute(statement, &[&consumer, &payload(number)])
            }
            Self::Post(line) => {
                let head =
                    format!("POST /pub?id={consumer} HTTP/1.1\r\nX-EventSource-Event: insert");
                line.post(&head, &payload(number))
            }
            Self::Items(line) => {
                let frame = format!("id: {number}\nevent: insert\ndata: {}\n\n", payload(number));
                let formats = serde_json::json!({ "http-stream": { "content": frame } });
                let item = serde_json::json!({ "channel": consumer, "formats": formats });
                let items = serde_json::json!({ "items": [item] });
                line.post("POST /publish/ HTTP/1.1", &items.to_string())
            }
        }
    }
}

/// A connection for requests one after the other.
pub(crate) struct Line {
    port: u16,
    socket: BufReader<TcpStream>,
}

impl Line {
    fn open(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        Ok(Self { port, socket: BufReader::new(socket) })
    }

    /// Some servers close the connection every so many requests; that is no refusal.
    fn post(&mut self, head: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let request = format!("{head}\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut status = self.ask(&request).unwrap_or_default();
        if status.is_empty() {
            *self = Self::open(self.port)?;
            status = self.ask(&request)?;
        }
        if !status.starts_with("HTTP/1.1 2") && !status.starts_with("HTTP/1.0 2") {
            bail!("a message was refused: {status:?}");
        }
        self.skip()
    }

    fn ask(&mut self, request: &str) -> std::io::Result<String> {
        self.socket.get_mut().write_all(request.as_bytes())?;
        let mut status = String::new();
        self.socket.read_line(&mut status)?;
        Ok(status)
    }

    fn skip(&mut self) -> anyhow::Result<()> {
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.socket.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).context("reading an answer")
    }
}

/// How messages are spread over time and consumers.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Messages a second.
    pub(crate) rate: u32,
    pub(crate) messages: u32,
    /// Messages go to the consumers by turns.
    pub(crate) consumers: u32,
    /// Each connection writes to consumers of its own, so that a consumer's messages rise.
    pub(crate) connections: u32,
}

/// When each message was written: begun, and answered (committed).
pub(crate) struct Written {
    pub(crate) begun: Vec<u64>,
    pub(crate) done: Vec<u64>,
}

/// Writes all messages in their time.
pub(crate) fn write(feed: &Feed, pace: Pace) -> anyhow::Result<Written> {
    let start = now() + 50_000_000;
    let threads: Vec<_> = (0..pace.connections)
        .map(|one| {
            let feed = feed.clone();
            std::thread::spawn(move || write_some(&feed, pace, one, start))
        })
        .collect();
    let none = || vec![0; pace.messages as usize];
    let mut written = Written { begun: none(), done: none() };
    for thread in threads {
        let some = thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        for (number, begun, done) in some {
            written.begun[number as usize] = begun;
            written.done[number as usize] = done;
        }
    }
    Ok(written)
}

fn write_some(
    feed: &Feed,
    pace: Pace,
    one: u32,
    start: u64,
) -> anyhow::Result<Vec<(u32, u64, u64)>> {
    let mut pen = feed.open()?;
    let mut written = Vec::new();
    for number in (one..pace.messages).step_by(pace.connections as usize) {
        let due = start + u64::from(number) * 1_000_000_000 / u64::from(pace.rate);
        sleep(Duration::from_nanos(due.saturating_sub(now())));
        let begun = now();
        pen.write(&consumer((number % pace.consumers) as usize), number)?;
        written.push((number, begun, now()));
    }
    Ok(written)
}

/// Asked before a message of this number is written: is that too far ahead of the clients?
pub(crate) type Ahead = Arc<dyn Fn(u32) -> bool + Send + Sync>;

/// Writes as fast as `ahead` lets it.
pub(crate) fn rush(
    feed: &Feed,
    messages: u32,
    consumers: u32,
    connections: u32,
    ahead: &Ahead,
) -> anyhow::Result<()> {
    let threads: Vec<_> = (0..connections)
        .map(|one| {
            let (feed, ahead) = (feed.clone(), Arc::clone(ahead));
            std::thread::spawn(move || -> anyhow::Result<()> {
                let mut pen = feed.open()?;
                for number in (one..messages).step_by(connections as usize) {
                    while ahead(number) {
                        sleep(Duration::from_micros(50));
                    }
                    pen.write(&consumer((number % consumers) as usize), number)?;
                }
                Ok(())
            })
        })
        .collect();
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
}

/// Inserts so many messages, in transactions of this size; only for the gateway.
pub(crate) fn load(
    url: &str,
    messages: u32,
    consumers: u32,
    transaction: u32,
) -> anyhow::Result<()> {
    let session = Session::open(url)?;
    for from in (0..messages).step_by(transaction as usize) {
        let upto = messages.min(from + transaction) - 1;
        session.run(&format!(
            "insert into events (type, timestamp, subscriber, payload) \
             select 'insert', now(), 'c' || n % {consumers}, \
                    jsonb_build_object('n', '@@' || lpad(n::text, 10, '0'), 'text', '{FILLING}') \
               from generate_series({from}, {upto}) n"
        ))?;
    }
    Ok(())
}
