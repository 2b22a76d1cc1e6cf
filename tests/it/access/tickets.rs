//! Tickets: a single use, and resuming.

use serde_json::json;

use super::issuer::{app_with, bearer, claims, claims_with, seconds};
use crate::support::{
    app::App,
    eventually,
    postgres::Database,
    sse_client::{Answer, Stream, ask},
};

const KEY: &str = "a key that all the instances have";

async fn give(app: &App, query: &str, token: &str) -> Answer {
    let headers = [("Authorization", &*bearer(token)), ("Content-Length", "0")];
    ask(app.address, "POST", &format!("/tickets{query}"), &headers).await
}

async fn ticket(app: &App, query: &str, token: &str) -> String {
    let answer = give(app, query, token).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

async fn open(app: &App, ticket: &str, more: &str, headers: &[(&str, &str)]) -> Stream {
    let path = format!("/events?ticket={ticket}{more}");
    Stream::open(app.address, &path, headers).await.joined().await
}

async fn insert(database: &Database) {
    let row = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(row).await.unwrap();
}

#[tokio::test]
async fn a_ticket_opens_one_stream_and_resumes_it() {
    let (database, app, signer) = app_with(|_| {}).await;
    let ticket = ticket(&app, "", &signer.token(&claims("toto"))).await;
    let mut stream = open(&app, &ticket, "", &[]).await;
    insert(&database).await;
    let seen = stream.event().await.id.unwrap();
    drop(stream);

    let path = format!("/events?ticket={ticket}");
    let again = app.get(&path, &[]).await;
    assert_eq!(again.status, 401, "{}", again.body);
    assert!(again.json()["detail"].as_str().unwrap().contains("has been used"));
    assert_eq!(app.get(&path, &[("Last-Event-ID", " ")]).await.status, 401);
    let forged = format!("{path}&lastEventId={seen}");
    assert_eq!(app.get(&forged, &[]).await.status, 401, "a query parameter is not the header");

    insert(&database).await;
    let mut back = open(&app, &ticket, "", &[("Last-Event-ID", &seen)]).await;
    assert_eq!(back.event().await.row(), 2);
}

#[tokio::test]
async fn instances_with_the_same_key_accept_a_ticket() {
    let turn = |settings: &mut crate::support::app::Settings| {
        settings.access.ticket_keys = vec![KEY.into()];
    };
    let (_one, first, signer) = app_with(turn).await;
    let (_two, second, _) = app_with(turn).await;
    let (_three, stranger, _) = app_with(|_| {}).await;
    let ticket = ticket(&first, "", &signer.token(&claims("toto"))).await;
    let path = format!("/events?ticket={ticket}");
    assert_eq!(stranger.get(&path, &[]).await.status, 401);
    open(&second, &ticket, "", &[]).await;
    open(&first, &ticket, "", &[("Last-Event-ID", "0")]).await;
}

#[tokio::test]
async fn a_ticket_grants_only_following() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let rights = json!({"event_piper": {
        "read": ["toto", "team-*"], "write": "*", "console": true, "metrics": true, "all": true,
    }});
    let token = signer.token(&claims_with("toto", &rights));
    let whole = ticket(&app, "", &token).await;
    open(&app, &whole, "&consumer=team-a&consumer=toto", &[]).await;
    let narrow = ticket(&app, "?consumer=team-a&consumer=team-b", &token).await;
    let toto = format!("/events?ticket={narrow}&consumer=toto");
    assert_eq!(app.get(&toto, &[]).await.status, 403, "a refused request does not use the ticket");
    open(&app, &narrow, "&consumer=team-b", &[]).await;

    assert_eq!(give(&app, "?consumer=titi", &token).await.status, 403);
    assert_eq!(give(&app, "", "bad").await.status, 401);
    let other = ticket(&app, "", &token).await;
    for path in ["/events/1", "/metrics", "/"] {
        let answer = app.get(&format!("{path}?ticket={other}"), &[]).await;
        assert_eq!(answer.status, 401, "{path}");
    }
    let path = format!("/tickets?ticket={other}");
    let more = ask(app.address, "POST", &path, &[("Content-Length", "0")]).await;
    assert_eq!(more.status, 401, "a ticket cannot issue a ticket");
    let both = format!("/events?ticket={other}");
    let both = app.get(&both, &[("Authorization", &bearer(&token))]).await;
    assert_eq!(both.status, 400);
    let twice = format!("/events?ticket={other}&ticket={other}");
    assert_eq!(app.get(&twice, &[]).await.status, 400);
}

#[tokio::test]
async fn a_ticket_expires_with_its_token() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let token = signer.token(&claims_with("toto", &json!({"exp": seconds() + 3})));
    let ticket = ticket(&app, "", &token).await;
    let mut stream = open(&app, &ticket, "", &[]).await;
    assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"expired"}"#);
    let path = format!("/events?ticket={ticket}");
    let late = app.get(&path, &[("Last-Event-ID", "0")]).await;
    assert_eq!(late.status, 401);
    assert!(late.json()["detail"].as_str().unwrap().contains("expired"));
}

#[tokio::test]
async fn tokens_and_tickets_are_not_interchangeable() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let token = signer.token(&claims("toto"));
    assert_eq!(app.get(&format!("/events?ticket={token}"), &[]).await.status, 401);
    let ticket = ticket(&app, "", &token).await;
    assert_eq!(app.get("/events", &[("Authorization", &bearer(&ticket))]).await.status, 401);
}

#[tokio::test]
async fn one_of_many_concurrent_uses_succeeds() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let ticket = ticket(&app, "", &signer.token(&claims("toto"))).await;
    let path = format!("/events?ticket={ticket}");
    let in_at_once = async || {
        let opening = (0..10).map(|_| Stream::status(app.address, &path));
        futures::future::join_all(opening).await
    };
    let answers = in_at_once().await;
    let got_in = answers.iter().filter(|status| **status == 200).count();
    assert_eq!(got_in, 1, "{answers:?}");
    eventually("tickets are counted", async || {
        (app.metric("tickets_total").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_open_mode_has_no_tickets() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let answer = ask(app.address, "POST", "/tickets", &[("Content-Length", "0")]).await;
    assert_eq!(answer.status, 409);
}
