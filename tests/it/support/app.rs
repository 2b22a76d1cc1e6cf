//! A gateway in this process, on its own port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use event_piper::{
    access::{self, Access},
    gateway::{self, Gateway, followed},
    http::{self, Listener},
    metrics::Metrics,
    order::Hold,
    store::server::Server,
    tail, write,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    eventually,
    sse_client::{Answer, Stream, ask, post},
};

/// A running gateway. It ends with [`stop`](Self::stop), or with the test.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Arc<Gateway>,
    access: Arc<Access>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

/// The settings that a test can change.
pub(crate) struct Settings {
    pub(crate) gateway: gateway::Settings,
    pub(crate) access: access::Settings,
    pub(crate) http: http::Settings,
}

impl Default for Settings {
    /// Like the defaults of the program, but with a short heartbeat and drain.
    fn default() -> Self {
        let drain = Duration::from_secs(2);
        let gateway = gateway::Settings {
            log: followed::Settings {
                hold: Hold::For(Duration::from_millis(20)),
                pool: 4,
                queries_each: None,
                checks: tail::safety::Checks::Enforce,
            },
            recent: 64 << 20,
            writer: Some(write::Settings::default()),
        };
        let http = http::Settings {
            cors_origins: Vec::new(),
            cors_headers: Vec::new(),
            heartbeat: Duration::from_millis(500),
            drain,
            limits: http::Limits::default(),
            tls: None,
            append_path: None,
        };
        Self { gateway, access: access::Settings::default(), http }
    }
}

impl App {
    /// Starts a gateway on this database, and waits until it is ready.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(url, Settings::default()).await
    }

    /// The same, at the address of an earlier one.
    pub(crate) async fn start_at(url: &str, address: SocketAddr) -> Self {
        let listener =
            eventually("the address is free again", async || TcpListener::bind(address).await.ok());
        let app = Self::launch_on(listener.await, url, Settings::default());
        app.ready().await;
        app
    }

    /// The same with other settings.
    pub(crate) async fn start_with(url: &str, settings: Settings) -> Self {
        let app = Self::launch(url, settings).await;
        app.ready().await;
        app
    }

    /// Starts a gateway, without waiting until it is ready.
    pub(crate) async fn launch(url: &str, settings: Settings) -> Self {
        // `RUST_LOG=info` shows the log of the gateway.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
        let _ = log.try_init();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::launch_on(listener, url, settings)
    }

    fn launch_on(listener: TcpListener, url: &str, settings: Settings) -> Self {
        let address = listener.local_addr().unwrap();
        Self::launch_at(listener.into(), address, url, settings)
    }

    /// The same with any kind of listener. `address` is the address for requests of the test, if there is one.
    pub(crate) fn launch_at(
        listener: Listener,
        address: SocketAddr,
        url: &str,
        settings: Settings,
    ) -> Self {
        let server = Server::parse(url).unwrap();
        let metrics = Arc::new(Metrics::new());
        let gateway = Gateway::start(&server, &settings.gateway, &metrics);
        let access = Access::start(settings.access, &server, Arc::clone(&metrics));
        let router = http::router(Arc::clone(&gateway), Arc::clone(&access), settings.http.clone());
        let (shutdown, http) = (CancellationToken::new(), settings.http);
        let until = shutdown.clone();
        let serving = tokio::spawn(async move {
            http::serve(listener, router, &http, &metrics, until).await;
        });
        Self { address, gateway, access, shutdown, serving }
    }

    /// Waits until the gateway is ready.
    pub(crate) async fn ready(&self) {
        eventually("the gateway is ready", async || self.gateway.ready().ok()).await;
    }

    /// Follows this consumer, starting with the next event.
    pub(crate) async fn follow(&self, consumer: &str) -> Stream {
        Stream::open(self.address, "/events", &[("X-Consumer-Id", consumer)]).await
    }

    /// Follows this consumer after a cursor.
    pub(crate) async fn resume(&self, consumer: &str, cursor: &str) -> Stream {
        let headers = [("X-Consumer-Id", consumer), ("Last-Event-ID", cursor)];
        Stream::open(self.address, "/events", &headers).await
    }

    /// Sends a request, and returns the whole response.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.address, "GET", path, headers).await
    }

    /// Sends a request with a JSON body, and returns the whole response.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        post(self.address, path, &[("Content-Type", "application/json")], body).await
    }

    /// Returns the value of a metric, without the prefix `event_piper_`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics", &[]).await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("event_piper_{name} ")));
        line.unwrap_or_else(|| panic!("no metric {name} in {text}")).parse().unwrap()
    }

    /// Stops the gateway like SIGTERM.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.gateway.close();
        self.serving.await.unwrap();
        self.gateway.stop().await;
        self.access.stop().await;
    }
}
