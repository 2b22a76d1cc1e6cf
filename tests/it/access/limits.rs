//! Guessing is slow, and costs nobody else anything.

use super::issuer::{app_with, bearer, claims};
use crate::support::{app::Settings, sse_client::Stream};

#[tokio::test]
async fn who_is_wrong_too_often_is_not_listened_to_for_a_while_and_others_are() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let good = bearer(&signer.token(&claims("toto")));
    let from = async |address: &str, token: &str, path: &str| {
        app.get(path, &[("Authorization", token), ("X-Forwarded-For", address)]).await
    };
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(from("192.0.2.1", "Bearer guess", "/events/1").await.status);
    }
    assert_eq!(answers[..20], [401; 20]);
    assert!(answers.contains(&429), "{answers:?}");
    let silenced = from("192.0.2.1", &good, "/events/1").await;
    assert_eq!(silenced.status, 429, "a right guess is not told either");
    assert!(silenced.headers["retry-after"].parse::<u32>().unwrap() >= 1);

    let headers = [("Authorization", &*good), ("X-Forwarded-For", "192.0.2.1")];
    let mut stream = Stream::open(app.address, "/events", &headers).await;
    assert!(stream.next().await.unwrap().retry.is_some(), "an EventSource comes back later");
    assert_eq!(stream.next().await, None);

    assert_eq!(from("192.0.2.2", &good, "/events/1").await.status, 404);
    let forged = from("192.0.2.2, 192.0.2.1", &good, "/events/1").await;
    assert_eq!(forged.status, 429, "who is before the last hop is hearsay");
    assert!(app.metric("denied_total{reason=\"throttled\"}").await > 0);
}

#[tokio::test]
async fn whoever_is_no_proxy_cannot_say_that_it_asks_for_somebody_else() {
    let turn = |settings: &mut Settings| {
        settings.access.trusted_proxies = "10.0.0.1".parse().unwrap();
    };
    let (_database, app, _signer) = app_with(turn).await;
    let mut answers = Vec::new();
    for guess in 0..40 {
        let address = format!("192.0.2.{guess}");
        let headers = [("Authorization", "Bearer guess"), ("X-Forwarded-For", &*address)];
        answers.push(app.get("/events/1", &headers).await.status);
    }
    assert!(answers.contains(&429), "all of them are one address: {answers:?}");
}
