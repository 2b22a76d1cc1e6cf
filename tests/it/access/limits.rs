//! Limits of failed authentications: guessing is slow, and does not affect other clients.

use futures::future::join_all;

use super::issuer::{app_with, bearer, claims};
use crate::support::{app::Settings, sse_client::Stream};

#[tokio::test]
async fn failures_delay_only_invalid_credentials() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let good = bearer(&signer.token(&claims("toto")));
    let from = async |address: &str, token: &str, path: &str| {
        app.get(path, &[("Authorization", token), ("X-Forwarded-For", address)]).await
    };
    let guesses = (0..60).map(|_| from("192.0.2.1", "Bearer guess", "/events"));
    let answers = join_all(guesses).await;
    let refused = answers.iter().filter(|answer| answer.status == 401).count();
    let beyond: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused >= 20 && !beyond.is_empty(), "{refused} and {}", beyond.len());
    assert_eq!(refused + beyond.len(), answers.len(), "a guess is never asked to retry");
    assert!(beyond.iter().all(|it| it.headers["retry-after"].parse::<u32>().unwrap() >= 1));
    assert!(app.metric("denied_total{reason=\"throttled\"}").await > 0);

    assert_eq!(
        from("192.0.2.1", &good, "/events/1").await.status,
        404,
        "valid credentials are accepted"
    );
    let headers = [("Authorization", &*good), ("X-Forwarded-For", "192.0.2.1")];
    Stream::open(app.address, "/events", &headers).await.joined().await;

    let flood = (0..60).map(|_| from("192.0.2.2, 192.0.2.1", "Bearer guess", "/events/1"));
    let flood = join_all(flood).await;
    assert!(
        flood.iter().any(|it| it.status == 429),
        "addresses before the last hop are not trusted"
    );
    assert_eq!(from("192.0.2.2", "Bearer guess", "/events/1").await.status, 401);
}

#[tokio::test]
async fn only_a_proxy_can_name_another_address() {
    let turn = |settings: &mut Settings| {
        settings.access.trusted_proxies = "10.0.0.1".parse().unwrap();
    };
    let (_database, app, _signer) = app_with(turn).await;
    let guess = async |guess: u8| {
        let address = format!("192.0.2.{guess}");
        let headers = [("Authorization", "Bearer guess"), ("X-Forwarded-For", &*address)];
        app.get("/events/1", &headers).await.status
    };
    let answers = join_all((0..40).map(guess)).await;
    assert!(answers.contains(&429), "all requests count for one address: {answers:?}");
}
