//! Sockets: accepts connections, serves HTTP/1.1 and clear-text HTTP/2 on them, and lets
//! them end in good order.

use std::{io, mem, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::{
    Limits, Settings, direct,
    opening::{self, Opening},
};
use crate::gateway::subscription::Subscription;

/// What an HTTP/2 stream may buffer. A slow client costs no more; frames that are larger go
/// through all the same.
const BUFFER: usize = 16 << 10;

/// Vanished clients are found by the kernel: after this silence it asks, a few times.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// As many may wait to be accepted as the system allows (`net.core.somaxconn`). Where they are
/// more than that, the kernel drops their handshakes, and they hang for up to half a minute: a
/// storm of clients that come back must find room.
const BACKLOG: u32 = 1 << 16;

/// A socket that listens on this address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A gateway that starts again finds its port in use by connections that it closed.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`, then lets open requests end for as long as the drain may take.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &Settings,
    shutdown: CancellationToken,
) {
    let connections = Connections {
        router,
        limits: settings.limits.clone(),
        open: TaskTracker::new(),
        cut: CancellationToken::new(),
        shutdown: shutdown.clone(),
    };
    let connections = Arc::new(connections);
    shutdown.run_until_cancelled(connections.accept(&listener)).await;
    drop(listener);
    connections.end(settings.drain).await;
}

/// The connections of one server, and what they are served with.
struct Connections {
    router: Router,
    limits: Limits,
    open: TaskTracker,
    /// Ends those that did not end in time.
    cut: CancellationToken,
    shutdown: CancellationToken,
}

impl Connections {
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut exhausted = false;
        loop {
            match listener.accept().await {
                Ok((socket, peer)) if self.open.len() >= self.limits.connections => {
                    debug!(%peer, open = self.open.len(), "closing a connection beyond the limit");
                    drop(socket);
                }
                Ok((socket, _)) => {
                    self.spawn(serve_one(Arc::clone(self), socket));
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

    /// Runs a task that ends at the latest when the drain is over.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
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
async fn serve_one(connections: Arc<Connections>, mut socket: TcpStream) {
    if let Err(error) = prepare(&socket) {
        debug!(%error, "a socket takes no options");
    }
    let (router, limits) = (connections.router.clone(), &connections.limits);
    let shutdown = connections.shutdown.clone();
    let opening = timeout(limits.head_within, Box::pin(opening::of(&socket))).await;
    let (request, len) = match opening {
        Ok(Ok(Opening::Http2)) => return Box::pin(http2(socket, router, shutdown)).await,
        Ok(Ok(Opening::Http1)) => return Box::pin(http1(socket, router, limits, shutdown)).await,
        Ok(Ok(Opening::Stream { request, len })) => (request, len),
        Ok(Err(_)) | Err(_) => return,
    };
    match Box::pin(direct::answer(&mut socket, router, *request, len)).await {
        // Streams live long: they get a task of their own, which knows no other state.
        Ok(Some(subscription)) => connections.spawn(stream(socket, subscription)),
        Ok(None) => drop(socket.shutdown().await),
        Err(error) => debug!(%error, "a stream could not be opened"),
    }
}

async fn stream(socket: TcpStream, subscription: Box<Subscription>) {
    if let Err(error) = direct::stream(socket, subscription).await {
        debug!(%error, "a stream broke");
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

async fn http1(socket: TcpStream, router: Router, limits: &Limits, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head)
        .serve_connection(TokioIo::new(socket), service_fn(answer(router)));
    until_ended(connection, shutdown).await;
}

async fn http2(socket: TcpStream, router: Router, shutdown: CancellationToken) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_send_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), service_fn(answer(router)));
    until_ended(connection, shutdown).await;
}

/// Serves a connection; after the shutdown, what is open on it and no more.
async fn until_ended<C: GracefulConnection<Error = hyper::Error>>(
    connection: C,
    shutdown: CancellationToken,
) {
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}

/// The router as hyper calls it.
fn answer(
    router: Router,
) -> impl Fn(Request<Incoming>) -> tower::util::Oneshot<Router, Request<Body>> + Clone {
    let router = Arc::new(router);
    move |request| Router::clone(&router).oneshot(request.map(Body::new))
}
