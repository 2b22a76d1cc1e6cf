//! A TCP proxy that does to connections what networks do to them.

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

/// A proxy before one address. It ends with the test, and its connections with it.
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    upstream: watch::Sender<SocketAddr>,
    weather: watch::Sender<Weather>,
    strikes: broadcast::Sender<Strike>,
    sent: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// What every connection meets while it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Every piece is this late, in either direction.
    pub(crate) delay: Duration,
    /// Bytes a second, in either direction; `None`: as many as come.
    pub(crate) pace: Option<u32>,
    /// Whatever is sent is accepted, and goes nowhere. A connection that has lost bytes in
    /// this way is reset when the weather clears, as by a firewall that forgot it.
    pub(crate) black_hole: bool,
    /// Who connects is turned away.
    pub(crate) refuse: bool,
}

/// What happens to all connections that are open, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Both sides see a reset.
    Cut,
    /// The server sees a reset; the client hears nothing ever again.
    LoseServer,
    /// The client sees a reset; the server hears nothing ever again.
    LoseClient,
}

impl ChaosProxy {
    /// Carries connections to `upstream`, in fair weather.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = watch::Sender::new(Weather::default());
        let strikes = broadcast::Sender::new(16);
        let upstream = watch::Sender::new(upstream);
        let sent = Arc::<AtomicU64>::default();
        let line = Line {
            upstream: upstream.subscribe(),
            weather: weather.subscribe(),
            strikes: strikes.clone(),
            sent: Arc::clone(&sent),
        };
        let accepting = tokio::spawn(accept(listener, line));
        Self { address, upstream, weather, strikes, sent, accepting }
    }

    /// Between a database and who connects to it by the URL that comes with it.
    pub(crate) async fn before(database: &Database) -> (Self, String) {
        let url = database.tcp_url();
        let (_, place) = url.rsplit_once('@').unwrap();
        let upstream = place.split_once('/').unwrap().0;
        let proxy = Self::start(upstream.parse().unwrap()).await;
        let url = url.replace(upstream, &proxy.address().to_string());
        (proxy, url)
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes the upstream has sent, whether or not somebody reads them.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Leads elsewhere from now on; what is open ends.
    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
        self.strike(Strike::Cut);
    }

    /// Changes the weather, for the connections that are open too.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Fair weather again.
    pub(crate) fn clear(&self) {
        self.set(Weather::default());
    }

    /// Hits every connection that is open.
    pub(crate) fn strike(&self, strike: Strike) {
        // Nobody hears it when nobody is connected.
        let _ = self.strikes.send(strike);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.strike(Strike::Cut);
    }
}

/// What a connection needs to know of its proxy.
#[derive(Clone)]
struct Line {
    upstream: watch::Receiver<SocketAddr>,
    weather: watch::Receiver<Weather>,
    strikes: broadcast::Sender<Strike>,
    sent: Arc<AtomicU64>,
}

async fn accept(listener: TcpListener, line: Line) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let line = line.clone();
        let mut strikes = line.strikes.subscribe();
        tokio::spawn(async move { line.carry(client, &mut strikes).await });
    }
}

impl Line {
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

    /// A connection that was opened into a black hole never gets anywhere.
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

/// Carries bytes one way until either side ends; ends the connection when it has lost some.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    came: impl Fn(u64),
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        came(read as u64);
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

/// Reads all there is, and tells nobody.
async fn drain(mut from: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(1..) = from.read(&mut buffer).await {}
}

/// Holds a socket that nobody answers on any more, until its owner gives it up, or the next
/// strike.
async fn silent(socket: TcpStream, strikes: &mut broadcast::Receiver<Strike>) {
    select! {
        () = drain(socket) => {}
        _ = strikes.recv() => {}
    }
}

/// Whoever drops the socket next resets the connection.
fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
