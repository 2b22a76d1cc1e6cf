//! Limits on what one caller can make the gateway do: request bodies, unread responses, queries, streams.
//!
//! These tests count what is bounded, and do not measure time.

mod good_and_bad;
mod imports;
mod replays;

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    access::issuer::{Signer, app_with, bearer, claims_with, seconds},
    support::{
        app::{App, Settings},
        eventually,
        postgres::Database,
        sse_client::{Answer, Stream, ask, post, whole},
    },
};

const BODY: usize = 8 << 20;

/// A token with all rights, for a principal with shares of its own.
fn token(signer: &Signer, name: &str, expires_in: u64) -> String {
    let rights = json!({ "read": "*", "write": "*", "read_streams": "*", "write_streams": "*", "all": true });
    let more = json!({ "event_piper": rights, "exp": seconds() + expires_in });
    bearer(&signer.token(&claims_with(name, &more)))
}

fn event(subscriber: &str, payload: &str) -> String {
    format!(r#"{{"type":"t","subscriber":"{subscriber}","payload":{payload}}}"#)
}

/// A request that announces a body of this length and sends only its beginning.
async fn promise(address: SocketAddr, proof: &str, promised: usize, sent: &[u8]) -> TcpStream {
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {proof}\r\n\
         Content-Type: application/json\r\nContent-Length: {promised}\r\n\r\n"
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    // It may be rejected before the end of its body.
    let _ = socket.write_all(sent).await;
    socket
}

fn says(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(words), "{words} in {detail}");
}

#[tokio::test]
async fn only_received_bytes_count_and_silence_ends_a_body() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.limits.body_within = Duration::from_millis(300);
    let app = App::start_with(&database.url(), settings).await;
    let mut promises = Vec::new();
    for _ in 0..20 {
        promises.push(promise(app.address, "", BODY, b"").await);
    }
    assert_eq!(app.metric("write_buffer_bytes").await, 0);
    assert_eq!(app.post("/events", &event("toto", "1")).await.status, 201);
    for promise in promises {
        says(&whole(promise).await.unwrap(), 408, "--body-timeout");
    }
}

#[tokio::test]
async fn bodies_of_one_principal_leave_room_for_others() {
    let (_database, app, signer) = app_with(|settings| {
        let writer = settings.gateway.writer.as_mut().unwrap();
        (writer.bytes, writer.bytes_each) = (4 << 20, 1 << 20);
        settings.http.limits.body_within = Duration::from_mins(1);
    })
    .await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(promise(app.address, &bad, BODY, &vec![b' '; 300_000]).await);
    }
    let refused = "refused_total{reason=\"write-buffer-of-a-principal\"}";
    eventually("requests beyond its share are rejected", async || {
        (app.metric(refused).await == 7).then_some(())
    })
    .await;
    assert!(app.metric("write_buffer_bytes").await <= 1 << 20);
    let large = event("toto", &format!("\"{}\"", "x".repeat(900_000)));
    let written = post(app.address, "/events", &[("Authorization", &good)], &large).await;
    assert_eq!(written.status, 201, "{}", written.body);
    let mut answers = Vec::new();
    for promise in open.drain(3..) {
        // Its last bytes may have reached a closed connection.
        answers.extend(whole(promise).await.ok());
    }
    for answer in &answers {
        says(answer, 429, "--write-buffer-per-principal");
    }
    drop(open);
    eventually("closed connections hold no bytes", async || {
        (app.metric("write_buffer_bytes").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn numbers_count_as_they_are_written_out() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let numbers = format!("[{}]", ["1e131071"; 7].join(","));
    let many = vec![event("bad", &numbers); 3000].join(",");
    says(&app.post("/events", &format!("[{many}]")).await, 413, "--max-body");
    let some = vec![event("bad", &numbers); 4].join(",");
    says(&app.post("/events", &format!("[{some}]")).await, 413, "digits");
    let few = vec![event("bad", &numbers); 2].join(",");
    assert_eq!(app.post("/events", &format!("[{few}]")).await.status, 201);
    says(&app.post("/events", &event("bad", &numbers)).await, 429, "again");
    let count = "select count(*) from events";
    let count: i64 = database.connect().await.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(count, 2);
}

#[tokio::test]
async fn written_bytes_per_second_are_limited() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.limits.append_bytes = 20_000_000.try_into().unwrap();
    })
    .await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let write = async |proof: &str| {
        let body = event("toto", &format!("[{}]", ["1e131071"; 7].join(",")));
        post(app.address, "/events", &[("Authorization", proof)], &body).await
    };
    let answers = futures::future::join_all((0..4).map(|_| write(&bad))).await;
    assert!(answers.iter().any(|answer| answer.status == 429), "{answers:?}");
    assert_eq!(write(&good).await.status, 201, "another principal has its own limit");
}

