//! A client of event streams on a bare socket. It reads only when a test asks for a frame.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longer than any response takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// A frame, parsed by the rules of WHATWG HTML, section 9.2.6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
    pub(crate) retry: Option<u64>,
}

impl Frame {
    /// Returns whether this is an event of the log, rather than a signal of the gateway.
    pub(crate) fn is_logged(&self) -> bool {
        let heartbeat = self.event == "heartbeat" && self.data == "thump";
        !self.event.is_empty() && !heartbeat && !self.event.starts_with('$')
    }

    /// The id of the row, without the rest of the cursor.
    pub(crate) fn row(&self) -> i64 {
        let id = self.id.as_deref().expect("an event has an id");
        let own = id.split(['@', '~', '!']).next().unwrap();
        own.parse().expect("an id is a number")
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

/// An open stream.
pub(crate) struct Stream {
    socket: BufReader<TcpStream>,
    pub(crate) headers: HashMap<String, String>,
    chunk: usize,
    /// Whether the last chunk has arrived, so that the stream has ended regularly.
    pub(crate) complete: bool,
    text: Vec<u8>,
    /// The length of the beginning of `text` that contains no end of a frame.
    searched: usize,
    /// The cursor that an `EventSource` would send with its next request.
    pub(crate) last_id: String,
}

/// Sends a request, and reads the whole response.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    try_ask(address, method, path, headers).await.expect("an answer comes")
}

/// The same; returns an error if the server is not available.
pub(crate) async fn try_ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<Answer> {
    let closing = [headers, &[("Connection", "close")]].concat();
    let mut socket = TcpStream::connect(address).await?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in &closing {
        request.extend([name, ": ", value, "\r\n"]);
    }
    socket.write_all(format!("{request}\r\n").as_bytes()).await?;
    whole(socket).await
}

/// Sends a request with a body, and reads the whole response.
pub(crate) async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    try_post(address, path, headers, body).await.expect("an answer comes")
}

/// The same; returns an error if the server is not available, or the connection is lost.
pub(crate) async fn try_post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Answer> {
    let length = body.len().to_string();
    let headers = [headers, &[("Connection", "close"), ("Content-Length", &length)]].concat();
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in &headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(format!("{request}\r\n{body}").as_bytes()).await?;
    whole(socket).await
}

/// Reads a whole response from a socket.
pub(crate) async fn whole(socket: TcpStream) -> std::io::Result<Answer> {
    let (mut socket, status, headers) = receive(socket).await?;
    let mut body = Vec::new();
    timeout(DEADLINE, socket.read_to_end(&mut body)).await.expect("the response ends")?;
    let chunked = headers.get("transfer-encoding").is_some_and(|how| how == "chunked");
    let body = if chunked { dechunked(&body) } else { body };
    Ok(Answer { status, headers, body: String::from_utf8(body).unwrap() })
}

async fn send(
    mut socket: TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(BufReader<TcpStream>, u16, HashMap<String, String>)> {
    let address = socket.peer_addr()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).await?;
    receive(socket).await
}

/// Reads the head of a response.
async fn receive(
    socket: TcpStream,
) -> std::io::Result<(BufReader<TcpStream>, u16, HashMap<String, String>)> {
    let mut socket = BufReader::new(socket);
    let mut status = String::new();
    let mut headers = HashMap::new();
    timeout(DEADLINE, socket.read_line(&mut status)).await.expect("a head comes")?;
    loop {
        let mut line = String::new();
        timeout(DEADLINE, socket.read_line(&mut line)).await.expect("a head comes")?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        // Several lines of a header form one list (RFC 9110, section 5.3).
        let list: &mut String = headers.entry(name.to_ascii_lowercase()).or_default();
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(value.trim());
    }
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let lost = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no status");
    Ok((socket, status.ok_or(lost)?, headers))
}

fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        out.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    out
}

