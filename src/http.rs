//! The HTTP interface: routes, sockets, and everything that clients see on the wire.

mod all;
mod answer;
mod app;
mod append_path;
mod auth;
mod authorize;
mod chunked;
mod class;
mod console;
mod cors;
mod credentials;
mod cursor;
mod detect;
mod encode;
pub mod error;
mod event_json;
mod event_stream;
mod events;
mod feed;
mod field;
mod half_closed;
mod health;
mod identity;
mod idle;
mod last_event_id;
mod listener;
mod openapi;
mod path_params;
mod precondition;
mod query;
mod raw_stream;
mod send_progress;
mod server;
mod session;
mod stream;
mod streams;
mod tickets;
pub mod tls;
mod write;
mod write_timeout;

use std::sync::Arc;

pub use app::{Limits, Settings};
use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, Uri, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub use listener::{ListenAddress, Listener, listen, tcp};
use percent_encoding::percent_decode_str;
pub use server::serve;
use tower_http::{
    catch_panic::CatchPanicLayer,
    trace::{DefaultOnFailure, TraceLayer},
};

use tracing::Level;

use self::{app::App, auth::authenticated, class::Class, error::Problem, query::takes};
use crate::{
    access::{Access, budget::Budget},
    gateway::Gateway,
    metrics::Route,
};

/// All routes of the gateway.
pub fn router(gateway: Arc<Gateway>, access: Arc<Access>, settings: Settings) -> Router {
    let quiet = DefaultOnFailure::new().level(Level::DEBUG);
    let cors = cors::layer(&settings, access.modes());
    let limits = &settings.limits;
    let gauge = gateway.metrics().answer_bytes.clone();
    let answers = Budget::new(limits.answers, limits.answers_each, gauge);
    let app = Arc::new(App { gateway, access, settings, answers });
    let append_path = app.settings.append_path.as_deref();
    let append_path = append_path.map(|path| append_path::routes(&app, path));
    authenticated_routes(&app)
        .merge(append_path.unwrap_or_default())
        .merge(public_routes())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal("the gateway failed to handle this request; its log has the cause")
                .into_response()
        }))
        .layer(cors)
        .layer(middleware::from_fn(well_formed))
        // Failures are logged where they happen, with their cause. A 503 from `/readyz` is not a failure.
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(quiet))
        .with_state(app)
}

/// Routes whose handlers get a `Principal`.
fn authenticated_routes(app: &Arc<App>) -> Router<Arc<App>> {
    let route = |class, parameters, routes| authenticated(app, class, takes(parameters, routes));
    let plain = |parameters, routes| route(Class::PLAIN, parameters, routes);
    let write = |routes| route(Class::WRITE, &[], routes);
    let events = route(Class::STREAM, events::STREAM_PARAMETERS, get(events::subscribe));
    let stream = route(Class::PAGE_OR_STREAM, streams::PARAMETERS, get(streams::read));
    Router::new()
        .route("/", route(Class::CONSOLE, console::PARAMETERS, get(console::page)))
        .route(detect::STREAM_PATH, events.merge(write(post(write::publish))))
        .route("/events/{id}", plain(events::ONE_PARAMETERS, get(events::one)))
        .route("/all", route(Class::STREAM_OF_ALL, all::PARAMETERS, get(all::follow)))
        .route("/streams/{stream}", stream.merge(write(post(write::append))))
        .route("/streams/{stream}/{version}", write(post(write::append_at)))
        .route("/metrics", route(Class::OPERATORS, &[], get(health::metrics)))
        .route("/cursor", plain(cursor::PARAMETERS, get(cursor::position)))
        .route("/tickets", plain(tickets::PARAMETERS, post(tickets::issue)))
}

/// Routes that need no credentials.
fn public_routes() -> Router<Arc<App>> {
    let ready = get(health::ready).route_layer(middleware::from_fn(auth::varies_by_caller));
    Router::new()
        .route("/console.css", takes(&[], get(console::style)))
        .route("/console.js", takes(&[], get(console::script)))
        .route("/openapi.json", takes(&[], get(openapi::document)))
        .route("/healthz", takes(&[], get(health::alive)))
        .route("/readyz", takes(&[], ready))
        .route("/manage/health", takes(&[], get(health::up)))
}

/// Refuses requests without exactly one `Host` (RFC 9112, section 3.2), and paths that are not UTF-8.
///
/// Closes a connection that sent chunks. A request with both a length and chunks may smuggle a second
/// request past a proxy that uses the length (section 6.1). hyper uses the chunks and drops the
/// length, so the two cannot be told apart here.
async fn well_formed(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let hosts = headers.get_all(header::HOST).iter().count();
    let mut response = if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        Problem::bad_request("expected exactly one Host header").into_response()
    } else if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        Problem::bad_request("the path is not UTF-8 in percent-encoding").into_response()
    } else {
        next.run(request).await
    };
    if chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Logs the path without the query, which may hold a ticket.
fn span(request: &Request) -> tracing::Span {
    tracing::debug_span!("request", method = %request.method(), path = request.uri().path())
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is no resource at {}", uri.path()))
}

async fn not_allowed() -> Problem {
    Problem::method_not_allowed("this resource exists, but does not support this method")
}

/// Counts requests by the pattern of their route, so that ids in paths do not become metric labels.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.unwrap_or("none").to_owned();
    let method = method_label(request.method());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.gateway.metrics().requests.get_or_create(&Route { route, method, status }).inc();
    response
}

/// The metric label of a method. Clients can invent methods, and must not create labels with them.
fn method_label(method: &Method) -> &'static str {
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
