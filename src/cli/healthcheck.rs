//! `event-piper healthcheck`: asks the gateway on this machine, so that an image needs no curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use reqwest::{Client, Url};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::banner::reachable_at;
use crate::{config::Config, http::Place};

/// Longer than a gateway that is ready takes.
const WITHIN: Duration = Duration::from_secs(3);
/// What it says is a status line and a short reason.
const LONGEST_ANSWER: u64 = 16 << 10;

pub(super) async fn healthcheck(config: &Config) -> anyhow::Result<ExitCode> {
    let place = match &config.listen {
        Place::Tcp(address) => Place::Tcp(reachable_at(*address)),
        unix @ Place::Unix(_) => unix.clone(),
    };
    let answer = timeout(WITHIN, ask(&place, config.tls.is_some())).await;
    let (status, reason) =
        answer.context("no answer in time")?.with_context(|| format!("asking {place}"))?;
    if status == 200 {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{place} is not ready: {}", reason.lines().last().unwrap_or("no reason given"))
}

async fn ask(place: &Place, tls: bool) -> anyhow::Result<(u16, String)> {
    match place {
        Place::Tcp(address) if tls => encrypted(&format!("https://{address}/readyz")).await,
        Place::Tcp(address) => plain(TcpStream::connect(address).await?).await,
        Place::Unix(path) => plain(UnixStream::connect(path).await?).await,
    }
}

/// The certificate is for the name that others know this machine by, and this is no secret.
async fn encrypted(url: &str) -> anyhow::Result<(u16, String)> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build()?;
    let answer = client.get(url.parse::<Url>()?).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

async fn plain(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<(u16, String)> {
    let request = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("that is no answer")?, answer))
}