/// Events of this many bytes, which are slow to send.
async fn fill(database: &Database, stream: &str, events: i32, bytes: i32) {
    let sql = "insert into events (type, subscriber, payload, stream, version)
               select 't', 'big', to_jsonb(repeat('x', $3)), $1, n from generate_series(1, $2) n";
    database.connect().await.execute(sql, &[&stream, &events, &bytes]).await.unwrap();
}

/// A connection that sends a request and does not read the response.
async fn unread(address: SocketAddr, path: &str, proof: &str) -> TcpStream {
    unread_with(address, path, proof, "").await
}

/// The same with more header lines.
async fn unread_with(address: SocketAddr, path: &str, proof: &str, more: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {proof}\r\n{more}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

const EACH: usize = 32 << 20;

#[tokio::test]
async fn unread_responses_are_limited_and_cut() {
    let (database, app, signer) = app_with(|settings| {
        (settings.http.limits.answers, settings.http.limits.answers_each) = (2 * EACH, EACH);
        settings.http.limits.write_within = Duration::from_secs(2);
    })
    .await;
    fill(&database, "s", 100, 100_000).await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let page = "/streams/s?limit=1000";
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(unread(app.address, page, &bad).await);
    }
    let refused = "refused_total{reason=\"answer-buffer-of-a-principal\"}";
    eventually("requests beyond its share are rejected", async || {
        assert!(app.metric("answer_bytes").await <= EACH as u64 + (8 << 20));
        (app.metric(refused).await > 10).then_some(())
    })
    .await;
    let read = ask(app.address, "GET", page, &[("Authorization", &good)]).await;
    assert_eq!(read.status, 200, "another reads: {}", read.body);
    let cut = async || {
        let free = app.metric("answer_bytes").await < 1 << 20;
        (free && app.metric("stalled_total").await > 0).then_some(())
    };
    eventually("the responses are cut", cut).await;
    let read = ask(app.address, "GET", page, &[("Authorization", &bad)]).await;
    assert_eq!(read.status, 200, "and bytes are free again");
    drop(held);
}

/// One connection can request hundreds of responses, and close the window of each.
#[tokio::test]
async fn answers_over_http2_with_a_closed_window_are_given_up_one_by_one() {
    let (database, app, signer) = app_with(|settings| {
        (settings.http.limits.answers, settings.http.limits.answers_each) = (2 * EACH, EACH);
        settings.http.limits.write_within = Duration::from_secs(2);
    })
    .await;
    fill(&database, "s", 100, 100_000).await;
    let bad = token(&signer, "bad", 3600);
    let socket = TokioIo::new(TcpStream::connect(app.address).await.unwrap());
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(socket)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..60 {
        let request = hyper::Request::get("http://localhost/streams/s?limit=1000")
            .header("authorization", &bad)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        sender.ready().await.unwrap();
        answers.push(sender.send_request(request).await.unwrap());
        assert!(app.metric("answer_bytes").await <= EACH as u64 + (8 << 20));
    }
    assert!(answers.iter().any(|answer| answer.status() == 429));
    let free = async || (app.metric("answer_bytes").await < 1 << 20).then_some(());
    eventually("the responses are cut", free).await;
    assert!(app.metric("stalled_total").await > 0);
    let unread = answers.into_iter().find(|answer| answer.status() == 200).unwrap();
    assert!(
        unread.into_body().collect().await.is_err(),
        "the response is reset, so that it does not look complete"
    );
}

#[tokio::test]
async fn a_stalled_stream_ends_with_its_credentials() {
    let (database, app, signer) = app_with(|settings| {
        settings.http.limits.streams = 1;
        settings.http.limits.write_within = Duration::from_hours(1);
    })
    .await;
    let stuck = unread(app.address, "/events?consumer=big", &token(&signer, "bad", 4)).await;
    let live = "subscriptions{state=\"live\"}";
    eventually("it follows", async || (app.metric(live).await == 1).then_some(())).await;
    fill(&database, "s", 400, 100_000).await;
    let good = token(&signer, "good", 3600);
    let joined = eventually("the stream is no longer counted", async || {
        let headers = [("Authorization", &*good)];
        let mut stream = Stream::open(app.address, "/events?consumer=good", &headers).await;
        stream.next().await;
        stream.next().await.map(|_| stream)
    });
    joined.await;
    assert_eq!(app.metric("disconnects_total{reason=\"expired\"}").await, 1);
    drop(stuck);
}

