//! Sends events until they are written: a lost answer, a full queue or a gateway that starts
//! again only takes longer, for each event has a `uid`.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode, Url, header};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use uuid::Uuid;

use super::lines::Line;
use crate::cli::tail::{client, refusal, root};

/// See the module.
pub(super) struct Post {
    client: Client,
    url: Url,
}

/// Between attempts, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// A gateway answers sooner than this, or is not there.
const ANSWERING: Duration = Duration::from_mins(1);

/// A `uid`: by chance, or always the same one for this line of an input that has a name.
pub(super) fn uid(name: Option<&str>, line: &Line) -> Uuid {
    let Some(name) = name else { return Uuid::now_v7() };
    let digest = Sha256::digest(format!("{name}\n{}\n{}", line.number, line.text));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

/// What became of an attempt.
enum Sent {
    Written,
    /// Not yet, for this reason.
    Again(String),
}

impl Post {
    pub(super) fn new(url: &Url) -> anyhow::Result<Self> {
        let (client, mut url) = (client(url)?, url.clone());
        let web = ["http", "https"].contains(&url.scheme());
        let Some(mut path) = url.path_segments_mut().ok().filter(|_| web) else {
            bail!("--url: expected http://host:port");
        };
        path.pop_if_empty().push("events");
        drop(path);
        Ok(Self { client, url })
    }

    /// Returns when these are written, all of them.
    pub(super) async fn send(
        &self,
        events: &[&RawValue],
        say: impl Fn(String),
    ) -> anyhow::Result<()> {
        let body = serde_json::to_string(events)?;
        let (mut pause, longest) = PAUSE;
        loop {
            match self.attempt(body.clone()).await? {
                Sent::Written => return Ok(()),
                Sent::Again(why) => say(format!("{why}; again in {:.1} s", pause.as_secs_f32())),
            }
            sleep(pause.mul_f32(0.75 + fastrand::f32() / 2.0)).await;
            pause = (2 * pause).min(longest);
        }
    }

    async fn attempt(&self, body: String) -> anyhow::Result<Sent> {
        let request = self.client.post(self.url.clone()).timeout(ANSWERING);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Err(error).context("asking the gateway"),
            Err(error) => return Ok(Sent::Again(format!("{}: {}", self.url, root(&error)))),
        };
        match response.status() {
            StatusCode::CREATED => Ok(Sent::Written),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Sent::Again(refusal(response).await))
            }
            status if status.is_server_error() => Ok(Sent::Again(refusal(response).await)),
            _ => bail!(refusal(response).await),
        }
    }
}
