//! A small example aggregator. It counts events by subscriber and type, in an `SQLite` file.
//!
//!     aggregator [ADDRESS] [FILE]        127.0.0.1:8080, aggregator.db
//!
//! `event-piper pump` feeds it. The example shows everything that an aggregator must do: return its
//! latest event, and apply each event once, by its id, even if it arrives several times. `GET /` returns
//! the counts.

mod store;

use std::{
    env,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{net::TcpListener, task::spawn_blocking};

use self::store::{Latest, Store};

/// The fields of an event that the aggregator uses.
#[derive(Deserialize)]
struct Event {
    id: i64,
    #[serde(rename = "type")]
    kind: String,
    subscriber: Option<String>,
}

/// The maximum size of a request body, which is larger than any batch of a pump.
const MAX_BODY_BYTES: usize = 64 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let file = args.next().unwrap_or_else(|| "aggregator.db".into());
    let store = Store::open(&file).with_context(|| format!("opening {file}"))?;
    let router = Router::new()
        .route("/", get(counts))
        .route("/events/latest", get(latest))
        .route("/events/batch", post(batch))
        .route("/events", post(one))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(Mutex::new(store)));
    let listener = TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("listening on {address}"))?;
    // Continue if standard output is closed.
    let _ = writeln!(io::stdout(), "the aggregator listens on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

type Shared = State<Arc<Mutex<Store>>>;

/// A response, or an error, which the pump logs before it retries.
type Answer = Result<Response, (StatusCode, String)>;

/// 200 with the latest event, 204 if the aggregator is bootstrapped and has no event, 404 if it needs a
/// bootstrap.
async fn latest(State(store): Shared) -> Answer {
    let json = |body: String| ([(header::CONTENT_TYPE, "application/json")], body);
    Ok(match with(store, |store| store.latest()).await? {
        Latest::Event(body) => json(body).into_response(),
        Latest::None => StatusCode::NO_CONTENT.into_response(),
        Latest::NotBootstrapped => StatusCode::NOT_FOUND.into_response(),
    })
}

/// Applies an array of events atomically. An empty array ends the bootstrap.
async fn batch(State(store): Shared, Json(events): Json<Vec<Box<RawValue>>>) -> Answer {
    let events = events.iter().map(|event| parse(event)).collect::<Result<Vec<_>, _>>()?;
    with(store, move |store| store.apply(&events, events.is_empty())).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// Applies one event.
async fn one(State(store): Shared, Json(event): Json<Box<RawValue>>) -> Answer {
    let event = parse(&event)?;
    let latest = with(Arc::clone(&store), |store| store.latest()).await?;
    if matches!(latest, Latest::NotBootstrapped) {
        // The file was lost, and the pump does not know yet. After this error, it requests the latest event.
        return Err((StatusCode::SERVICE_UNAVAILABLE, "bootstrap me first".into()));
    }
    with(store, move |store| store.apply(&[event], false)).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// Returns the counts as JSON.
async fn counts(State(store): Shared) -> Answer {
    Ok(Json(with(store, |store| store.counts()).await?).into_response())
}

fn parse(json: &RawValue) -> Result<(Event, String), (StatusCode, String)> {
    let event = serde_json::from_str(json.get());
    let event = event.map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, e.to_string()))?;
    Ok((event, json.get().to_owned()))
}

/// Runs `work` on the store in a blocking thread, because the store waits for the disk.
async fn with<T: Send + 'static>(
    store: Arc<Mutex<Store>>,
    work: impl FnOnce(&mut Store) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, (StatusCode, String)> {
    let failed = |what: String| (StatusCode::INTERNAL_SERVER_ERROR, what);
    let work = move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner));
    let done = spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?;
    done.map_err(|e| failed(e.to_string()))
}
