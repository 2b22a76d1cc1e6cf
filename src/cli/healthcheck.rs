//! `event-piper healthcheck`: asks the gateway on this machine, so that an image needs no curl.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::serve::reachable_at;
use crate::config::Config;

/// Longer than a gateway that is ready takes.
const WITHIN: Duration = Duration::from_secs(3);
/// What it says is a status line and a short reason.
const LONGEST_ANSWER: u64 = 16 << 10;

pub(super) async fn healthcheck(config: &Config) -> anyhow::Result<ExitCode> {
    let address = reachable_at(config.listen);
    let answer = timeout(WITHIN, ask(address)).await.context("no answer in time")?;
    let answer = answer.with_context(|| format!("asking {address}"))?;
    if answer.split(' ').nth(1) == Some("200") {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{address} is not ready: {}", answer.lines().last().unwrap_or("no reason given"))
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
