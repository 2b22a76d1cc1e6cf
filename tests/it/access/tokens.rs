//! Tokens: which are believed, and what they open.

use std::{num::NonZeroU32, time::Duration};

use event_piper::access::{Modes, jwks::Source};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::issuer::{
    Issuer, NAME, Signer, app_with, bearer, believing, claims, claims_with, seconds,
};
use crate::{
    import,
    support::{
        app::App,
        eventually,
        postgres::Database,
        sse_client::{self, Answer, Stream, ask},
    },
};

async fn with(app: &App, path: &str, token: &str) -> Answer {
    app.get(path, &[("Authorization", &bearer(token))]).await
}

async fn follow(app: &App, path: &str, token: &str) -> Stream {
    Stream::open(app.address, path, &[("Authorization", &bearer(token))]).await.joined().await
}

async fn insert(database: &Database, consumer: &str) {
    let row = "insert into events (type, subscriber, payload) values ('t', $1, '1')";
    database.connect().await.execute(row, &[&consumer]).await.unwrap();
}

#[tokio::test]
async fn every_algorithm_that_is_listed_is_believed() {
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
    assert_eq!(issuer.asked(), 1, "the keys are kept");
}

#[tokio::test]
async fn a_token_that_is_not_good_is_a_401_and_never_anybody() {
    let rsa = Signer::new("rsa", "RS256");
    let issuer = Issuer::start(&[&rsa]).await;
    let database = Database::create().await;
    let mut settings = believing(issuer.source(), &[Algorithm::RS256]);
    // All of it from one address, which would not be listened to for long.
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
        ("unsigned", Signer::new("", "none").token(&claims("toto")), "no signed token"),
        (
            "unsigned, in capitals",
            Signer::new("", "none").token_with(&json!({"alg": "NONE"}), &claims("toto")),
            "no signed token",
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
        ("of four parts", format!("{good}.x"), "no signed token"),
        ("of one part", "toto".into(), "no signed token"),
        ("that is empty", String::new(), "no signed token"),
        ("that is a giant", format!("{good}{}", "A".repeat(9000)), "longer than"),
    ];
    for (what, token, says) in &cases {
        // A thousandth proxy's client each time.
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
async fn without_any_proof_there_is_nothing() {
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
    assert!(answer.json()["detail"].as_str().unwrap().contains("does not belong into an address"));
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
async fn a_token_reads_what_it_says_and_nothing_else() {
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
    assert_eq!(app.get("/events", &narrowed).await.status, 403, "a header is no proof");
    let nobody = signer.token(&claims_with("", &json!({"sub": null})));
    assert_eq!(with(&app, "/events", &nobody).await.status, 400);
    assert_eq!(with(&app, "/events?consumer=toto", &nobody).await.status, 403);
}

#[tokio::test]
async fn metrics_and_console_are_rights_of_their_own() {
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
async fn a_token_that_expires_ends_its_streams() {
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
async fn a_token_that_expires_ends_its_imports() {
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
async fn keys_of_an_issuer_are_found_when_they_turn_over_and_kept_when_it_is_down() {
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
    assert_eq!(issuer.asked(), 2, "one asks for all");

    let unknown = async |id: u8| {
        let unknown = Signer::new(&id.to_string(), "ES256");
        with(&app, "/events/1", &unknown.token(&claims("toto"))).await.status
    };
    let answers = futures::future::join_all((0..50).map(unknown)).await;
    assert!(answers.iter().all(|status| [401, 429, 503].contains(status)), "{answers:?}");
    assert!(answers.contains(&401), "what was looked for and is not there is no key");
    assert!(issuer.asked() <= 6, "{} times: not for each of them", issuer.asked());

    issuer.fail();
    follow(&app, "/events", &old.token(&claims("toto"))).await;
    issuer.stop();
    follow(&app, "/events", &token).await;
}

/// A gateway that reads the keys of this issuer again all the time, and the database behind it.
async fn alert(issuer: &Issuer) -> (Database, App) {
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
async fn a_key_that_its_issuer_withdraws_ends_the_streams_and_tickets_of_its_tokens() {
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "ES256"));
    let issuer = Issuer::start(&[&old, &new]).await;
    let (_database, app) = alert(&issuer).await;
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
    let (_other_database, other) = alert(&issuer).await;
    for instance in [&app, &other] {
        let back = instance.get(&path, &[("Last-Event-ID", "0")]).await;
        assert_eq!(back.status, 401, "{}", back.body);
        assert!(back.json()["detail"].as_str().unwrap().contains("withdrawn"), "{}", back.body);
    }
    stays.signal("heartbeat").await;
    stays.signal("heartbeat").await;

    // Another name is no other key.
    let mut renamed = new;
    renamed.id = "renamed".into();
    issuer.publish(&[&renamed]);
    let token = renamed.token(&claims("toto"));
    let known = async || (with(&app, "/events/1", &token).await.status == 404).then_some(());
    eventually("the new name is known", known).await;
    stays.signal("heartbeat").await;
}

#[tokio::test]
async fn what_an_issuer_that_is_down_had_published_counts_for_streams_and_tickets() {
    let signer = Signer::new("a", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let (_database, app) = alert(&issuer).await;
    let token = signer.token(&claims("toto"));
    let mut stream = follow(&app, "/events", &token).await;
    let ticket = ticket(&app, &token).await;
    issuer.fail();
    let asked = issuer.asked();
    eventually("it is asked in vain", async || (issuer.asked() > asked + 2).then_some(())).await;
    stream.signal("heartbeat").await;
    let path = format!("/events?ticket={ticket}");
    Stream::open(app.address, &path, &[]).await.joined().await;
    // An instance that has never had the keys believes what another one has signed.
    let (_other_database, other) = alert(&issuer).await;
    let back = [("Last-Event-ID", "0")];
    Stream::open(other.address, &path, &back).await.joined().await;
}

#[tokio::test]
async fn a_key_may_be_replaced_under_the_same_name_or_under_none() {
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

/// Anybody can show a token with a name of a key that nobody has.
#[tokio::test]
async fn who_asks_for_unknown_keys_shuts_out_no_token_of_a_key_that_was_just_published() {
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
        eventually("the new key counts", async || {
            let status = with(&app, "/events/1", &token).await.status;
            assert_ne!(status, 401, "a good token is never a bad one");
            (status == 404).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn readiness_tells_everybody_that_it_is_so_and_operators_why() {
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
async fn while_an_issuers_keys_were_never_had_a_stream_is_asked_back_later() {
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
async fn a_cookie_brings_a_token_and_a_foreign_page_cannot_write_with_it() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.cookie = Some("token".into());
        settings.access.origins = vec!["https://app.example".into()];
        settings.http.cors_origins = vec!["https://app.example".into()];
    })
    .await;
    let cookie = format!("a=b; token={}; c=d", signer.token(&claims("toto")));
    Stream::open(app.address, "/events", &[("Cookie", &cookie)]).await.joined().await;
    assert_eq!(app.get("/events", &[("Cookie", "token=bad")]).await.status, 401);
    assert_eq!(app.get("/events", &[("Cookie", "xtoken=bad")]).await.status, 401);
    let beside = format!("x=\u{e9}; {cookie}");
    Stream::open(app.address, "/events", &[("Cookie", &beside)]).await.joined().await;
    let illegible = app.get("/events", &[("Cookie", "token=\u{e9}")]).await;
    assert!(illegible.headers["www-authenticate"].contains("invalid_token"), "no proof is bad");
    let doubled = format!("token=x; {cookie}");
    assert_eq!(app.get("/events", &[("Cookie", &doubled)]).await.status, 400);
    let both = [("Cookie", &*cookie), ("Authorization", "Bearer bad")];
    assert_eq!(app.get("/events", &both).await.status, 401, "a good cookie mends no bad token");

    let here = format!("http://{}", app.address);
    let write = async |headers: &[(&str, &str)]| {
        let headers = [&[("Cookie", &*cookie), ("Content-Length", "0")], headers].concat();
        ask(app.address, "POST", "/tickets", &headers).await.status
    };
    assert_eq!(write(&[]).await, 403);
    assert_eq!(write(&[("Origin", "https://evil.example")]).await, 403);
    assert_eq!(write(&[("Origin", "null")]).await, 403);
    assert_eq!(write(&[("Origin", "http://localhost:8000")]).await, 403, "that is another page");
    assert_eq!(write(&[("Sec-Fetch-Site", "cross-site")]).await, 403);
    assert_eq!(write(&[("Sec-Fetch-Site", "same-site")]).await, 403);
    assert_eq!(
        write(&[("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site")]).await,
        201
    );
    assert_eq!(write(&[("Sec-Fetch-Site", "same-origin")]).await, 201);
    assert_eq!(write(&[("Origin", &here)]).await, 201);
}

#[tokio::test]
async fn credentials_go_with_exact_origins_and_a_refusal_can_be_read() {
    let (_database, app, _) = app_with(|settings| {
        settings.http.cors_origins = vec!["https://app.example".into()];
    })
    .await;
    let refused = app.get("/events", &[("Origin", "https://app.example")]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(refused.headers["access-control-allow-credentials"], "true");
    assert!(refused.headers["vary"].contains("origin"), "{:?}", refused.headers);
    for foreign in
        ["https://app.example.evil.example", "http://app.example", "null", "http://localhost:1"]
    {
        let other = app.get("/events", &[("Origin", foreign)]).await;
        assert!(!other.headers.contains_key("access-control-allow-origin"), "{foreign}");
        assert!(other.headers["vary"].contains("origin"));
    }
    let (_database, app, _) = app_with(|_| {}).await;
    let local = app.get("/healthz", &[("Origin", "http://localhost:8000")]).await;
    let allowed = local.headers.get("access-control-allow-origin");
    assert_eq!(allowed, None, "pages of this machine may read in the open mode only");
}

#[tokio::test]
async fn a_page_that_a_browser_shows_is_closed_to_others() {
    let (_database, app, _) = app_with(|_| {}).await;
    let page = app.get("/", &[]).await;
    assert!(page.headers["content-security-policy"].contains("default-src 'none'"));
    assert!(page.headers["content-security-policy"].contains("frame-ancestors 'none'"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.headers[name], value);
    }
}

#[tokio::test]
async fn a_principal_is_held_to_its_requests_and_streams() {
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
    let limited = eventually("so many requests are too many", async || {
        Some(with(&app, "/events/1", &toto).await).filter(|answer| answer.status == 429)
    });
    let limited = limited.await;
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(with(&app, "/events/1", &titi).await.status, 404);
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

#[tokio::test]
async fn with_a_trusted_header_beside_it_a_bad_token_stays_bad() {
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
