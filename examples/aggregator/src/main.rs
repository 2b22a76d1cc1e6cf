//! A small aggregator: counts events by subscriber and type, in a file of its own.
//!
//!     aggregator [ADDRESS] [FILE]        127.0.0.1:8080, aggregator.db
//!
//! It is what `event-piper pump` feeds, and shows all that an aggregator has to do: say what its
//! latest event is, and apply each event once, by its id, however often it comes. `GET /` shows
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

/// What it has to know of an event.
#[derive(Deserialize)]
struct Event {
    id: i64,
    #[serde(rename = "type")]
    kind: String,
    subscriber: Option<String>,
}

/// More than a pump sends at once.
const LARGEST_BODY: usize = 64 << 20;

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
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(Mutex::new(store)));
    let listener = TcpListener::bind(&address).await;
    let listener = listener.with_context(|| format!("listening on {address}"))?;
    // Nobody need read it.
    let _ = writeln!(io::stdout(), "the aggregator is at http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

type Shared = State<Arc<Mutex<Store>>>;

/// An answer, or what went wrong, which the pump logs and tries again.
type Answer = Result<Response, (StatusCode, String)>;

/// 200 with the latest event; 204 when it is booted and has none; 404 when it wants to be booted.
async fn latest(State(store): Shared) -> Answer {
    let json = |body: String| ([(header::CONTENT_TYPE, "application/json")], body);
    Ok(match with(store, |store| store.latest()).await? {
        Latest::Event(body) => json(body).into_response(),
        Latest::None => StatusCode::NO_CONTENT.into_response(),
        Latest::Unbooted => StatusCode::NOT_FOUND.into_response(),
    })
}

/// An array of events, all or nothing; an empty one says that these were all.
async fn batch(State(store): Shared, Json(events): Json<Vec<Box<RawValue>>>) -> Answer {
    let events = events.iter().map(|event| parse(event)).collect::<Result<Vec<_>, _>>()?;
    with(store, move |store| store.apply(&events, events.is_empty())).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// One event.
async fn one(State(store): Shared, Json(event): Json<Box<RawValue>>) -> Answer {
    let event = parse(&event)?;
    let latest = with(Arc::clone(&store), |store| store.latest()).await?;
    if matches!(latest, Latest::Unbooted) {
        // It has lost its file, and the pump does not know it yet: it asks when this fails.
        return Err((StatusCode::SERVICE_UNAVAILABLE, "bootstrap me first".into()));
    }
    with(store, move |store| store.apply(&[event], false)).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// What all of it is for.
async fn counts(State(store): Shared) -> Answer {
    Ok(Json(with(store, |store| store.counts()).await?).into_response())
}

fn parse(json: &RawValue) -> Result<(Event, String), (StatusCode, String)> {
    let event = serde_json::from_str(json.get());
    let event = event.map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, e.to_string()))?;
    Ok((event, json.get().to_owned()))
}

/// The store waits for the disk, which is nothing for the threads that serve.
async fn with<T: Send + 'static>(
    store: Arc<Mutex<Store>>,
    work: impl FnOnce(&mut Store) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, (StatusCode, String)> {
    let failed = |what: String| (StatusCode::INTERNAL_SERVER_ERROR, what);
    let work = move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner));
    let done = spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?;
    done.map_err(|e| failed(e.to_string()))
}
