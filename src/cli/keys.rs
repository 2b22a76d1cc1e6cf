//! `event-piper keys`: creates, lists and revokes keys of writers and machines.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use clap::Subcommand;

use super::{database::on_database, load::load, output};
use crate::{
    access::{
        keys::{KeyId, NewKey},
        rights::{Patterns, Rights},
    },
    config::{Config, Flags},
    consumer::ConsumerId,
    store::{
        keys::{self, StoredKey},
        server::Server,
    },
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create a key, and print it; it cannot be shown again
    Create {
        #[command(flatten)]
        granted: Granted,
        #[command(flatten)]
        flags: Flags,
    },
    /// List all keys, including expired and revoked ones
    List(Flags),
    /// Revoke a key; its streams end, and it is refused from then on
    Revoke {
        /// The id of the key, as `keys list` shows it
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        flags: Flags,
    },
}

/// Whom a key is for, and what for.
#[derive(clap::Args)]
pub(super) struct Granted {
    /// The name of the key, shown in logs; without --read, it may read this consumer's events
    #[arg(long)]
    name: ConsumerId,
    /// A consumer whose events the key may read, or a pattern with *; may be repeated
    #[arg(long, value_name = "PATTERN")]
    read: Vec<String>,
    /// A consumer for whom the key may write events, or a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    write: Vec<String>,
    /// A stream that the key may read, or a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    read_streams: Vec<String>,
    /// A stream that the key may append to, or a pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    write_streams: Vec<String>,
    /// Allow the key to read GET /all
    #[arg(long)]
    all: bool,
    /// Allow the key to use the console
    #[arg(long)]
    console: bool,
    /// Allow the key to read the metrics
    #[arg(long)]
    metrics: bool,
    /// How long the key is valid, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create { granted, flags } => {
                let config = load(flags)?;
                on_database(config, async |server| create(server, &granted).await).await
            }
            Self::List(flags) => on_database(load(flags)?, list).await,
            Self::Revoke { id, flags } => {
                let config: Config = load(flags)?;
                on_database(config, async |server| revoke(server, &id).await).await
            }
        }
    }
}

async fn create(server: &Server, granted: &Granted) -> anyhow::Result<ExitCode> {
    let rights = serde_json::to_string(&granted.rights()?).context("encoding the rights")?;
    let expires = granted.expires_in.map(|life| {
        SystemTime::now().checked_add(life).context("--expires-in: the duration is too long")
    });
    let client = server.client().await.with_context(|| format!("connecting to {server}"))?;
    let key = NewKey::generate();
    let (id, name) = (key.id.to_string(), granted.name.as_str());
    keys::create(&client, (&id, &key.hash), name, &rights, expires.transpose()?).await.context(
        "cannot store the key; if the schema is not up to date, run event-piper migrate",
    )?;
    // Standard output gets the key alone, so that it can be redirected to where it belongs.
    output::note(format_args!("created key {id} for {name:?}; the key is shown only once:"));
    output::line(&key.text)?;
    Ok(ExitCode::SUCCESS)
}

impl Granted {
    fn rights(&self) -> anyhow::Result<Rights> {
        let patterns = |flag: &str, texts: &[String]| {
            let patterns = Patterns::new(texts.iter().map(String::as_str));
            patterns.with_context(|| format!("--{flag}"))
        };
        let read = (!self.read.is_empty()).then(|| patterns("read", &self.read)).transpose()?;
        Ok(Rights {
            read,
            write: patterns("write", &self.write)?,
            read_streams: patterns("read-streams", &self.read_streams)?,
            write_streams: patterns("write-streams", &self.write_streams)?,
            all: self.all,
            console: self.console,
            metrics: self.metrics,
        })
    }
}

/// A date for people. Rows can be written in SQL, so any time of PostgreSQL is possible, even `infinity`.
fn day(time: SystemTime) -> String {
    const LAST_SECOND_OF_9999: u64 = 253_402_300_799;
    match time.duration_since(UNIX_EPOCH) {
        Err(_) => "before 1970".to_owned(),
        Ok(since) if since.as_secs() > LAST_SECOND_OF_9999 => "after 9999".to_owned(),
        Ok(_) => humantime::format_rfc3339_seconds(time).to_string(),
    }
}

async fn list(server: &Server) -> anyhow::Result<ExitCode> {
    let client = server.client().await.with_context(|| format!("connecting to {server}"))?;
    let keys = keys::all(&client).await.context(
        "cannot read the keys; if the schema is not up to date, run event-piper migrate",
    )?;
    for StoredKey { id, name, rights, created, expires, revoked, .. } in keys {
        let state = match (revoked, expires) {
            (Some(revoked), _) => format!("revoked {}", day(revoked)),
            (None, Some(expires)) if expires <= SystemTime::now() => {
                format!("expired {}", day(expires))
            }
            (None, Some(expires)) => format!("until {}", day(expires)),
            (None, None) => "valid".to_owned(),
        };
        let since = day(created);
        output::line(format_args!("{id}  {name:?}  since {since}  {state}  {rights}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn revoke(server: &Server, id: &str) -> anyhow::Result<ExitCode> {
    // A whole key is accepted in place of its id.
    let id = id.strip_prefix("ep_").unwrap_or(id).split('_').next().unwrap_or_default();
    let Ok(id) = id.parse::<KeyId>() else {
        bail!(
            "{id:?} is not a key id: expected 16 letters and digits, as shown by event-piper keys list"
        )
    };
    let client = server.client().await.with_context(|| format!("connecting to {server}"))?;
    if !keys::revoke(&client, &id.to_string()).await.context(
        "cannot revoke the key; if the schema is not up to date, run event-piper migrate",
    )? {
        bail!("there is no key {id}, or it is already revoked");
    }
    output::line(format_args!("revoked {id}"))?;
    Ok(ExitCode::SUCCESS)
}