#[tokio::test]
async fn a_stalled_stream_is_cut_and_resumes_without_loss() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.limits.write_within = Duration::from_secs(1);
    let app = App::start_with(&database.url(), settings).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let socket = socket.connect(app.address).await.unwrap();
    let stream = Stream::open_on(socket, "/events?consumer=big", &[]).await.unwrap();
    let mut stream = stream.joined().await;
    fill(&database, "s", 400, 100_000).await;
    let cut = "disconnects_total{reason=\"stalled\"}";
    eventually("it is cut", async || {
        let text = app.get("/metrics", &[]).await.body;
        text.contains(cut).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    while let Some(frame) = stream.next().await {
        seen.extend(frame.is_logged().then(|| frame.row()));
    }
    assert!(seen.len() < 400, "it was cut before the end");
    let mut again = app.resume("big", &stream.last_id).await;
    seen.extend(again.rows(400 - seen.len()).await);
    assert_eq!(seen, (1..=400).collect::<Vec<i64>>());
}

/// The number of queries on the table that are running.
async fn running(database: &Database) -> i64 {
    let sql = "select count(*) from pg_stat_activity where datname = current_database()
               and application_name = 'event-piper' and state = 'active'";
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn one_callers_queries_take_a_part_of_the_turns_and_end_when_nobody_waits() {
    let (database, app, signer) = app_with(|settings| settings.gateway.log.pool = 4).await;
    fill(&database, "s", 1, 10).await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(unread(app.address, "/streams/s", &bad).await);
    }
    eventually("the others wait", async || {
        (app.metric("queries_waiting").await == 10).then_some(())
    })
    .await;
    let half_run = async || (running(&database).await == 2).then_some(());
    eventually("two of four queries run", half_run).await;
    let reading = unread(app.address, "/streams/s", &good).await;
    eventually("a query of another caller runs", async || {
        (running(&database).await == 3).then_some(())
    })
    .await;
    held.into_iter().for_each(reset);
    eventually("no query waits", async || {
        (app.metric("queries_waiting").await == 0 && running(&database).await == 1).then_some(())
    })
    .await;
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(whole_page(reading).await["version"], 1);
}

/// Amending reads the event and its amendments.
#[tokio::test]
async fn who_amends_reads_in_its_own_turns() {
    let (database, app, signer) = app_with(|settings| settings.gateway.log.pool = 4).await;
    fill(&database, "s", 1, 10).await;
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let amend = |name: &str| {
        let (address, proof) = (app.address, token(&signer, name, 3600));
        let event = r#"{"type":"t","subscriber":"big","payload":{},"amends":1}"#;
        tokio::spawn(
            async move { post(address, "/events", &[("Authorization", &proof)], event).await },
        )
    };
    let bad: Vec<_> = (0..12).map(|_| amend("bad")).collect();
    let most_wait = async || (app.metric("queries_waiting").await == 10).then_some(());
    eventually("most of them wait", most_wait).await;
    let half_run = async || (running(&database).await == 2).then_some(());
    eventually("two of four queries run", half_run).await;
    let good = amend("good");
    let another_runs = async || (running(&database).await == 3).then_some(());
    eventually("a query of another caller runs", another_runs).await;
    lock.batch_execute("rollback").await.unwrap();
    for amending in bad.into_iter().chain([good]) {
        assert_eq!(amending.await.unwrap().status, 201);
    }
}

/// Closes a connection as a crashed client does, with a reset.
fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

#[tokio::test]
async fn a_caller_that_asks_and_leaves_has_no_more_than_its_turns() {
    let (database, app, signer) = app_with(|settings| settings.gateway.log.pool = 4).await;
    fill(&database, "s", 1, 10).await;
    let bad = token(&signer, "bad", 3600);
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table events in access exclusive mode").await.unwrap();
    let ask = async |count| {
        let asking = (0..count).map(|_| unread(app.address, "/streams/s", &bad));
        futures::future::join_all(asking).await
    };
    let first = ask(2).await;
    eventually("both have a turn", async || (running(&database).await == 2).then_some(())).await;
    first.into_iter().for_each(reset);
    let _second = ask(6).await;
    let most_wait = async || (app.metric("queries_waiting").await >= 4).then_some(());
    eventually("most of the others wait", most_wait).await;
    // The first queries are cancelled, and others take their place.
    for _ in 0..20 {
        assert!(running(&database).await <= 2, "half of four");
    }
    lock.batch_execute("rollback").await.unwrap();
    let nobody_waits = async || (app.metric("queries_waiting").await == 0).then_some(());
    eventually("the others are read", nobody_waits).await;
}

/// The page that is received on a connection that stays open.
async fn whole_page(mut socket: TcpStream) -> Value {
    use tokio::io::AsyncReadExt;
    let mut text = Vec::new();
    let read = async {
        loop {
            assert_ne!(socket.read_buf(&mut text).await.unwrap(), 0);
            let page = text.windows(4).position(|it| it == b"\r\n\r\n").map(|end| &text[end + 4..]);
            if let Some(page) = page.and_then(|page| serde_json::from_slice(page).ok()) {
                return page;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("a page comes")
}
