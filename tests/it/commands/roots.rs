//! A system without root certificates, such as a small container image. Everything that needs no root
//! certificate works.

use super::{ended, program, text};
use crate::support::{app::App, postgres::Database, process::Process};

const NONE: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];

#[tokio::test]
async fn append_works_over_http_without_root_certificates() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let url = format!("http://{}", app.address);
    let args = ["append", "--url", &url, "--type", "a", "--consumer", "toto", "1"];
    let output = ended(program(&args).envs(NONE)).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn an_http_issuer_works_without_root_certificates() {
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
