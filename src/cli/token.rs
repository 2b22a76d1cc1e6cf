//! The credentials of commands that talk to a gateway: a token or a key.

use std::{fs, path::PathBuf};

use anyhow::{Context, anyhow};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::config::commands;

/// Where the token is, for a gateway that asks for one.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Token {
    /// A token or key, for a gateway that requires one; prefer the variable or a file
    #[arg(long, env = commands::TOKEN, hide_env_values = true, value_name = "TOKEN")]
    token: Option<SecretString>,
    /// A file with the token; read again for each request, so that it can be renewed
    #[arg(long, env = commands::TOKEN_FILE, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl Token {
    /// The value of the header `Authorization`. `None`: there is no token.
    pub(super) fn header(&self) -> anyhow::Result<Option<HeaderValue>> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.expose_secret().to_owned(),
            (None, Some(path)) => fs::read_to_string(path)
                .with_context(|| format!("cannot read the token in {}", path.display()))?,
            (None, None) => return Ok(None),
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| anyhow!("the token contains invalid characters"))?;
        bearer.set_sensitive(true);
        Ok(Some(bearer))
    }
}
