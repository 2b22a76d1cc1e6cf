//! Accepts connections, serves HTTP/1.1 and HTTP/2 on them, and shuts them down gracefully.

use std::{fmt::Display, io, mem, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::{
    app::{Limits, Settings},
    detect::{self, Protocol},
    half_closed::{Exchange, HalfClosable},
    idle::IdleTracker,
    listener::{Accepted, Listener},
    raw_stream::{self, BoxedSession},
    send_progress::StallLimit,
    tls::Tls,
};
use crate::{access::networks::Peer, metrics::Metrics};

/// The send buffer of an HTTP/2 stream, which bounds the memory of a slow client. Larger frames are sent in
/// parts.
const HTTP2_BUFFER_BYTES: usize = 16 << 10;

/// The idle time after which the kernel, and HTTP/2, probe whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves until `shutdown`. Then waits for open requests, for up to the drain time, and cuts the rest.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    settings: &Settings,
    metrics: &Metrics,
    shutdown: CancellationToken,
) {
    let within = settings.limits.write_within;
    let connections = Connections {
        stall_limit: StallLimit { within, cut: metrics.stalled.clone() },
        router,
        limits: settings.limits.clone(),
        tls: settings.tls.as_ref().map(Tls::acceptor),
        open: TaskTracker::new(),
        cut: CancellationToken::new(),
        shutdown: shutdown.clone(),
    };
    let connections = Arc::new(connections);
    let listener = listener.into();
    tokio::select! {
        () = connections.accept(&listener) => {}
        () = watch_certificate(settings.tls.as_deref()) => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    connections.end(settings.drain).await;
}

/// Reloads the certificate when it changes. Never returns.
async fn watch_certificate(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.watch().await,
        None => std::future::pending().await,
    }
}

/// The connections of one server.
struct Connections {
    router: Router,
    limits: Limits,
    /// For clients that stop reading.
    stall_limit: StallLimit,
    tls: Option<TlsAcceptor>,
    open: TaskTracker,
    /// Ends the connections that are still open after the drain time.
    cut: CancellationToken,
    shutdown: CancellationToken,
}

