//! Sockets: accepts connections, serves HTTP/1.1 and HTTP/2 on them, and lets them end in good
//! order.

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

/// What an HTTP/2 stream may buffer. A slow client costs no more; frames that are larger go
/// through all the same.
const BUFFER: usize = 16 << 10;

/// Vanished clients are found by the kernel: after this silence it asks, a few times.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Serves until `shutdown`, then lets open requests end for as long as the drain may take.
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
        () = keep(settings.tls.as_deref()) => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    connections.end(settings.drain).await;
}

/// Keeps the certificate up to date, where there is one.
async fn keep(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.keep().await,
        None => std::future::pending().await,
    }
}

/// The connections of one server, and what they are served with.
struct Connections {
    router: Router,
    limits: Limits,
    /// With clients that take nothing of what they are sent.
    stall_limit: StallLimit,
    tls: Option<TlsAcceptor>,
    open: TaskTracker,
    /// Ends those that did not end in time.
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
                    self.take(socket);
                    if mem::take(&mut exhausted) {
                        info!("connections are accepted again");
                    }
                }
                // The peer has left before it was its turn.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of file descriptors or memory: those who leave make room.
                Err(error) => {
                    if !mem::replace(&mut exhausted, true) {
                        let open = self.open.len();
                        warn!(%error, open, "no connection can be accepted; it is tried again until one can");
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, socket: Accepted) {
        match (socket, &self.tls) {
            (Accepted::Tcp(socket, peer), tls) => {
                if let Err(error) = prepare(&socket) {
                    debug!(%error, "a socket takes no options");
                }
                match tls {
                    None => self.spawn(serve_one(Arc::clone(self), socket, peer)),
                    Some(tls) => self.spawn(serve_tls(Arc::clone(self), tls.clone(), socket, peer)),
                }
            }
            (Accepted::Unix(socket), _) => self.spawn(serve_unix(Arc::clone(self), socket)),
        }
    }

    /// Runs a task that ends at the latest when the drain is over.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        // An async block keeps the room of what it captured and moved on: a task that is not boxed takes
        // three times its size.
        let task = Box::pin(task);
        self.open.spawn(async move {
            cut.run_until_cancelled(task).await;
        });
    }

    /// Waits until all have ended; cuts those that have not by then.
    async fn end(&self, drain: Duration) {
        self.open.close();
        if timeout(drain, self.open.wait()).await.is_err() {
            warn!(open = self.open.len(), "cutting connections that did not end in time");
            self.cut.cancel();
            self.open.wait().await;
        }
    }
}

/// Boxes what is large: a task takes the room of its largest state for as long as it lives.
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
        // Streams live long: they get a task of their own, which knows no other state.
        Ok(Some(session)) => {
            connections.spawn(stream(socket, session, connections.stall_limit.clone()));
        }
        Ok(None) => drop(socket.shutdown().await),
        Err(error) => debug!(%error, "a stream could not be opened"),
    }
}

/// Streams stay with hyper here: the encryption alone holds more than it does.
async fn serve_tls(connections: Arc<Connections>, tls: TlsAcceptor, socket: TcpStream, peer: Peer) {
    let within = connections.limits.head_within;
    let socket =
        match timeout(within, Box::pin(tls.accept(connections.stall_limit.socket(socket)))).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return debug!(%error, %peer, "no TLS handshake"),
            Err(_) => return,
        };
    if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(http2(&connections, socket, peer)).await;
    } else {
        Box::pin(http1(&connections, socket, peer)).await;
    }
}

/// A proxy on this machine keeps its connections, and sends all sorts of requests on them.
async fn serve_unix(connections: Arc<Connections>, socket: UnixStream) {
    let limits = &connections.limits;
    let socket = connections.stall_limit.socket(socket);
    let mut builder = auto::Builder::new(connections.stall_limit.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head);
    builder.http2().timer(TokioTimer::new()).max_send_buf_size(BUFFER);
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
        debug!(%error, "a stream broke");
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
        .max_send_buf_size(BUFFER)
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
    // Whoever does not take leave is left.
    let _ = timeout(limits.head_within, serving).await;
}

/// Serves a connection; after the shutdown, what is open on it and no more.
async fn until_ended<C, E>(
    connection: C,
    take_no_more: impl FnOnce(Pin<&mut C>),
    shutdown: &CancellationToken,
) where
    C: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            take_no_more(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}

/// The router as it is called for the requests of one peer.
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
    async fn a_connection_may_be_upgraded_and_knows_when_the_client_has_ended_its_input() {
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
    async fn a_connection_is_asked_for_a_sign_of_life_and_keeps_no_frame_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&socket).unwrap();
        assert!(socket.nodelay().unwrap());
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
