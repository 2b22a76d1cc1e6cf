//! Sends events until they are written: a lost answer, a full queue or a gateway that starts
//! again only takes longer, for each event has a `uid`.

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
        tail::{client, refusal, root},
        token::Token,
    },
};

/// See the module.
pub(super) struct Post {
    client: Client,
    url: Url,
    token: Token,
}

/// Between attempts.
const PAUSES: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(15));
/// A gateway answers sooner than this, or is not there.
const ANSWERING: Duration = Duration::from_mins(1);

/// A `uid`: by chance, or always the same one for this line of an input that has a name.
pub(super) fn uid(name: Option<&str>, line: &Line) -> Uuid {
    let Some(name) = name else { return Uuid::now_v7() };
    let digest = Sha256::digest(format!("{name}\n{}\n{}", line.number, line.text));
    Uuid::new_v8(std::array::from_fn(|at| digest[at]))
}

/// What became of an attempt.
enum Sent {
    /// With these ids, as far as the answer arrived.
    Written(Vec<i64>),
    /// Not yet, for this reason.
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

    /// Returns the ids when these are written, all of them. However long the gateway is away, it
    /// is tried again; `say` is told why.
    pub(super) async fn send(
        &self,
        events: &[&RawValue],
        mut say: impl FnMut(String),
    ) -> anyhow::Result<Vec<i64>> {
        let body = serde_json::to_string(events)?;
        let mut backoff = PAUSES.start();
        loop {
            let pause = backoff.pause();
            match self.attempt(body.clone()).await? {
                Sent::Written(ids) => return Ok(ids),
                Sent::Again(why) => say(format!("{why}; retrying in {:.1} s", pause.as_secs_f32())),
            }
            sleep(pause).await;
        }
    }

    async fn attempt(&self, body: String) -> anyhow::Result<Sent> {
        let request = self.client.post(self.url.clone()).timeout(ANSWERING);
        let mut request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        if let Some(bearer) = self.token.header()? {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(error).context("building the request to the gateway");
            }
            Err(error) => return Ok(Sent::Again(format!("{}: {}", self.url, root(&error)))),
        };
        match response.status() {
            StatusCode::CREATED => Ok(Sent::Written(ids(response).await)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Sent::Again(refusal(response).await))
            }
            status if status.is_server_error() => Ok(Sent::Again(refusal(response).await)),
            _ => bail!(refusal(response).await),
        }
    }
}

/// The ids of an answer. Should its body be lost, the events are written all the same.
async fn ids(response: Response) -> Vec<i64> {
    #[derive(Deserialize)]
    struct Answer {
        ids: Vec<i64>,
    }
    let body = response.bytes().await.unwrap_or_default();
    serde_json::from_slice(&body).map_or_else(|_| Vec::new(), |Answer { ids }| ids)
}
