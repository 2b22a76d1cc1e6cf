//! The client of an aggregator: asks for its latest event, and posts events.
//!
//! A connection is used until the aggregator closes it. A closed connection may mean that the aggregator
//! was restarted, possibly without its data. Nothing is posted on a new connection before the latest
//! event is asked for again ([`RequestError::Closed`]). This does not apply to an aggregator that closes
//! every connection after one response.

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

/// The address of an aggregator, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host name or address. IPv6 addresses are in brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The path before `events/latest`. It begins and ends with a slash.
    pub base: String,
    /// The path for batches, relative to `base`.
    pub batch_path: String,
    /// The TLS configuration. `None`: connections are not encrypted.
    pub tls: Option<Arc<ClientConfig>>,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<SecretString>,
    /// The key that signs requests. `None`: they are not signed.
    pub key: Option<SigningKey>,
    /// How long a request may take, including its response.
    pub timeout: Duration,
}

/// Why a request has failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The aggregator had closed the connection. Nothing was sent.
    #[error("the aggregator has closed the connection")]
    Closed,
    /// The connection cannot be established.
    #[error("connecting to {host}:{port}")]
    Connect {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What happened.
        source: io::Error,
    },
    /// The connection was lost during the request. The aggregator may have processed it or not.
    #[error("{doing}: the connection was lost")]
    Broken {
        /// What was being done.
        doing: String,
        /// What happened.
        source: hyper::Error,
    },
    /// There was no complete response in time. The aggregator may have processed the request, or may
    /// still do so.
    #[error("{doing}: no response within {limit:?}")]
    Silent {
        /// What was being done.
        doing: String,
        /// The time limit.
        limit: Duration,
    },
    /// The body of the response is incomplete or too long.
    #[error("{doing}: cannot read the response")]
    Unreadable {
        /// What was being done.
        doing: String,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The response has another status than the contract has for success.
    #[error(transparent)]
    Answered(#[from] Refusal),
}

/// The length of the response to a POST that is read.
const MAX_POST_RESPONSE_BYTES: usize = 64 << 10;
/// How long to wait for the body of the response to a POST.
const POST_BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// The length of the latest event that is read. It may have a large payload.
const MAX_LATEST_BYTES: usize = 64 << 20;

/// The client of an aggregator, with at most one connection.
#[derive(Debug)]
pub struct Aggregator {
    target: Target,
    connection: Option<Connection>,
    /// Whether the aggregator lets connections be reused.
    reuses_connections: bool,
    /// The number of last connections that ended after one response.
    single_response_connections: u32,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    responses: u32,
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

impl From<RequestError> for SinkError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Closed => Self::Closed,
            RequestError::Answered(refusal) => Self::Refused(Refused {
                message: refusal.to_string(),
                is_about_events: refusal.is_about_the_events(),
                retry_after: refusal.retry_after,
            }),
            error => Self::Failed(error.into()),
        }
    }
}

impl Sink for Aggregator {
    async fn latest(&mut self) -> Result<Latest, SinkError> {
        let path = "events/latest";
        let reply = match self.request(Method::GET, path, "latest", Bytes::new()).await {
            // The connection was opened for this request, so trying again at once is no use.
            Err(RequestError::Closed) => {
                return Err(self.target.unreachable(closed_at_once()).into());
            }
            reply => reply?,
        };
        match reply.status {
            StatusCode::OK => {
                // What is not JSON is not an event of this log.
                Ok(Latest::Event(serde_json::from_slice(&reply.body).unwrap_or_default()))
            }
            StatusCode::NO_CONTENT => Ok(Latest::Unknown),
            StatusCode::NOT_FOUND => Ok(Latest::Nothing),
            _ => Err(RequestError::from(reply.refusal(&Method::GET, path)).into()),
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
    /// A client that is not connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, connection: None, reuses_connections: true, single_response_connections: 0 }
    }

    async fn post(&mut self, path: &str, id: &str, body: Bytes) -> Result<(), RequestError> {
        if self.has_ended() && self.reuses_connections {
            return Err(RequestError::Closed);
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

    /// Detects aggregators that close every connection after one response without announcing it.
    fn note_end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let reused = connection.responses > 1;
        self.single_response_connections =
            if reused { 0 } else { self.single_response_connections + 1 };
        self.reuses_connections &= self.single_response_connections < 2;
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        id: &str,
        body: Bytes,
    ) -> Result<Reply, RequestError> {
        let limit = self.target.timeout;
        let doing = format!("{method} {path}");
        let answered = timeout(limit, self.exchange(method, path, id, body)).await;
        let answered = answered.unwrap_or(Err(RequestError::Silent { doing, limit }));
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
    ) -> Result<Reply, RequestError> {
        if self.has_ended() {
            self.connection = Some(self.target.connect().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(RequestError::Closed) };
        let doing = format!("{method} {path}");
        let asks = method == Method::GET;
        let request = self.target.message(method, path, id, body);
        let sent = match connection.sender.ready().await {
            Ok(()) => connection.sender.send_request(request).await,
            Err(closed) => Err(closed),
        };
        let response = match sent {
            Ok(response) => response,
            // The request was not sent.
            Err(error) if error.is_canceled() || error.is_closed() => {
                self.note_end();
                return Err(RequestError::Closed);
            }
            Err(source) => return Err(RequestError::Broken { doing, source }),
        };
        connection.responses += 1;
        let kept = is_kept(&response);
        let (head, body) = response.into_parts();
        let whole = if asks {
            Limited::new(body, MAX_LATEST_BYTES).collect().await
        } else {
            let body = Limited::new(body, MAX_POST_RESPONSE_BYTES).collect();
            timeout(POST_BODY_TIMEOUT, body).await.unwrap_or_else(|late| Err(late.into()))
        };
        if !kept || whole.is_err() {
            self.connection = None;
        }
        self.reuses_connections = kept;
        let body = match whole {
            Ok(whole) => whole.to_bytes(),
            // An incomplete response does not tell the latest event.
            Err(source) if asks => return Err(RequestError::Unreadable { doing, source }),
            // The status is the confirmation, even if the body is incomplete.
            Err(_) => Bytes::new(),
        };
        Ok(Reply { status: head.status, retry_after: refusal::retry_after(&head.headers), body })
    }
}

impl Target {
    async fn connect(&self) -> Result<Connection, RequestError> {
        let failed = |source| self.unreachable(source);
        let host = self.host.trim_matches(['[', ']']);
        let socket = TcpStream::connect((host, self.port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return handshake(socket).await.map_err(failed) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other);
        let connector = TlsConnector::from(Arc::clone(tls));
        let socket = connector.connect(name.map_err(failed)?, socket).await.map_err(failed)?;
        handshake(socket).await.map_err(failed)
    }

    /// The host, with the port unless it is the default one of the scheme.
    fn authority(&self) -> String {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let Self { host, port, .. } = self;
        if *port == usual { host.clone() } else { format!("{host}:{port}") }
    }

    fn unreachable(&self, source: io::Error) -> RequestError {
        RequestError::Connect { host: self.host.clone(), port: self.port, source }
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

fn closed_at_once() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed at once")
}

async fn handshake(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<Connection> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // The next request reports errors of the connection.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, driver, responses: 0 })
}

/// Whether the connection may be used for another request after this response.
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
