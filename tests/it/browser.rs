//! The console and the README's example page in a real browser.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use axum::{Router, response::Html, routing::get};
use serde_json::json;
use tokio::{net::TcpListener, time::sleep};

use crate::support::{app::App, browser::Browser, killable::Killable, postgres::Database};

const EXAMPLE: &str = include_str!("../../examples/browser.html");

/// The rows on the page, oldest first.
const ROWS: &str = "return [...document.querySelectorAll('#events > [data-id]')].map(row => +row.dataset.id).reverse()";
const STATE: &str = "return document.documentElement.dataset.state";
const STATUS: &str = "return document.querySelector('#status').textContent";

#[test]
fn the_readme_contains_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(readme) = fs::read_to_string(root.join("README.md")) else { return };
    assert!(readme.contains(EXAMPLE.trim_end()), "README.md and examples/browser.html differ");
}

#[tokio::test]
async fn the_example_of_the_readme_shows_an_event() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let page = EXAMPLE.replace("127.0.0.1:4000", &app.address.to_string());
    let elsewhere = serve(page).await;
    browser.goto(&format!("http://{elsewhere}/")).await;
    browser.until("return source.readyState", json!(1)).await;
    insert(&database, 1).await;
    let shown = "return [...document.querySelectorAll('li')].map(row => row.textContent)";
    browser.until(shown, json!([r#"1: {"n":1}"#])).await;
    app.stop().await;
}

#[tokio::test]
async fn the_page_gets_every_event_once_across_restarts() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let mut app = App::start(&database.url()).await;
    let address = app.address;
    browser.goto(&format!("http://{address}/?consumer=toto")).await;
    browser.until(STATE, json!("live")).await;
    insert(&database, 3).await;
    browser.until(ROWS, json!([1, 2, 3])).await;

    let writing = write_in_background(&database, 150);
    for _ in 0..2 {
        app.stop().await;
        browser.until(STATE, json!("reconnecting")).await;
        browser.until(STATUS, json!("Reconnecting")).await;
        app = App::start_at(&database.url(), address).await;
        browser.until(STATE, json!("live")).await;
    }
    writing.await.unwrap();
    insert(&database, 1).await;
    browser.until(ROWS, json!((1..=154).collect::<Vec<_>>())).await;
    browser.until("return document.querySelector('#received').textContent", json!("154")).await;
    browser.until("return document.querySelector('#cursor').textContent", json!("154")).await;
    app.stop().await;
}

#[tokio::test]
async fn the_page_gets_every_event_once_across_crashes() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let mut gateway = Killable::start(&database.url(), None).await;
    let address = gateway.address;
    browser.goto(&format!("http://{address}/?consumer=toto")).await;
    browser.until(STATE, json!("live")).await;
    let mut count = 0;
    for _ in 0..2 {
        insert(&database, 2).await;
        count += 2;
        browser.until(ROWS, json!((1..=count).collect::<Vec<_>>())).await;
        gateway.kill().await;
        browser.until(STATE, json!("reconnecting")).await;
        insert(&database, 2).await;
        count += 2;
        gateway = Killable::start(&database.url(), Some(address)).await;
        browser.until(STATE, json!("live")).await;
    }
    browser.until(ROWS, json!((1..=count).collect::<Vec<_>>())).await;
}

#[tokio::test]
async fn the_form_follows_and_replays() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    insert(&database, 4).await;
    browser.goto(&format!("http://{}/", app.address)).await;
    browser.until(STATE, json!("idle")).await;
    browser.until(ROWS, json!([])).await;

    browser.fill("#consumer", "toto").await;
    browser.click("#follow").await;
    browser.until(STATE, json!("live")).await;
    browser.until(ROWS, json!([])).await;
    let line = "return document.querySelector('#insert').textContent";
    let line = browser.eval(line).await.as_str().unwrap().to_owned();
    database.connect().await.batch_execute(&line).await.unwrap();
    browser.until(ROWS, json!([5])).await;

    browser.click(".segments label:nth-child(2)").await;
    browser.click("#follow").await;
    browser.until(ROWS, json!([1, 2, 3, 4, 5])).await;
    browser.until(STATE, json!("live")).await;
    browser.until("return location.search", json!("?consumer=toto&from=0")).await;

    browser.goto(&format!("http://{}/?consumer=toto&from=3", app.address)).await;
    browser.until(ROWS, json!([4, 5])).await;
    app.stop().await;
}

