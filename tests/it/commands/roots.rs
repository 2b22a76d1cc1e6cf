//! A system without root certificates, such as a small container image: everything works that needs none.

use super::{ended, program, text};
use crate::support::{app::App, postgres::Database, process::Process};

const NONE: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];

#[tokio::test]
async fn events_are_appended_over_http() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let url = format!("http://{}", app.address);
    let args = ["append", "--url", &url, "--type", "a", "--consumer", "toto", "1"];
    let output = ended(program(&args).envs(NONE)).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_gateway_with_an_http_issuer_starts() {
    let database = Database::create().await;
    let flags = [
        ["--auth", "jwt"],
        ["--jwt-issuer", "https://issuer.example.com"],
        ["--jwt-audience", "events"],
        ["--jwt-jwks-url", "http://127.0.0.1:1/keys"],
    ];
    let before = NONE.map(|(name, value)| format!("export {name}={value}")).join("; ");
    let gateway = Process::launch_limited(&database.url(), flags.as_flattened(), &before);
    gateway.ready().await;
}
