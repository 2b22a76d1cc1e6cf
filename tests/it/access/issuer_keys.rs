//! The keys of issuers: published, replaced, withdrawn, and not available.

use std::time::Duration;

use event_piper::access::jwks::Source;
use jsonwebtoken::Algorithm;
use serde_json::json;

use super::issuer::{Issuer, Signer, bearer, believing, claims, follow, with};
use crate::support::{
    app::App,
    eventually,
    postgres::Database,
    sse_client::{self, Stream},
};

#[tokio::test]
async fn new_keys_are_fetched_and_cached_keys_survive_outages() {
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "ES256"));
    let mut issuer = Issuer::start(&[&old]).await;
    let database = Database::create().await;
    let app =
        App::start_with(&database.url(), believing(issuer.source(), &[Algorithm::ES256])).await;
    follow(&app, "/events", &old.token(&claims("toto"))).await;
    assert_eq!(issuer.asked(), 1);

    issuer.publish(&[&old, &new]);
    let token = new.token(&claims("toto"));
    let asking = (0..20).map(|_| follow(&app, "/events", &token));
    futures::future::join_all(asking).await;
    assert_eq!(issuer.asked(), 2, "all requests share one fetch");

    let unknown = async |id: u8| {
        let unknown = Signer::new(&id.to_string(), "ES256");
        with(&app, "/events/1", &unknown.token(&claims("toto"))).await.status
    };
    let answers = futures::future::join_all((0..50).map(unknown)).await;
    assert!(answers.iter().all(|status| [401, 429, 503].contains(status)), "{answers:?}");
    assert!(answers.contains(&401), "a key that a fetch did not find is unknown");
    assert!(issuer.asked() <= 6, "{} times: not for each of them", issuer.asked());

    issuer.fail();
    follow(&app, "/events", &old.token(&claims("toto"))).await;
    issuer.stop();
    follow(&app, "/events", &token).await;
}

/// A gateway that refreshes the keys of this issuer all the time, and its database.
async fn refreshing(issuer: &Issuer) -> (Database, App) {
    let database = Database::create().await;
    let mut settings = believing(issuer.source(), &[Algorithm::ES256]);
    settings.access.refresh = Duration::from_millis(100);
    settings.access.ticket_keys = vec!["a key that all the instances have".into()];
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

async fn ticket(app: &App, token: &str) -> String {
    let headers = [("Authorization", &*bearer(token))];
    let given = sse_client::post(app.address, "/tickets", &headers, "").await;
    given.json()["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_withdrawn_key_ends_streams_and_tickets() {
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "ES256"));
    let issuer = Issuer::start(&[&old, &new]).await;
    let (_database, app) = refreshing(&issuer).await;
    let token = old.token(&claims("toto"));
    let mut stream = follow(&app, "/events", &token).await;
    let mut stays = follow(&app, "/events", &new.token(&claims("toto"))).await;
    let ticket = ticket(&app, &token).await;
    let path = format!("/events?ticket={ticket}");
    let mut ticketed = Stream::open(app.address, &path, &[]).await.joined().await;

    issuer.publish(&[&new]);
    for stream in [&mut stream, &mut ticketed] {
        assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"revoked"}"#);
        assert_eq!(stream.next().await, None);
    }
    assert_eq!(with(&app, "/events", &token).await.status, 401);
    let (_other_database, other) = refreshing(&issuer).await;
    for instance in [&app, &other] {
        let back = instance.get(&path, &[("Last-Event-ID", "0")]).await;
        assert_eq!(back.status, 401, "{}", back.body);
        assert!(back.json()["detail"].as_str().unwrap().contains("withdrawn"), "{}", back.body);
    }
    stays.signal("heartbeat").await;
    stays.signal("heartbeat").await;

    // The same key under another id is still the same key.
    let mut renamed = new;
    renamed.id = "renamed".into();
    issuer.publish(&[&renamed]);
    let token = renamed.token(&claims("toto"));
    let known = async || (with(&app, "/events/1", &token).await.status == 404).then_some(());
    eventually("the new name is known", known).await;
    stays.signal("heartbeat").await;
}

