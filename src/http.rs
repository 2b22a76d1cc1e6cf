//! What users see on the wire.

mod all;
mod append_path;
mod console;
mod cors;
mod direct;
pub mod error;
mod events;
mod feed;
mod gate;
mod health;
mod identity;
mod openapi;
mod opening;
mod query;
mod server;
mod streams;
mod whole;
mod write;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub use server::{listen, serve};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use self::error::Problem;
use crate::{gateway::Gateway, metrics::Route};

/// What an operator can turn on the HTTP side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is believed to be whom.
    pub auth: Auth,
    /// Web origins that may read cross-origin; empty: loopback origins in the open mode,
    /// none otherwise.
    pub cors_origins: Vec<String>,
    /// How long a shutdown may take before open requests are cut.
    pub drain: Duration,
    /// How much of everything there may be.
    pub limits: Limits,
    /// Where the predecessor's append service is served as well, if it is: a path.
    pub append_path: Option<String>,
}

/// How much of everything there may be, so that nobody can use it up for the others.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all: those beyond are closed at once.
    pub connections: usize,
    /// Streams in all. Who comes beyond that is asked to try again in some seconds.
    pub streams: usize,
    /// Streams that follow one consumer.
    pub streams_of_a_consumer: usize,
    /// A request's head has to arrive within this time, and the next request of a connection
    /// that is kept alive too: who sends byte by byte, or nothing, is cut off.
    pub head_within: Duration,
    /// The bytes of a request's head.
    pub head: usize,
    /// The bytes of a body that is written at once.
    pub body: usize,
    /// The bytes of one event.
    pub event: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000 + Self::SPARE,
            streams: 100_000,
            streams_of_a_consumer: 100_000,
            head_within: Duration::from_secs(10),
            head: 16 << 10,
            body: 8 << 20,
            event: 1 << 20,
        }
    }
}

impl Limits {
    /// Connections beyond the limit of streams that are served all the same: to ask for health
    /// and metrics, and to be told to come back later.
    pub const SPARE: usize = 1024;

    /// As much of it as fits into so many open files. A connection that takes the last one would
    /// cost everybody: the gateway could not come back to PostgreSQL after a lost connection.
    #[must_use]
    pub fn within(self, files: usize) -> Self {
        let connections = self.connections.min(files);
        let spare = Self::SPARE.min(connections / 4);
        Self { connections, streams: self.streams.min(connections - spare), ..self }
    }
}

/// Who is believed to be whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody may name any consumer, by header or query: for loopback addresses only.
    Open,
    /// Something in front has authenticated the caller and sets `X-Consumer-Id`.
    TrustedHeader,
}

/// What the handlers share.
#[derive(Debug)]
struct App {
    gateway: Arc<Gateway>,
    settings: Settings,
}

/// All routes of the gateway.
pub fn router(gateway: Arc<Gateway>, settings: Settings) -> Router {
    let cors = cors::layer(&settings);
    let append_path = settings.append_path.as_deref().map(append_path::routes);
    let app = Arc::new(App { gateway, settings });
    Router::new()
        .route("/", get(console::page))
        .route("/console.css", get(console::style))
        .route("/console.js", get(console::script))
        .route("/events", get(events::subscribe).post(write::publish))
        .route("/events/{id}", get(events::one))
        .route("/all", get(all::follow))
        .route("/streams/{stream}", get(streams::read).post(write::append))
        .route("/streams/{stream}/{version}", post(write::append_at))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/manage/health", get(health::up))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(append_path.unwrap_or_default())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal("a fault of the gateway's own; its log says more").into_response()
        }))
        .layer(cors)
        .layer(TraceLayer::new_for_http())
        .with_state(app)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn not_allowed() -> Problem {
    Problem::method_not_allowed("there is something here, but not for this method")
}

/// Counts requests by their route's pattern, so that nobody's ids become labels.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.unwrap_or("none").to_owned();
    let method = known(request.method());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.gateway.metrics().requests.get_or_create(&Route { route, method, status }).inc();
    response
}

/// A client can invent methods; it shall not invent labels.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