impl Stream {
    /// Opens a stream. Any status other than 200 fails the test.
    pub(crate) async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open(address, path, headers).await.expect("a stream opens")
    }

    /// Returns the status of a response whose body may never end.
    pub(crate) async fn status(address: SocketAddr, path: &str) -> u16 {
        let socket = TcpStream::connect(address).await.unwrap();
        send(socket, "GET", path, &[]).await.expect("an answer comes").1
    }

    /// Opens a stream; returns an error if the server is not available.
    pub(crate) async fn try_open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<Self> {
        Self::open_on(TcpStream::connect(address).await?, path, headers).await
    }

    /// Opens a stream on the caller's socket.
    pub(crate) async fn open_on(
        socket: TcpStream,
        path: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<Self> {
        let (socket, status, headers) = send(socket, "GET", path, headers).await?;
        assert_eq!(status, 200, "{path}: {headers:?}");
        let (text, last_id) = (Vec::new(), String::new());
        Ok(Self { socket, headers, chunk: 0, complete: false, text, searched: 0, last_id })
    }

    /// Returns the next frame; `None` if the stream has ended or the connection was lost.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        timeout(DEADLINE, self.frame()).await.expect("a frame arrives in time")
    }

    /// Returns the next event of the log.
    pub(crate) async fn event(&mut self) -> Frame {
        self.until("an event", Frame::is_logged).await
    }

    /// Returns the row ids of the next `count` events of the log.
    pub(crate) async fn rows(&mut self, count: usize) -> Vec<i64> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            rows.push(self.event().await.row());
        }
        rows
    }

    /// Returns the next frame of this type, and skips others.
    pub(crate) async fn signal(&mut self, event: &str) -> Frame {
        self.until(event, |frame| frame.event == event).await
    }

    /// Returns the next frame that is `wanted`. The deadline covers the whole wait, regardless of heartbeats.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let wait = async {
            loop {
                match self.frame().await {
                    Some(frame) if wanted(&frame) => return frame,
                    Some(_) => {}
                    None => panic!("the stream ended before {what}"),
                }
            }
        };
        timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("no {what} in time"))
    }

    /// Waits until the stream has joined, that is, until its first cursor has arrived.
    pub(crate) async fn joined(mut self) -> Self {
        while self.last_id.is_empty() {
            self.next().await.expect("the stream goes on");
        }
        self
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.text[self.searched..], b"\n\n") {
                let block: Vec<u8> = self.text.drain(..self.searched + end + 2).collect();
                self.searched = 0;
                return Some(self.parsed(std::str::from_utf8(&block).unwrap()));
            }
            self.searched = self.text.len().saturating_sub(1);
            self.more().await?;
        }
    }

    fn parsed(&mut self, block: &str) -> Frame {
        let mut frame = Frame::default();
        for line in block.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            match name {
                "id" => frame.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut frame.event),
                "data" => value.clone_into(&mut frame.data),
                "retry" => frame.retry = value.parse().ok(),
                other => panic!("an invalid line in a frame: {other:?} in {block:?}"),
            }
        }
        if let Some(id) = &frame.id {
            self.last_id.clone_from(id);
        }
        frame
    }

    /// Reads from the socket; for a chunked body, from the current chunk.
    async fn more(&mut self) -> Option<()> {
        if !self.headers.contains_key("transfer-encoding") {
            self.chunk = usize::MAX;
        }
        while self.chunk == 0 {
            let mut size = String::new();
            if self.socket.read_line(&mut size).await.ok()? == 0 {
                return None;
            }
            if size.trim().is_empty() {
                continue;
            }
            self.chunk = usize::from_str_radix(size.trim(), 16).ok()?;
            if self.chunk == 0 {
                self.complete = true;
                return None;
            }
        }
        let read = self.socket.fill_buf().await.ok()?;
        let taken = read.len().min(self.chunk);
        if taken == 0 {
            return None;
        }
        self.text.extend_from_slice(&read[..taken]);
        self.socket.consume(taken);
        self.chunk -= taken;
        Some(())
    }
}
