//! Tokens: valid and invalid ones, and what they grant.

use std::num::NonZeroU32;

use event_piper::access::Modes;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::issuer::{
    Issuer, NAME, Signer, app_with, bearer, believing, claims, claims_with, follow, seconds, with,
};
use crate::{
    import,
    support::{app::App, eventually, postgres::Database, sse_client::Stream},
};

async fn insert(database: &Database, consumer: &str) {
    let row = "insert into events (type, subscriber, payload) values ('t', $1, '1')";
    database.connect().await.execute(row, &[&consumer]).await.unwrap();
}

#[tokio::test]
async fn every_listed_algorithm_is_accepted() {
    let signers: Vec<_> = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
        .map(|algorithm| Signer::new(algorithm, algorithm))
        .into();
    let issuer = Issuer::start(&signers.iter().collect::<Vec<_>>()).await;
    let algorithms =
        [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    let database = Database::create().await;
    let app = App::start_with(&database.url(), believing(issuer.source(), &algorithms)).await;
    for signer in &signers {
        follow(&app, "/events", &signer.token(&claims("toto"))).await;
    }
    assert_eq!(issuer.asked(), 1, "the keys are cached");
}

#[tokio::test]
async fn an_invalid_token_is_a_401() {
    let rsa = Signer::new("rsa", "RS256");
    let issuer = Issuer::start(&[&rsa]).await;
    let database = Database::create().await;
    let mut settings = believing(issuer.source(), &[Algorithm::RS256]);
    // The requests come through a proxy, since one address would soon be limited.
    settings.access.trusted_proxies = "127.0.0.1".parse().unwrap();
    let app = App::start_with(&database.url(), settings).await;
    let good = rsa.token(&claims("toto"));
    follow(&app, "/events", &good).await;

    let now = seconds();
    let says = |more: &Value| rsa.token(&claims_with("toto", more));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let other = Signer::new("other", "ES256");
    let own_key = json!({"alg": "ES256", "kid": "other", "jwk": other.jwk()});
    let cases: Vec<(&str, String, &str)> = vec![
        ("expired", says(&json!({"exp": now - 1})), "expired"),
        ("without an end", says(&json!({"exp": null})), "no exp"),
        ("with an end that is no time", says(&json!({"exp": "tomorrow"})), "exp"),
        ("not valid yet", says(&json!({"nbf": now + 3600})), "not valid yet"),
        ("of another issuer", says(&json!({"iss": "https://evil.example/"})), "issuer"),
        ("of several issuers", says(&json!({"iss": [NAME, "x"]})), "issuer"),
        ("of no issuer", says(&json!({"iss": null})), "issuer"),
        ("for somebody else", says(&json!({"aud": "other"})), "aud"),
        ("for nobody", says(&json!({"aud": null})), "aud"),
        ("with an empty consumer", says(&json!({"sub": ""})), "names no consumer"),
        (
            "with a line break in its consumer",
            says(&json!({"sub": "a\r\nX: y"})),
            "names no consumer",
        ),
        ("with rights that are none", says(&json!({"event_piper": {"read": [7]}})), "event_piper"),
        ("unsigned", Signer::new("", "none").token(&claims("toto")), "not a signed token"),
        (
            "unsigned, in capitals",
            Signer::new("", "none").token_with(&json!({"alg": "NONE"}), &claims("toto")),
            "not a signed token",
        ),
        (
            "signed with the public key as a secret",
            Signer::secret(&rsa.public_bytes()).token(&claims("toto")),
            "HS256",
        ),
        (
            "signed with an unknown key",
            Signer::new("unknown", "RS256").token(&claims("toto")),
            "not published",
        ),
        ("that brings its own key", other.token_with(&own_key, &claims("toto")), "ES256"),
        ("with its signature cut off", format!("{header}.{payload}."), "signature"),
        (
            "with another's signature",
            format!(
                "{header}.{}.{signature}",
                says(&json!({"sub": "titi"})).split('.').nth(1).unwrap()
            ),
            "signature",
        ),
        (
            "with a critical header",
            rsa.token_with(
                &json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": false}),
                &claims("toto"),
            ),
            "critical",
        ),
        ("of four parts", format!("{good}.x"), "not a signed token"),
        ("of one part", "toto".into(), "not a signed token"),
        ("that is empty", String::new(), "not a signed token"),
        ("that is a giant", format!("{good}{}", "A".repeat(9000)), "longer than"),
    ];
    for (what, token, says) in &cases {
        // A different client address for each case.
        let from = format!("10.0.{}.{}", fastrand::u8(..), fastrand::u8(..));
        let headers = [("Authorization", &*bearer(token)), ("X-Forwarded-For", &*from)];
        for path in ["/events", "/events?consumer=toto", "/events/1"] {
            let answer = app.get(path, &headers).await;
            assert_eq!(answer.status, 401, "a token {what} at {path}: {}", answer.body);
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(says), "a token {what}: {detail}");
            assert!(token.is_empty() || !answer.body.contains(token), "{what}: it is echoed");
            assert!(answer.headers["www-authenticate"].contains("invalid_token"), "{what}");
        }
    }
}