#[tokio::test]
async fn streams_and_tickets_survive_an_outage_of_the_issuer() {
    let signer = Signer::new("a", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let (_database, app) = refreshing(&issuer).await;
    let token = signer.token(&claims("toto"));
    let mut stream = follow(&app, "/events", &token).await;
    let ticket = ticket(&app, &token).await;
    issuer.fail();
    let asked = issuer.asked();
    eventually("refreshes have failed", async || (issuer.asked() > asked + 2).then_some(())).await;
    stream.signal("heartbeat").await;
    let path = format!("/events?ticket={ticket}");
    Stream::open(app.address, &path, &[]).await.joined().await;
    // An instance that never fetched the keys accepts a ticket that another one has signed.
    let (_other_database, other) = refreshing(&issuer).await;
    let back = [("Last-Event-ID", "0")];
    Stream::open(other.address, &path, &back).await.joined().await;
}

#[tokio::test]
async fn a_key_may_be_replaced_under_the_same_id() {
    for name in ["same", ""] {
        let signer = || Signer::new(name, "ES256");
        let (old, new) = (signer(), signer());
        let issuer = Issuer::start(&[&old]).await;
        let database = Database::create().await;
        let settings = believing(issuer.source(), &[Algorithm::ES256]);
        let app = App::start_with(&database.url(), settings).await;
        follow(&app, "/events", &old.token(&claims("toto"))).await;
        issuer.publish(&[&new]);
        follow(&app, "/events", &new.token(&claims("toto"))).await;
        assert_eq!(issuer.asked(), 2, "{name:?}");
        assert_eq!(with(&app, "/events", &old.token(&claims("toto"))).await.status, 401);
        assert!(issuer.asked() <= 3, "{} times", issuer.asked());
    }
}

/// Anyone can send tokens with unknown key ids.
#[tokio::test]
async fn unknown_keys_do_not_delay_new_keys_for_long() {
    let old = Signer::new("old", "ES256");
    let issuer = Issuer::start(&[&old]).await;
    let database = Database::create().await;
    let app =
        App::start_with(&database.url(), believing(issuer.source(), &[Algorithm::ES256])).await;
    follow(&app, "/events", &old.token(&claims("toto"))).await;
    let mut published = vec![old];
    for round in 0..3 {
        let unknown = Signer::new(&format!("unknown {round}"), "ES256").token(&claims("mallory"));
        let status = with(&app, "/events/1", &unknown).await.status;
        assert!([401, 429, 503].contains(&status), "{status}");
        let new = Signer::new(&format!("new {round}"), "ES256");
        let token = new.token(&claims("toto"));
        published.push(new);
        issuer.publish(&published.iter().collect::<Vec<_>>());
        eventually("the new key is accepted", async || {
            let status = with(&app, "/events/1", &token).await.status;
            assert_ne!(status, 401, "a valid token is never rejected as invalid");
            (status == 404).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn without_keys_a_stream_is_asked_to_retry() {
    let signer = Signer::new("a", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    issuer.fail();
    let database = Database::create().await;
    let app =
        App::start_with(&database.url(), believing(issuer.source(), &[Algorithm::ES256])).await;
    let token = signer.token(&claims("toto"));
    let mut later =
        Stream::open(app.address, "/events", &[("Authorization", &bearer(&token))]).await;
    assert!(later.next().await.unwrap().retry.is_some());
    assert_eq!(later.next().await, None);
    assert_eq!(with(&app, "/events/1", &token).await.status, 503);
}

#[tokio::test]
async fn an_issuers_key_may_be_in_a_file() {
    let signer = Signer::new("any", "EdDSA");
    let file = std::env::temp_dir().join(format!("ep-key-{:016x}", fastrand::u64(..)));
    std::fs::write(&file, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let database = Database::create().await;
    let settings = believing(Source::File(file.clone()), &[Algorithm::EdDSA]);
    let app = App::start_with(&database.url(), settings).await;
    follow(&app, "/events", &signer.token(&claims("toto"))).await;
    std::fs::remove_file(file).unwrap();
}