impl Connections {
    async fn accept(self: &Arc<Self>, listener: &Listener) {
        let mut exhausted = false;
        loop {
            match listener.accept().await {
                Ok(socket) if self.open.len() >= self.limits.connections => {
                    debug!(open = self.open.len(), "closing a connection beyond the limit");
                    drop(socket);
                }
                Ok(socket) => {
                    self.serve(socket);
                    if mem::take(&mut exhausted) {
                        info!("connections are accepted again");
                    }
                }
                // The client has gone before its connection was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of file descriptors or memory, until connections close.
                Err(error) => {
                    if !mem::replace(&mut exhausted, true) {
                        let open = self.open.len();
                        warn!(%error, open, "connections cannot be accepted; retrying every 100 ms");
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn serve(self: &Arc<Self>, socket: Accepted) {
        match (socket, &self.tls) {
            (Accepted::Tcp(socket, peer), tls) => {
                if let Err(error) = prepare(&socket) {
                    debug!(%error, "setting options of a socket failed");
                }
                match tls {
                    None => self.spawn(serve_one(Arc::clone(self), socket, peer)),
                    Some(tls) => self.spawn(serve_tls(Arc::clone(self), tls.clone(), socket, peer)),
                }
            }
            (Accepted::Unix(socket), _) => self.spawn(serve_unix(Arc::clone(self), socket)),
        }
    }

    /// Spawns a task that is cancelled if it is still running after the drain time.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        // Boxed, because an async block reserves space both for a captured future and for its copy in a
        // callee: without the box, the task would take three times the size of the future.
        let task = Box::pin(task);
        self.open.spawn(async move {
            cut.run_until_cancelled(task).await;
        });
    }

    /// Waits until all connections have ended, and cuts those that are still open after `drain`.
    async fn end(&self, drain: Duration) {
        self.open.close();
        if timeout(drain, self.open.wait()).await.is_err() {
            warn!(open = self.open.len(), "cutting connections that did not end within --drain");
            self.cut.cancel();
            self.open.wait().await;
        }
    }
}

/// Serves one TCP connection. Large futures are boxed, because a task has the size of its largest state for
/// as long as it runs.
async fn serve_one(connections: Arc<Connections>, mut socket: TcpStream, peer: Peer) {
    let limits = &connections.limits;
    let protocol = timeout(limits.head_within, Box::pin(detect::protocol(&socket))).await;
    let (request, len) = match protocol {
        Ok(Ok(Protocol::Http2)) => {
            return Box::pin(http2(&connections, connections.stall_limit.socket(socket), peer))
                .await;
        }
        Ok(Ok(Protocol::Http1)) => {
            return Box::pin(http1(&connections, connections.stall_limit.socket(socket), peer))
                .await;
        }
        Ok(Ok(Protocol::Stream { request, len })) => (request, len),
        Ok(Err(_)) | Err(_) => return,
    };
    let mut request = *request;
    request.extensions_mut().insert(peer);
    let router = connections.router.clone();
    match Box::pin(raw_stream::respond(&mut socket, router, request, len, &connections.stall_limit))
        .await
    {
        // A stream is open for long, so it gets its own task, which holds no other state.
        Ok(Some(session)) => {
            connections.spawn(stream(socket, session, connections.stall_limit.clone()));
        }
        Ok(None) => drop(socket.shutdown().await),
        Err(error) => debug!(%error, "opening a stream failed"),
    }
}

/// Serves one TLS connection. hyper serves its streams, too, because the state of TLS is larger than hyper's.
async fn serve_tls(connections: Arc<Connections>, tls: TlsAcceptor, socket: TcpStream, peer: Peer) {
    let within = connections.limits.head_within;
    let socket =
        match timeout(within, Box::pin(tls.accept(connections.stall_limit.socket(socket)))).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return debug!(%error, %peer, "the TLS handshake failed"),
            Err(_) => return,
        };
    if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(http2(&connections, socket, peer)).await;
    } else {
        Box::pin(http1(&connections, socket, peer)).await;
    }
}

/// Serves one connection to the Unix socket. A proxy keeps such connections open, and sends requests of all
/// kinds on them.
async fn serve_unix(connections: Arc<Connections>, socket: UnixStream) {
    let limits = &connections.limits;
    let socket = connections.stall_limit.socket(socket);
    let mut builder = auto::Builder::new(connections.stall_limit.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head);
    builder.http2().timer(TokioTimer::new()).max_send_buf_size(HTTP2_BUFFER_BYTES);
    let (answer, exchange) = (answer(&connections, Peer::Unix), Exchange::default());
    let requests = exchange.clone();
    let service = service_fn(move |request| requests.during(request, &answer));
    let socket = HalfClosable::new(socket, exchange);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    connections
        .stall_limit
        .during(until_ended(
            connection,
            auto::UpgradeableConnection::graceful_shutdown,
            &connections.shutdown,
        ))
        .await;
}

async fn stream(socket: TcpStream, session: BoxedSession, stall_limit: StallLimit) {
    if let Err(error) = raw_stream::run(socket, session, stall_limit).await {
        debug!(%error, "a stream failed");
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

async fn http1<S>(connections: &Connections, socket: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, exchange) = (&connections.limits, Exchange::default());
    let (answer, requests) = (answer(connections, peer), exchange.clone());
    let service = service_fn(move |request| requests.during(request, &answer));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head)
        .serve_connection(TokioIo::new(HalfClosable::new(socket, exchange)), service)
        .with_upgrades();
    connections
        .stall_limit
        .during(until_ended(
            connection,
            http1::UpgradeableConnection::graceful_shutdown,
            &connections.shutdown,
        ))
        .await;
}

async fn http2<S>(connections: &Connections, socket: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, tracker) = (&connections.limits, IdleTracker::default());
    let (answer, requests) = (answer(connections, peer), tracker.clone());
    let connection = http2::Builder::new(connections.stall_limit.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_send_buf_size(HTTP2_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
        .serve_connection(
            TokioIo::new(socket),
            service_fn(move |request| requests.track(answer(request.map(Body::new)))),
        );
    let leave = connections.shutdown.child_token();
    let mut serving =
        std::pin::pin!(until_ended(connection, http2::Connection::graceful_shutdown, &leave));
    tokio::select! {
        () = serving.as_mut() => return,
        () = tracker.wait_idle(limits.head_within) => leave.cancel(),
    }
    // If the client does not close the idle connection, it is dropped.
    let _ = timeout(limits.head_within, serving).await;
}

/// Serves a connection. After `shutdown`, serves only the requests that are open on it.
async fn until_ended<C, E>(
    connection: C,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
    shutdown: &CancellationToken,
) where
    C: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            graceful_shutdown(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection failed");
    }
}

/// A function that calls the router for requests of one peer.
fn answer(
    connections: &Connections,
    peer: Peer,
) -> impl Fn(Request<Body>) -> tower::util::Oneshot<Router, Request<Body>> + Clone + use<> {
    let router = Arc::new(connections.router.clone());
    move |mut request| {
        request.extensions_mut().insert(peer);
        Router::clone(&router).oneshot(request)
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        extract::Request as UpgradeRequest,
        http::{StatusCode, header},
        response::IntoResponse,
        routing::get,
    };
    use hyper::upgrade;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// Sends back what comes after the upgrade.
    async fn echo(mut request: UpgradeRequest) -> impl IntoResponse {
        let upgraded = upgrade::on(&mut request);
        tokio::spawn(async move {
            let socket = TokioIo::new(upgraded.await.unwrap());
            let (mut from, mut to) = tokio::io::split(socket);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
        (StatusCode::SWITCHING_PROTOCOLS, headers)
    }

    #[tokio::test]
    async fn an_upgraded_connection_sees_the_end_of_input() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/echo", get(echo));
        let settings = Settings {
            cors_origins: Vec::new(),
            cors_headers: Vec::new(),
            heartbeat: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            limits: Limits::default(),
            tls: None,
            append_path: None,
        };
        let (metrics, shutdown) = (Metrics::default(), CancellationToken::new());
        let until = shutdown.clone();
        let serving = tokio::spawn(async move {
            serve(listener, router, &settings, &metrics, until).await;
        });
        let mut socket = TcpStream::connect(address).await.unwrap();
        let asks = "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        socket.write_all(asks.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut head).await.unwrap(), 0);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        socket.write_all(b"hello").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"hello");
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn connections_have_keepalive_and_nodelay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&socket).unwrap();
        assert!(socket.nodelay().unwrap());
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
