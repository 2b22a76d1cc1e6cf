//! Imports of lines of JSON.

use std::{fmt::Write, net::SocketAddr};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    app::App,
    eventually,
    postgres::Database,
    sse_client::{Answer, post, whole},
};

const LINES: [(&str, &str); 1] = [("Content-Type", "application/x-ndjson")];

fn lines(range: std::ops::Range<u32>) -> String {
    range.fold(String::new(), |mut text, n| {
        let uid = format!("e5a2c0de-0000-4000-8000-{n:012}");
        let line = json!({ "type": "t", "subscriber": "toto", "payload": n, "uid": uid });
        writeln!(text, "{line}").unwrap();
        text
    })
}

fn last(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(answer.body.lines().last().unwrap()).unwrap()
}

/// Begins an import of two batches with these credentials. Sends the first batch, and returns the second one.
pub(crate) async fn begin(address: SocketAddr, credentials: &str) -> (TcpStream, String) {
    let batch = "{\"type\":\"t\",\"subscriber\":\"toto\",\"payload\":1}\n".repeat(500);
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {credentials}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        2 * batch.len()
    );
    let mut import = TcpStream::connect(address).await.unwrap();
    import.write_all(format!("{head}{batch}").as_bytes()).await.unwrap();
    (import, batch)
}

/// Reads the last report of the import.
pub(crate) async fn end(import: TcpStream) -> Value {
    last(&whole(import).await.unwrap())
}

async fn payloads(database: &Database) -> Vec<i32> {
    let sql = "select payload::int from events order by id";
    let rows = database.connect().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn imports_lines_in_order_and_idempotently() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let answer = post(app.address, "/events", &LINES, &lines(0..3000)).await;
    assert_eq!(last(&answer), json!({ "lines": 3000, "id": 3000, "done": true }));
    let again = post(app.address, "/events", &LINES, &lines(0..3500)).await;
    assert_eq!(last(&again)["done"], true, "{}", again.body);
    assert_eq!(payloads(&database).await, (0..3500).collect::<Vec<_>>());
    let empty = post(app.address, "/events", &LINES, "\n \n").await;
    assert_eq!(last(&empty), json!({ "lines": 2, "id": null, "done": true }));
}

#[tokio::test]
async fn an_invalid_line_ends_the_import_with_a_report() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let body = lines(0..700) + "{\"type\":\"\"}\n" + &lines(700..800);
    let told = last(&post(app.address, "/events", &LINES, &body).await);
    assert_eq!((&told["lines"], &told["line"]), (&json!(500), &json!(701)), "{told}");
    assert_eq!(told["error"]["status"], 400);
    assert_eq!(payloads(&database).await, (0..500).collect::<Vec<_>>());
    let answer = post(app.address, "/events", &LINES, &lines(0..800)).await;
    assert_eq!(last(&answer)["done"], true, "{}", answer.body);
    assert_eq!(payloads(&database).await, (0..800).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_aborted_import_has_written_whole_batches() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut socket = TcpStream::connect(app.address).await.unwrap();
    let head = "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                Content-Length: 10000000\r\n\r\n";
    let part = lines(0..1200);
    socket.write_all(format!("{head}{}", &part[..part.len() - 10]).as_bytes()).await.unwrap();
    eventually("two batches are written", async || {
        (payloads(&database).await.len() == 1000).then_some(())
    })
    .await;
    socket.shutdown().await.unwrap();
    let told = last(&whole(socket).await.unwrap());
    assert_eq!((&told["lines"], &told["error"]["status"]), (&json!(1000), &json!(400)), "{told}");
    let answer = post(app.address, "/events", &LINES, &lines(0..1300)).await;
    assert_eq!(last(&answer)["done"], true, "{}", answer.body);
    assert_eq!(payloads(&database).await, (0..1300).collect::<Vec<_>>());
}

#[tokio::test]
async fn imports_duplicate_lines_once_and_accepts_a_key() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let twice = lines(0..2) + &lines(0..1);
    let told = last(&post(app.address, "/events", &LINES, &twice).await);
    assert_eq!(told, json!({ "lines": 3, "id": 1, "done": true }));
    let differing = twice.replacen("\"payload\":0", "\"payload\":7", 1);
    let told = last(&post(app.address, "/events", &LINES, &differing).await);
    assert_eq!((&told["line"], &told["error"]["status"]), (&json!(3), &json!(409)), "{told}");

    let named = [LINES[0], ("Idempotency-Key", "readings of May")];
    let line = |n: u32| json!({ "type": "t", "subscriber": "toto", "payload": n }).to_string();
    let body = format!("\u{feff}{}\n\n{}\n", line(8), line(8));
    for _ in 0..2 {
        let told = last(&post(app.address, "/events", &named, &body).await);
        assert_eq!(told["done"], true, "{told}");
    }
    assert_eq!(payloads(&database).await, [0, 1, 8, 8]);
}

/// The gateway refuses a line that is already too long without waiting for its end.
#[tokio::test]
async fn rejects_a_line_without_an_end() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut socket = TcpStream::connect(app.address).await.unwrap();
    let head = "POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n\
                Content-Length: 100000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    // Until the gateway stops reading.
    while socket.write_all(&[b'x'; 8 << 10]).await.is_ok() {}
    let told = last(&whole(socket).await.unwrap());
    assert_eq!((&told["line"], &told["error"]["status"]), (&json!(1), &json!(413)), "{told}");
}
