//! Separates the password from the URL of a database.

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

/// Returns the URL without its password, and the password. Every user of the machine can see the arguments
/// of a process, but not its environment.
pub(super) fn split_password(url: &SecretString) -> anyhow::Result<(String, Option<SecretString>)> {
    let text = url.expose_secret();
    let config: tokio_postgres::Config = text.parse().context("parsing the database URL")?;
    let Some(password) = config.get_password() else { return Ok((text.to_owned(), None)) };
    let password = String::from_utf8(password.to_owned()).context("the password is not UTF-8")?;
    let Some(bare) = without_password(text) else {
        bail!("expected the password before the host, as in postgres://user:password@host/")
    };
    Ok((bare, Some(password.into())))
}

fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (before, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = before.rsplit_once('@')?;
    let (user, _) = user.split_once(':')?;
    Some(format!("{scheme}://{user}@{host}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_the_password() {
        let url = "postgres://u:p%40ss@h:1/d?sslmode=require".into();
        let (bare, password) = split_password(&url).unwrap();
        assert_eq!(bare, "postgres://u@h:1/d?sslmode=require");
        assert_eq!(password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn rejects_a_password_that_cannot_be_separated() {
        assert!(split_password(&"host=h user=u password=p".into()).is_err());
        assert_eq!(split_password(&"host=h user=u".into()).unwrap().0, "host=h user=u");
    }
}
