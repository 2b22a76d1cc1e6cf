//! An aggregator on a real socket. It stores events by their ids, notes violations of the contract, and can
//! be told to fail.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

/// A fault in the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is not processed, and gets this status.
    Answer(u16),
    /// 503 with `Retry-After: 1`.
    Busy,
    /// The request is not processed and gets no response.
    Hang,
    /// The request is processed after this delay.
    Late(Duration),
    /// The request is processed, and the connection ends without a response.
    DieAfter,
    /// The connection ends before the request is processed.
    DieBefore,
}

/// The responses to `events/latest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Says {
    /// The latest event, or 404.
    #[default]
    Latest,
    /// 204.
    Nothing,
    /// An object of its own, which has a number as its id.
    Foreign,
}

/// The stored events, and what was received.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) applied: BTreeMap<i64, Value>,
    pub(crate) booted: usize,
    is_booted: bool,
    pub(crate) repeats: usize,
    /// The lengths of the arrays, in the order of arrival.
    pub(crate) batches: Vec<usize>,
    pub(crate) singles: usize,
    pub(crate) asked: usize,
    /// Violations of the contract.
    pub(crate) wrong: Vec<String>,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) refused: HashSet<i64>,
    pub(crate) says: Says,
    pub(crate) headers: Vec<(HashMap<String, String>, Bytes)>,
    pub(crate) posts: Vec<Instant>,
    /// Connections without a valid certificate.
    pub(crate) strangers: usize,
    /// Whether every connection ends after one response.
    pub(crate) closes: bool,
    /// The name of the field with the id.
    pub(crate) key: String,
}

/// The aggregator. It stops when the value is dropped.
pub(crate) struct Aggregator {
    pub(crate) address: SocketAddr,
    store: Arc<Mutex<Store>>,
    cut: watch::Sender<u32>,
    accepting: JoinHandle<()>,
}

impl Aggregator {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts with or without TLS.
    pub(crate) async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(Store { key: "id".into(), ..Store::default() }));
        let cut = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&store), cut.clone(), tls));
        Self { address, store, cut, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/base", self.address)
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// The ids of the stored events.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.store().applied.keys().copied().collect()
    }

    /// Removes all events and ends all connections, like a restart without data.
    pub(crate) fn restart_empty(&self) {
        self.forget();
        self.cut();
    }

    /// Removes all events and keeps the connections, as behind a proxy.
    pub(crate) fn forget(&self) {
        let mut store = self.store();
        store.applied.clear();
        store.is_booted = false;
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    store: Arc<Mutex<Store>>,
    cut: watch::Sender<u32>,
    tls: Option<TlsAcceptor>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let (store, cut, tls) = (Arc::clone(&store), cut.subscribe(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(socket, store, cut).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => serve(socket, store, cut).await,
                    Err(_) => store.lock().unwrap().strangers += 1,
                },
            }
        });
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    store: Arc<Mutex<Store>>,
    mut cut: watch::Receiver<u32>,
) {
    let keeps = !store.lock().unwrap().closes;
    let service = service_fn(move |request| answer(Arc::clone(&store), request));
    let connection =
        http1::Builder::new().keep_alive(keeps).serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        _ = connection => {}
        _ = cut.changed() => {}
    }
}

/// Responds to a request. An error ends the connection without a response.
async fn answer(
    store: Arc<Mutex<Store>>,
    request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (method, path) = (head.method.as_str().to_owned(), head.uri.path().to_owned());
    if method == "GET" {
        let mut store = store.lock().unwrap();
        store.asked += 1;
        return Ok(store.latest(&path));
    }
    let fault = {
        let mut store = store.lock().unwrap();
        store.posts.push(Instant::now());
        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        let headers = headers.collect();
        store.headers.push((headers, body.clone()));
        store.faults.pop_front()
    };
    let apply = || store.lock().unwrap().post(&path, &body);
    let died = || Err(io::Error::other("died"));
    match fault {
        None => Ok(apply()),
        Some(Fault::Answer(status)) => Ok(reply(status, "not today")),
        Some(Fault::Busy) => {
            let mut reply = reply(503, "busy");
            reply.headers_mut().insert("retry-after", "1".parse().unwrap());
            Ok(reply)
        }
        Some(Fault::Hang) => match pending::<Infallible>().await {},
        Some(Fault::Late(pause)) => {
            sleep(pause).await;
            Ok(apply())
        }
        Some(Fault::DieAfter) => {
            apply();
            died()
        }
        Some(Fault::DieBefore) => died(),
    }
}

fn reply(status: u16, body: impl Into<String>) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.into()));
    Response::builder().status(status).body(body).unwrap()
}

impl Store {
    fn latest(&self, path: &str) -> Response<Full<Bytes>> {
        assert_eq!(path, "/base/events/latest");
        match (self.says, self.applied.last_key_value()) {
            (Says::Nothing, _) => reply(204, ""),
            (Says::Foreign, _) => reply(200, r#"{"id": 9000, "entity": "order"}"#),
            (Says::Latest, None) if self.is_booted => reply(204, ""),
            (Says::Latest, None) => reply(404, ""),
            (Says::Latest, Some((_, event))) => reply(200, event.to_string()),
        }
    }

    fn post(&mut self, path: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let body: Value = serde_json::from_slice(body).expect("a body is JSON");
        let events = match (path, body) {
            ("/base/events/batch" | "/base/events/import", Value::Array(events)) => {
                self.batches.push(events.len());
                if events.is_empty() {
                    self.booted += 1;
                    self.is_booted = true;
                }
                events
            }
            ("/base/events", event @ Value::Object(_)) => {
                self.singles += 1;
                vec![event]
            }
            (path, body) => panic!("nobody posts this to {path}: {body}"),
        };
        let id = |event: &Value| event[&self.key].as_i64().expect("an event has an id");
        let ids: Vec<i64> = events.iter().map(id).collect();
        if !ids.is_sorted() {
            self.wrong.push(format!("a batch is not sorted: {ids:?}"));
        }
        if let Some(refused) = ids.iter().find(|id| self.refused.contains(id)) {
            return reply(422, format!("no room for\nevent {refused}"));
        }
        for (id, event) in ids.into_iter().zip(events) {
            self.apply(id, event);
        }
        reply(201, "")
    }

    fn apply(&mut self, id: i64, event: Value) {
        if let Some(known) = self.applied.get(&id) {
            self.repeats += 1;
            if *known != event {
                self.wrong.push(format!("{known} came again as {event}"));
            }
            return;
        }
        if let Some((latest, _)) = self.applied.last_key_value().filter(|(it, _)| **it > id) {
            self.wrong.push(format!("{id} came after {latest}"));
        }
        self.applied.insert(id, event);
    }
}

/// The payload of each event that these tests write.
pub(crate) fn payload(number: usize) -> Value {
    json!({ "number": number })
}