#[tokio::test]
async fn without_credentials_everything_is_a_401() {
    let (_database, app, signer) = app_with(|_| {}).await;
    for headers in [&[][..], &[("X-Consumer-Id", "toto")], &[("Cookie", "token=x")]] {
        for path in ["/events?consumer=toto", "/events/1"] {
            let answer = app.get(path, headers).await;
            assert_eq!(answer.status, 401, "{path}: {}", answer.body);
            assert_eq!(answer.headers["www-authenticate"], r#"Bearer realm="event-piper""#);
        }
    }
    let token = signer.token(&claims("toto"));
    let address = format!("/events?access_token={token}");
    let answer = app.get(&address, &[]).await;
    assert_eq!(answer.status, 401);
    assert!(answer.json()["detail"].as_str().unwrap().contains("must not be sent in the address"));
    for basic in ["Basic dG90bzp0b3Rv", "toto", "Bearer", "bearer  "] {
        assert_eq!(app.get("/events", &[("Authorization", basic)]).await.status, 401, "{basic}");
    }
    let twice = bearer(&token);
    let twice = [("Authorization", &*twice), ("Authorization", &*twice)];
    assert_eq!(app.get("/events", &twice).await.status, 400);
    let lower = format!("bearer {token}");
    Stream::open(app.address, "/events", &[("Authorization", &lower)]).await.joined().await;
}

#[tokio::test]
async fn a_token_reads_only_what_it_grants() {
    let (database, app, signer) = app_with(|_| {}).await;
    let rights = json!({"event_piper": {"read": ["toto", "team-*"]}});
    let token = signer.token(&claims_with("toto", &rights));
    let mut own = follow(&app, "/events", &token).await;
    let mut team = follow(&app, "/events?consumer=team-a&consumer=team-b", &token).await;
    for consumer in ["titi", "toto", "team-b"] {
        insert(&database, consumer).await;
    }
    assert_eq!(own.event().await.row(), 2);
    assert_eq!(team.event().await.row(), 3);
    for path in [
        "/events?consumer=titi",
        "/events?consumer=toto&consumer=titi",
        "/events?consumer=*",
        "/events?consumer=team",
    ] {
        assert_eq!(with(&app, path, &token).await.status, 403, "{path}");
    }
    for (id, status) in [(1, 404), (2, 200), (3, 200)] {
        assert_eq!(with(&app, &format!("/events/{id}"), &token).await.status, status, "{id}");
    }
    let narrowed = [("Authorization", &*bearer(&token)), ("X-Consumer-Id", "titi")];
    assert_eq!(
        app.get("/events", &narrowed).await.status,
        403,
        "the header is not accepted as credentials"
    );
    let nobody = signer.token(&claims_with("", &json!({"sub": null})));
    assert_eq!(with(&app, "/events", &nobody).await.status, 400);
    assert_eq!(with(&app, "/events?consumer=toto", &nobody).await.status, 403);
}

#[tokio::test]
async fn metrics_and_the_console_need_their_rights() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.metrics_from = "10.9.9.9".parse().unwrap();
    })
    .await;
    let plain = signer.token(&claims("toto"));
    let rights = json!({"event_piper": {"console": true, "metrics": true}});
    let operator = signer.token(&claims_with("operator", &rights));
    for path in ["/metrics", "/"] {
        assert_eq!(with(&app, path, &plain).await.status, 403, "{path}");
        assert_eq!(with(&app, path, &operator).await.status, 200, "{path}");
        assert_eq!(with(&app, path, "bad").await.status, 401, "{path}");
    }
    assert_eq!(app.get("/metrics", &[]).await.status, 401);
    assert_eq!(app.get("/", &[]).await.status, 200, "the page asks for a token");
    for open in ["/healthz", "/readyz", "/manage/health", "/console.js"] {
        assert_eq!(app.get(open, &[]).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn an_expired_token_ends_its_streams() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let token = signer.token(&claims_with("toto", &json!({"exp": seconds() + 2})));
    let mut stream = follow(&app, "/events", &token).await;
    let closing = stream.signal("$closing").await;
    assert_eq!(closing.data, r#"{"reason":"expired"}"#);
    assert_eq!(stream.next().await, None);
    assert_eq!(with(&app, "/events", &token).await.status, 401);
    let ended = "disconnects_total{reason=\"expired\"}";
    eventually("it is counted", async || (app.metric(ended).await == 1).then_some(())).await;
}

#[tokio::test]
async fn an_expired_token_ends_its_imports() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let claims = json!({"exp": seconds() + 4, "event_piper": {"write": ["toto"]}});
    let token = signer.token(&claims_with("toto", &claims));
    let (mut lines, batch) = import::begin(app.address, &bearer(&token)).await;
    let mut stream = follow(&app, "/events", &token).await;
    assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"expired"}"#);
    lines.write_all(batch.as_bytes()).await.unwrap();
    let told = import::end(lines).await;
    assert!(told["lines"] != 1000 && told["error"]["status"] == 401, "{told}");
}

