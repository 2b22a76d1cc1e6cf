//! Sends events until they are written. Requests are repeated after a lost response, a full queue or a
//! restart of the gateway. The `uid` of each event prevents repeated writes.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Response, StatusCode, Url, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use uuid::Uuid;

use super::lines::Line;
use crate::{
    backoff::Policy,
    cli::{
        tail::{client, error_message, root_cause},
        token::Token,
    },
};

/// The client of the gateway.
pub(super) struct Post {
    client: Client,
    url: Url,
    token: Token,
}

/// The pauses between attempts.
const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(15));
/// How long to wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);

/// A `uid`: random, or derived from the line and the name of the input, if it has one.
pub(super) fn uid(name: Option<&str>, line: &Line) -> Uuid {
    let Some(name) = name else { return Uuid::now_v7() };
    let digest = Sha256::digest(format!("{name}\n{}\n{}", line.number, line.text));
    Uuid::new_v8(std::array::from_fn(|at| digest[at]))
}

/// The result of an attempt.
enum Attempt {
    /// The events are written. The ids are missing if the response was lost.
    Written(Vec<i64>),
    /// The attempt must be repeated, for this reason.
    Again(String),
}

impl Post {
    pub(super) fn new(url: &Url, token: Token) -> anyhow::Result<Self> {
        let (client, mut url) = (client(url)?, url.clone());
        let web = ["http", "https"].contains(&url.scheme());
        let Some(mut path) = url.path_segments_mut().ok().filter(|_| web) else {
            bail!("--url: expected http://host:port");
        };
        path.pop_if_empty().push("events");
        drop(path);
        Ok(Self { client, url, token })
    }

    /// Sends events until all are written, and returns their ids. `say` gets the reasons for repeating.
    pub(super) async fn send(
        &self,
        events: &[&RawValue],
        mut say: impl FnMut(String),
    ) -> anyhow::Result<Vec<i64>> {
        let body = serde_json::to_string(events)?;
        let mut backoff = RETRY_BACKOFF.start();
        loop {
            let pause = backoff.pause();
            match self.attempt(body.clone()).await? {
                Attempt::Written(ids) => return Ok(ids),
                Attempt::Again(why) => {
                    say(format!("{why}; retrying in {:.1} s", pause.as_secs_f32()));
                }
            }
            sleep(pause).await;
        }
    }

    async fn attempt(&self, body: String) -> anyhow::Result<Attempt> {
        let request = self.client.post(self.url.clone()).timeout(RESPONSE_TIMEOUT);
        let mut request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        if let Some(bearer) = self.token.header()? {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(error).context("building the request to the gateway");
            }
            Err(error) => {
                return Ok(Attempt::Again(format!("{}: {}", self.url, root_cause(&error))));
            }
        };
        match response.status() {
            StatusCode::CREATED => Ok(Attempt::Written(ids(response).await)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Attempt::Again(error_message(response).await))
            }
            status if status.is_server_error() => Ok(Attempt::Again(error_message(response).await)),
            _ => bail!(error_message(response).await),
        }
    }
}

/// The ids in a response. They are missing if the body was lost, although the events are written.
async fn ids(response: Response) -> Vec<i64> {
    #[derive(Deserialize)]
    struct Answer {
        ids: Vec<i64>,
    }
    let body = response.bytes().await.unwrap_or_default();
    serde_json::from_slice(&body).map_or_else(|_| Vec::new(), |Answer { ids }| ids)
}
