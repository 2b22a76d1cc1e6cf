//! The URL of a database without its password.

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

/// The URL without its password, and the password: arguments can be seen by everybody on the
/// machine, the environment cannot.
pub(super) fn apart(url: &SecretString) -> anyhow::Result<(String, Option<SecretString>)> {
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
    fn a_password_is_no_argument() {
        let url = "postgres://u:p%40ss@h:1/d?sslmode=require".into();
        let (bare, password) = apart(&url).unwrap();
        assert_eq!(bare, "postgres://u@h:1/d?sslmode=require");
        assert_eq!(password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn a_password_that_cannot_be_taken_out_is_refused() {
        assert!(apart(&"host=h user=u password=p".into()).is_err());
        assert_eq!(apart(&"host=h user=u".into()).unwrap().0, "host=h user=u");
    }
}