#[tokio::test]
async fn only_operators_see_the_details_of_readiness() {
    let database = Database::create().await;
    let signer = Signer::new("a", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let settings = || {
        let mut settings = believing(issuer.source(), &[Algorithm::ES256]);
        settings.access.metrics_from = "192.0.2.1".parse().unwrap();
        settings
    };
    let operator = signer.token(&claims_with("o", &json!({"event_piper": {"metrics": true}})));
    let anybody = signer.token(&claims("toto"));

    let app = App::start_with(&database.url(), settings()).await;
    app.gateway.metrics().pumps.enter("http://10.1.2.3/secret", "live");
    assert_eq!(app.get("/readyz", &[]).await.json(), json!({"status": "ready"}));
    for token in [&*anybody, "bad"] {
        assert_eq!(with(&app, "/readyz", token).await.json(), json!({"status": "ready"}));
    }
    let told = with(&app, "/readyz", &operator).await.json();
    assert_eq!(told["pumps"]["http://10.1.2.3/secret"], "live");

    let away = App::launch("postgres://nobody@127.0.0.1:1/nothing", settings()).await;
    let reason = async |token: &str| {
        let answer = with(&away, "/readyz", token).await;
        assert_eq!(answer.status, 503);
        answer.json()["detail"].as_str().unwrap().to_owned()
    };
    eventually("the reason is known", async || {
        reason(&operator).await.contains("PostgreSQL").then_some(())
    })
    .await;
    assert!(!reason(&anybody).await.contains("PostgreSQL"));
}

#[tokio::test]
async fn requests_and_streams_are_limited() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.limits.requests = NonZeroU32::new(5).unwrap();
        settings.access.limits.streams = 2;
    })
    .await;
    let (toto, titi) = (signer.token(&claims("toto")), signer.token(&claims("titi")));
    let _first = follow(&app, "/events", &toto).await;
    let second = follow(&app, "/events", &toto).await;
    let full = async || {
        let mut third =
            Stream::open(app.address, "/events", &[("Authorization", &bearer(&toto))]).await;
        let retry = third.next().await.unwrap().retry;
        (third.next().await.is_none(), retry.is_some())
    };
    assert_eq!(full().await, (true, true), "a 200 that ends: an EventSource comes back");
    follow(&app, "/events", &titi).await;
    drop(second);
    let limited = eventually("the requests are limited", async || {
        Some(with(&app, "/events/1", &toto).await).filter(|answer| answer.status == 429)
    });
    let limited = limited.await;
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(with(&app, "/events/1", &titi).await.status, 404);
}

#[tokio::test]
async fn a_trusted_header_does_not_replace_a_bad_token() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.modes = Modes { trusted_header: true, jwt: true, keys: true };
    })
    .await;
    let toto = ("X-Consumer-Id", "toto");
    Stream::open(app.address, "/events", &[toto]).await.joined().await;
    assert_eq!(app.get("/events", &[toto, ("Authorization", "Bearer bad")]).await.status, 401);
    assert_eq!(app.get("/events", &[toto, ("Authorization", "Bearer ep_bad")]).await.status, 401);
    let titi = bearer(&signer.token(&claims("titi")));
    assert_eq!(app.get("/events", &[toto, ("Authorization", &titi)]).await.status, 403);
}
