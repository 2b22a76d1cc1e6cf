//! `event-piper healthcheck`: asks the gateway on this machine whether it is ready, so that a container
//! image needs no curl.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use reqwest::{StatusCode, redirect};
use tokio::time::timeout;

use super::{banner::reachable_at, tail::root_cause};
use crate::{config::Config, http::ListenAddress, web};

/// How long to wait for an answer. A gateway that is ready answers sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The length of an answer that is read. The reason in it is short.
const MAX_REASON_BYTES: usize = 16 << 10;

pub(super) async fn healthcheck(config: &Config) -> anyhow::Result<ExitCode> {
    let place = match &config.listen {
        ListenAddress::Tcp(address) => ListenAddress::Tcp(reachable_at(*address)),
        unix @ ListenAddress::Unix(_) => unix.clone(),
    };
    let answer = timeout(ANSWER_TIMEOUT, ask(&place, config.tls.is_some())).await;
    let (status, reason) =
        answer.context("no response in time")?.with_context(|| format!("cannot check {place}"))?;
    if status == StatusCode::OK {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{place} is not ready: {}", reason.lines().last().unwrap_or("it gave no reason"))
}

/// Asks under the name `localhost`, because some addresses cannot be written in a URL.
async fn ask(place: &ListenAddress, tls: bool) -> anyhow::Result<(StatusCode, String)> {
    let client = web::without_verification().no_proxy().redirect(redirect::Policy::none());
    let (client, url) = match place {
        ListenAddress::Tcp(address) => {
            let scheme = if tls { "https" } else { "http" };
            let url = format!("{scheme}://localhost:{}/readyz", address.port());
            (client.resolve("localhost", *address), url)
        }
        ListenAddress::Unix(path) => {
            (client.unix_socket(&**path), "http://localhost/readyz".to_owned())
        }
    };
    let failed = |error: reqwest::Error| anyhow!("{}", root_cause(&error));
    let mut answer = client.build()?.get(url).send().await.map_err(failed)?;
    let mut reason = Vec::new();
    while reason.len() < MAX_REASON_BYTES
        && let Some(part) = answer.chunk().await.map_err(failed)?
    {
        reason.extend_from_slice(&part);
    }
    Ok((answer.status(), String::from_utf8_lossy(&reason).into_owned()))
}
