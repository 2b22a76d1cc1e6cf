//! Writers of messages: rows for the gateway, HTTP requests for its peers.

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

/// Filler, so that a message has the size of a small event.
const FILLER: &str = "all the news that an event has to tell, which is not much, and yet enough";

/// How messages are sent to a server.
#[derive(Clone)]
pub(crate) enum Feed {
    /// One row of `events` in this database per message, each in its own transaction.
    Insert { url: String },
    /// One POST per message, with the channel's name in the query.
    Post { port: u16 },
    /// One POST per message, in the format of Pushpin.
    Items { port: u16 },
}

/// The payload of a message. The swarm searches only for the marker of the number.
fn payload(number: u32) -> String {
    format!(r#"{{"n": "{}", "text": "{FILLER}"}}"#, mark(number))
}

/// The name of the consumer with this number.
pub(crate) fn consumer(client: usize) -> String {
    format!("c{client}")
}

/// One open connection that writes messages.
pub(crate) enum Writer {
    Insert { session: Session, statement: tokio_postgres::Statement },
    Post(HttpConnection),
    Items(HttpConnection),
}

const INSERT: &str = "insert into events (type, timestamp, subscriber, payload) \
                      values ('insert', now(), $1, $2::text::jsonb)";

impl Feed {
    pub(crate) fn open(&self) -> anyhow::Result<Writer> {
        Ok(match self {
            Self::Insert { url } => {
                let session = Session::open(url)?;
                let statement = session.prepare(INSERT)?;
                Writer::Insert { session, statement }
            }
            Self::Post { port } => Writer::Post(HttpConnection::open(*port)?),
            Self::Items { port } => Writer::Items(HttpConnection::open(*port)?),
        })
    }
}

impl Writer {
    /// Writes a message. Returns when the server has responded; for a row, when it is committed.
    pub(crate) fn write(&mut self, consumer: &str, number: u32) -> anyhow::Result<()> {
        match self {
            Self::Insert { session, statement } => {
                session.execute(statement, &[&consumer, &payload(number)])
            }
            Self::Post(connection) => {
                let head =
                    format!("POST /pub?id={consumer} HTTP/1.1\r\nX-EventSource-Event: insert");
                connection.post(&head, &payload(number))
            }
            Self::Items(connection) => {
                let frame = format!("id: {number}\nevent: insert\ndata: {}\n\n", payload(number));
                let formats = serde_json::json!({ "http-stream": { "content": frame } });
                let item = serde_json::json!({ "channel": consumer, "formats": formats });
                let items = serde_json::json!({ "items": [item] });
                connection.post("POST /publish/ HTTP/1.1", &items.to_string())
            }
        }
    }
}

/// An HTTP connection for consecutive requests.
pub(crate) struct HttpConnection {
    port: u16,
    socket: BufReader<TcpStream>,
}

impl HttpConnection {
    fn open(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        Ok(Self { port, socket: BufReader::new(socket) })
    }

    /// Sends a request. Some servers close the connection after a number of requests, so an empty response
    /// is retried on a new connection.
    fn post(&mut self, head: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let request = format!("{head}\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut status = self.ask(&request).unwrap_or_default();
        if status.is_empty() {
            *self = Self::open(self.port)?;
            status = self.ask(&request)?;
        }
        if !status.starts_with("HTTP/1.1 2") && !status.starts_with("HTTP/1.0 2") {
            bail!("the server refused a message: {}", status.trim_end());
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
        self.socket.read_exact(&mut body).context("reading a response")
    }
}

/// How messages are spread over time and consumers.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Messages per second.
    pub(crate) rate: u32,
    pub(crate) messages: u32,
    /// The number of consumers; they get messages in turns.
    pub(crate) consumers: u32,
    /// The number of connections. Each writes to its own consumers, so that the numbers of a consumer's
    /// messages increase.
    pub(crate) connections: u32,
}

/// The times at which each message was sent, and at which the server responded (committed it), in nanoseconds.
pub(crate) struct Written {
    pub(crate) begun: Vec<u64>,
    pub(crate) done: Vec<u64>,
}

/// Writes all messages at the given pace.
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
    let mut writer = feed.open()?;
    let mut written = Vec::new();
    for number in (one..pace.messages).step_by(pace.connections as usize) {
        let due = start + u64::from(number) * 1_000_000_000 / u64::from(pace.rate);
        sleep(Duration::from_nanos(due.saturating_sub(now())));
        let begun = now();
        writer.write(&consumer((number % pace.consumers) as usize), number)?;
        written.push((number, begun, now()));
    }
    Ok(written)
}

/// Returns whether the message with this number is too far ahead of the clients to be written.
pub(crate) type Ahead = Arc<dyn Fn(u32) -> bool + Send + Sync>;

/// Writes as fast as `ahead` allows.
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
                let mut writer = feed.open()?;
                for number in (one..messages).step_by(connections as usize) {
                    while ahead(number) {
                        sleep(Duration::from_micros(50));
                    }
                    writer.write(&consumer((number % consumers) as usize), number)?;
                }
                Ok(())
            })
        })
        .collect();
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
}

/// Inserts messages with SQL, in transactions of this size. For the gateway only.
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
                    jsonb_build_object('n', '@@' || lpad(n::text, 10, '0'), 'text', '{FILLER}') \
               from generate_series({from}, {upto}) n"
        ))?;
    }
    Ok(())
}
