//! The aggregator: an HTTP service that is asked where it is, and given events.
//!
//! A connection is kept as long as the aggregator keeps it. One that has ended may mean that
//! the aggregator was restarted, empty maybe; so nothing is posted on a new one before it was
//! asked again ([`Failure::Closed`]). Only where an aggregator closes every connection after
//! its answer, nothing can be concluded from that.

mod refusal;

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub use self::refusal::Refusal;
use super::{
    sign::SigningKey,
    sink::{Form, Latest, Refused, Sink, SinkError},
};

/// Where an aggregator is, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its host's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What stands before `events/latest`; begins and ends with a slash.
    pub base: String,
    /// Where batches go, relative to that.
    pub batch_path: String,
    /// How connections are encrypted; none: they are not.
    pub tls: Option<Arc<ClientConfig>>,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<SecretString>,
    /// What requests are signed with.
    pub key: Option<SigningKey>,
    /// How long a request may take, from its beginning to the end of its answer.
    pub timeout: Duration,
}

/// Why a request has not done what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The aggregator has ended the connection meanwhile. It was sent nothing.
    #[error("the aggregator has ended the connection")]
    Closed,
    /// It cannot be reached.
    #[error("connecting to {host}:{port}")]
    Connect {
        /// Where to.
        host: String,
        /// The port.
        port: u16,
        /// What happened.
        source: io::Error,
    },
    /// The connection broke in the middle: it may have done it, or not.
    #[error("{doing}: the connection broke")]
    Broken {
        /// What was being done.
        doing: String,
        /// What happened.
        source: hyper::Error,
    },
    /// There was no whole answer in time: it may have done it, or not, or do it yet.
    #[error("{doing}: no answer within {limit:?}")]
    Silent {
        /// What was being done.
        doing: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// What it has answered is not there as a whole.
    #[error("{doing}: the answer cannot be read to its end")]
    Unreadable {
        /// What was being done.
        doing: String,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It has answered something else than it should.
    #[error(transparent)]
    Answered(#[from] Refusal),
}

/// Of an answer to a POST as much is read.
const LONGEST_ANSWER: usize = 64 << 10;
/// What comes with the answer to a POST is waited for so long.
const REST: Duration = Duration::from_secs(1);
/// An aggregator's latest event may have a large payload.
const LONGEST_EVENT: usize = 64 << 20;
/// An aggregator, connected while it is asked and given something.
#[derive(Debug)]
pub struct Aggregator {
    target: Target,
    connection: Option<Connection>,
    /// It lets a connection be used again.
    keeps: bool,
    /// Connections in a row that ended after one answer.
    lone: u32,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    answers: u32,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

struct Reply {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Reply {
    fn refusal(&self, method: &Method, path: &str) -> Refusal {
        Refusal::new(format!("{method} {path}"), self.status, self.retry_after, &self.body)
    }
}

impl From<Failure> for SinkError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed => Self::Closed,
            Failure::Answered(refusal) => Self::Refused(Refused {
                says: refusal.to_string(),
                is_about_events: refusal.is_about_the_events(),
                retry_after: refusal.retry_after,
            }),
            failure => Self::Failed(failure.into()),
        }
    }
}

impl Sink for Aggregator {
    async fn latest(&mut self) -> Result<Latest, SinkError> {
        let path = "events/latest";
        let reply = match self.request(Method::GET, path, "latest", Bytes::new()).await {
            // It was opened for this: there is nothing to be asked again at once.
            Err(Failure::Closed) => return Err(self.target.unreachable(turned_away()).into()),
            reply => reply?,
        };
        match reply.status {
            StatusCode::OK => {
                // Whatever is no JSON is no event of ours either.
                Ok(Latest::Event(serde_json::from_slice(&reply.body).unwrap_or_default()))
            }
            StatusCode::NO_CONTENT => Ok(Latest::Unsaid),
            StatusCode::NOT_FOUND => Ok(Latest::Nothing),
            _ => Err(Failure::from(reply.refusal(&Method::GET, path)).into()),
        }
    }

    async fn deliver(&mut self, id: &str, body: Bytes, form: Form) -> Result<(), SinkError> {
        match form {
            Form::Event => self.post("events", id, body).await?,
            Form::Batch => {
                let path = self.target.batch_path.clone();
                self.post(&path, id, body).await?;
            }
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }
}

impl Aggregator {
    /// Not connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, connection: None, keeps: true, lone: 0 }
    }

    async fn post(&mut self, path: &str, id: &str, body: Bytes) -> Result<(), Failure> {
        if self.has_ended() && self.keeps {
            return Err(Failure::Closed);
        }
        let reply = self.request(Method::POST, path, id, body).await?;
        match reply.status {
            StatusCode::CREATED => Ok(()),
            _ => Err(reply.refusal(&Method::POST, path).into()),
        }
    }

    fn has_ended(&mut self) -> bool {
        let Some(connection) = &self.connection else { return true };
        let ended = connection.sender.is_closed();
        if ended {
            self.note_end();
        }
        ended
    }

    /// One answer and no more, again and again, is how some close every connection without a
    /// word.
    fn note_end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.lone = if connection.answers > 1 { 0 } else { self.lone + 1 };
        self.keeps &= self.lone < 2;
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        id: &str,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        let limit = self.target.timeout;
        let doing = format!("{method} {path}");
        let answered = timeout(limit, self.exchange(method, path, id, body)).await;
        let answered = answered.unwrap_or(Err(Failure::Silent { doing, limit }));
        if answered.is_err() {
            self.connection = None;
        }
        answered
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        id: &str,
        body: Bytes,
    ) -> Result<Reply, Failure> {
        if self.has_ended() {
            self.connection = Some(self.target.connect().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(Failure::Closed) };
        let doing = format!("{method} {path}");
        let asks = method == Method::GET;
        let request = self.target.message(method, path, id, body);
        let sent = match connection.sender.ready().await {
            Ok(()) => connection.sender.send_request(request).await,
            Err(closed) => Err(closed),
        };
        let response = match sent {
            Ok(response) => response,
            // It never left.
            Err(error) if error.is_canceled() || error.is_closed() => {
                self.note_end();
                return Err(Failure::Closed);
            }
            Err(source) => return Err(Failure::Broken { doing, source }),
        };
        connection.answers += 1;
        let kept = is_kept(&response);
        let (head, body) = response.into_parts();
        let whole = if asks {
            Limited::new(body, LONGEST_EVENT).collect().await
        } else {
            let rest = Limited::new(body, LONGEST_ANSWER).collect();
            timeout(REST, rest).await.unwrap_or_else(|late| Err(late.into()))
        };
        if !kept || whole.is_err() {
            self.connection = None;
        }
        self.keeps = kept;
        let body = match whole {
            Ok(whole) => whole.to_bytes(),
            // Half an answer says nothing of what an aggregator has.
            Err(source) if asks => return Err(Failure::Unreadable { doing, source }),
            // The status counts; what was to come with it may be missing.
            Err(_) => Bytes::new(),
        };
        Ok(Reply { status: head.status, retry_after: refusal::retry_after(&head.headers), body })
    }
}

impl Target {
    async fn connect(&self) -> Result<Connection, Failure> {
        let failed = |source| self.unreachable(source);
        let host = self.host.trim_matches(['[', ']']);
        let socket = TcpStream::connect((host, self.port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return shake_hands(socket).await.map_err(failed) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other);
        let connector = TlsConnector::from(Arc::clone(tls));
        let socket = connector.connect(name.map_err(failed)?, socket).await.map_err(failed)?;
        shake_hands(socket).await.map_err(failed)
    }

    /// The host, and the port where it is not the scheme's own.
    fn authority(&self) -> String {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let Self { host, port, .. } = self;
        if *port == usual { host.clone() } else { format!("{host}:{port}") }
    }

    fn unreachable(&self, source: io::Error) -> Failure {
        Failure::Connect { host: self.host.clone(), port: self.port, source }
    }

    fn message(&self, method: Method, path: &str, id: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        put(HOST, &self.authority());
        put(USER_AGENT, concat!("event-piper/", env!("CARGO_PKG_VERSION")));
        if method == Method::POST {
            put(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            put(AUTHORIZATION, &format!("Bearer {}", token.expose_secret()));
        }
        if let Some(key) = &self.key {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            put(HeaderName::from_static("webhook-id"), id);
            put(HeaderName::from_static("webhook-timestamp"), &now.to_string());
            put(HeaderName::from_static("webhook-signature"), &key.sign(id, now, &body));
        }
        let uri = format!("{}{path}", self.base);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }
}

fn turned_away() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it ended the connection at once")
}

async fn shake_hands(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<Connection> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // What goes wrong on the connection, the next request reports.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, driver, answers: 0 })
}

/// Whether the connection may be used for another request.
fn is_kept<B>(response: &Response<B>) -> bool {
    let says = response.headers().get(CONNECTION).and_then(|value| value.to_str().ok());
    let says = says.unwrap_or_default().to_ascii_lowercase();
    if response.version() == Version::HTTP_10 {
        says.contains("keep-alive")
    } else {
        !says.contains("close")
    }
}

#[cfg(test)]
mod tests;
