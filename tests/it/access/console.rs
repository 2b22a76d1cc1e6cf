//! The console of a gateway that requires credentials.

use serde_json::json;

use super::issuer::{app_with, claims, claims_with};
use crate::support::browser::Browser;

const STATE: &str = "return document.documentElement.dataset.state";
const PROBLEM: &str = "return document.querySelector('#problem').textContent.includes(";

#[tokio::test]
async fn the_console_sends_the_token_to_the_gateway_only() {
    let Some(browser) = Browser::open().await else { return };
    let (database, app, signer) = app_with(|_| {}).await;
    let plain = signer.token(&claims("toto"));
    let rights = json!({"event_piper": {"read": ["toto"], "console": true}});
    let operator = signer.token(&claims_with("operator", &rights));
    browser.goto(&format!("http://{}/?consumer=toto", app.address)).await;
    browser.until(STATE, json!("failed")).await;
    browser.until("return document.querySelector('#token-field').hidden", json!(false)).await;

    browser.fill("#token", &plain).await;
    browser.click("#follow").await;
    browser.until(&format!("{PROBLEM}'may not use the console')"), json!(true)).await;
    browser.fill("#token", &operator).await;
    browser.click("#follow").await;
    browser.until(STATE, json!("live")).await;
    let row = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(row).await.unwrap();
    let rows = "return [...document.querySelectorAll('[data-id]')].map(row => +row.dataset.id)";
    browser.until(rows, json!([1])).await;
    let kept = "return [location.href, document.cookie, ...Object.values(localStorage), ...Object.values(sessionStorage)].join()";
    let kept = browser.eval(kept).await;
    assert!(!kept.as_str().unwrap().contains(&operator), "{kept}");
    app.stop().await;
}