#[tokio::test]
async fn the_page_shows_every_type_and_payload_unchanged() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    browser.goto(&format!("http://{}/?consumer=toto", app.address)).await;
    browser.until(STATE, json!("live")).await;
    let script = "<img src=x onerror=\"document.title='broken in'\">";
    let payload = r#"{"big": 12345678901234567890.12345, "html": "<b>&amp;</b>"}"#;
    let writer = database.connect().await;
    let row = "insert into events (type, subscriber, payload) values ($1, 'toto', $2::text::jsonb)";
    for (kind, payload) in [("never heard of", "[]"), (script, payload)] {
        writer.execute(row, &[&kind, &payload]).await.unwrap();
    }
    browser.until(ROWS, json!([1, 2])).await;
    let kinds = "return [...document.querySelectorAll('.type')].map(type => type.textContent)";
    browser.until(kinds, json!([script, "never heard of"])).await;
    browser.click("[data-id='2'] summary").await;
    let expected = "{\n  \"big\": 12345678901234567890.12345,\n  \"html\": \"<b>&amp;</b>\"\n}";
    let body = "return document.querySelector(\"[data-id='2'] pre\")?.textContent";
    browser.until(body, json!(expected)).await;
    browser.until("return document.title", json!("toto · Live · EventPiper")).await;
    app.stop().await;
}

#[tokio::test]
async fn the_page_shows_the_reason_of_a_refusal() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    browser.goto(&format!("http://{}/?consumer=toto&from=yesterday", app.address)).await;
    browser.until(STATE, json!("failed")).await;
    let problem = browser.eval("return document.querySelector('#problem').textContent").await;
    assert!(problem.as_str().unwrap().contains("\"yesterday\" is not a cursor"), "{problem}");
    app.stop().await;
}

#[tokio::test]
async fn the_page_shows_a_gap_and_continues() {
    let Some(browser) = Browser::open().await else { return };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    insert(&database, 1).await;
    browser.goto(&format!("http://{}/?consumer=toto&from=1000", app.address)).await;
    let note = "return document.querySelector('.note.bad')?.textContent";
    browser
        .until(note, json!("some events after 1000 are not available: the log was replaced"))
        .await;
    browser.until(STATE, json!("live")).await;
    insert(&database, 1).await;
    browser.until(ROWS, json!([2])).await;
    app.stop().await;
}

/// Serves a page from an origin other than the gateway's.
async fn serve(page: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/", get(async || Html(page)));
    tokio::spawn(async { axum::serve(listener, routes).await });
    address
}

async fn insert(database: &Database, count: i64) {
    let insert = "insert into events (type, subscriber, payload)
                  select 'insert', 'toto', jsonb_build_object('n', n) from generate_series(1, $1::bigint) n";
    database.connect().await.execute(insert, &[&count]).await.unwrap();
}

/// Writes events one after the other, for about as long as the restarts of the gateway take.
fn write_in_background(database: &Database, count: u32) -> tokio::task::JoinHandle<()> {
    let connecting = database.url();
    tokio::spawn(async move {
        let writer = crate::support::postgres::connect(&connecting).await;
        let insert =
            "insert into events (type, subscriber, payload) values ('insert', 'toto', '1')";
        for _ in 0..count {
            writer.batch_execute(insert).await.unwrap();
            sleep(Duration::from_millis(30)).await;
        }
    })
}
