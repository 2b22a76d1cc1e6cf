//! Protection of browsers: requests of foreign pages with cookies, foreign origins, and frames.

use super::issuer::{app_with, claims};
use crate::support::sse_client::{Stream, ask};

#[tokio::test]
async fn a_foreign_page_cannot_write_with_a_cookie() {
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
    assert!(
        illegible.headers["www-authenticate"].contains("invalid_token"),
        "the token is invalid rather than missing"
    );
    let doubled = format!("token=x; {cookie}");
    assert_eq!(app.get("/events", &[("Cookie", &doubled)]).await.status, 400);
    let both = [("Cookie", &*cookie), ("Authorization", "Bearer bad")];
    assert_eq!(
        app.get("/events", &both).await.status,
        401,
        "a valid cookie does not replace an invalid token"
    );

    let here = format!("http://{}", app.address);
    let write = async |headers: &[(&str, &str)]| {
        let headers = [&[("Cookie", &*cookie), ("Content-Length", "0")], headers].concat();
        ask(app.address, "POST", "/tickets", &headers).await.status
    };
    assert_eq!(write(&[]).await, 403);
    assert_eq!(write(&[("Origin", "https://evil.example")]).await, 403);
    assert_eq!(write(&[("Origin", "null")]).await, 403);
    assert_eq!(write(&[("Origin", "http://localhost:8000")]).await, 403, "that is another origin");
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
async fn cors_allows_credentials_for_exact_origins() {
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
async fn the_console_page_has_security_headers() {
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
