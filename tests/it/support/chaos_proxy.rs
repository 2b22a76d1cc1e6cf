//! A TCP proxy that simulates network faults.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
    sync::{broadcast, watch},
    task::JoinHandle,
    time::sleep,
};

use super::postgres::Database;

/// A proxy in front of one address. It ends with the test, and closes its connections.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    upstream: watch::Sender<SocketAddr>,
    weather: watch::Sender<Weather>,
    strikes: broadcast::Sender<Strike>,
    sent: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// The condition of the network, which affects every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Every piece of data is delayed by this, in both directions.
    pub(crate) delay: Duration,
    /// The maximum rate in bytes per second, in both directions; `None`: unlimited.
    pub(crate) pace: Option<u32>,
    /// Data is accepted and discarded. A connection that has lost data is reset when the condition ends, as by a
    /// firewall that has lost its state.
    pub(crate) black_hole: bool,
    /// New connections are refused.
    pub(crate) refuse: bool,
}

/// A one-time fault of all open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Both sides see a reset.
    Cut,
    /// The server sees a reset; the client receives nothing any more.
    LoseServer,
    /// The client sees a reset; the server receives nothing any more.
    LoseClient,
}

impl ChaosProxy {
    /// Starts a proxy to `upstream`, without faults.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = watch::Sender::new(Weather::default());
        let strikes = broadcast::Sender::new(16);
        let upstream = watch::Sender::new(upstream);
        let sent = Arc::<AtomicU64>::default();
        let shared = Shared {
            upstream: upstream.subscribe(),
            weather: weather.subscribe(),
            strikes: strikes.clone(),
            sent: Arc::clone(&sent),
        };
        let accepting = tokio::spawn(accept(listener, shared));
        Self { address, upstream, weather, strikes, sent, accepting }
    }

    /// Starts a proxy in front of a database, and returns it with the URL to connect through it.
    pub(crate) async fn before(database: &Database) -> (Self, String) {
        let url = database.tcp_url();
        let (_, place) = url.rsplit_once('@').unwrap();
        let upstream = place.split_once('/').unwrap().0;
        let proxy = Self::start(upstream.parse().unwrap()).await;
        let url = url.replace(upstream, &proxy.address().to_string());
        (proxy, url)
    }

    /// The address that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of bytes that the upstream has sent, whether or not they are read.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Changes the upstream, and closes open connections.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
        self.strike(Strike::Cut);
    }

    /// Sets the condition of the network, also for open connections.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Ends the fault.
    pub(crate) fn clear(&self) {
        self.set(Weather::default());
    }

    /// Applies a one-time fault to all open connections.
    pub(crate) fn strike(&self, strike: Strike) {
        // Ignore the error that no connection is open.
        let _ = self.strikes.send(strike);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.strike(Strike::Cut);
    }
}

/// The state of the proxy that its connections share.
#[derive(Clone)]
struct Shared {
    upstream: watch::Receiver<SocketAddr>,
    weather: watch::Receiver<Weather>,
    strikes: broadcast::Sender<Strike>,
    sent: Arc<AtomicU64>,
}

async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = shared.clone();
        let mut strikes = shared.strikes.subscribe();
        tokio::spawn(async move { shared.carry(client, &mut strikes).await });
    }
}

impl Shared {
    async fn carry(self, client: TcpStream, strikes: &mut broadcast::Receiver<Strike>) {
        let weather = *self.weather.borrow();
        if weather.refuse {
            return reset(&client);
        }
        if weather.black_hole {
            return self.swallow(client, strikes).await;
        }
        let upstream = *self.upstream.borrow();
        let Ok(server) = TcpStream::connect(upstream).await else { return reset(&client) };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (mut client, mut server) = (client, server);
        let strike = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let there = pump(from_client, to_server, self.weather.clone(), |_| {});
            let back = pump(from_server, to_client, self.weather.clone(), |bytes| {
                self.sent.fetch_add(bytes, Ordering::SeqCst);
            });
            select! {
                () = there => return,
                () = back => return,
                strike = strikes.recv() => strike.unwrap_or(Strike::Cut),
            }
        };
        match strike {
            Strike::Cut => {
                reset(&client);
                reset(&server);
            }
            Strike::LoseServer => {
                reset(&server);
                drop(server);
                silent(client, strikes).await;
            }
            Strike::LoseClient => {
                reset(&client);
                drop(client);
                silent(server, strikes).await;
            }
        }
    }

    /// Handles a connection that is opened during a black hole: it never reaches the upstream.
    async fn swallow(mut self, mut client: TcpStream, strikes: &mut broadcast::Receiver<Strike>) {
        let (from_client, _to_client) = client.split();
        select! {
            () = drain(from_client) => {}
            _ = self.weather.wait_for(|weather| !weather.black_hole) => {}
            _ = strikes.recv() => {}
        }
        reset(&client);
    }
}

/// Copies bytes in one direction until either side ends. Returns when bytes were lost.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    received: impl Fn(u64),
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        received(read as u64);
        let now = *weather.borrow();
        if now.black_hole {
            select! {
                () = drain(&mut from) => {}
                _ = weather.wait_for(|weather| !weather.black_hole) => {}
            }
            return;
        }
        let read_u32 = u32::try_from(read).expect("a buffer is small");
        let paced = |pace| Duration::from_secs(1) * read_u32 / pace;
        let wait = now.delay + now.pace.map_or(Duration::ZERO, paced);
        if wait > Duration::ZERO {
            sleep(wait).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Reads and discards everything.
async fn drain(mut from: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(1..) = from.read(&mut buffer).await {}
}

/// Keeps a socket open without responding, until its peer closes it or the next fault happens.
async fn silent(socket: TcpStream, strikes: &mut broadcast::Receiver<Strike>) {
    select! {
        () = drain(socket) => {}
        _ = strikes.recv() => {}
    }
}

/// Makes the next drop of the socket reset the connection.
fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
