//! Command lines for hints. They name the same database, so that they work as printed.

use std::env;

use super::database_url::split_password;
use crate::{
    config::{Config, Database},
    embedded,
};

/// The command line of a command on the same database, quoted for a shell, such as `event-piper migrate
/// --data-dir /srv/events`. The password of a URL is left out.
pub(super) fn of(database: &Database, command: &str) -> String {
    let program = env::args().next().unwrap_or_else(|| "event-piper".to_owned());
    let mut words = vec![quoted(&program), command.to_owned()];
    match database {
        Database::Embedded(settings) => {
            if Some(&settings.data_dir) != embedded::default_data_dir().as_ref() {
                words.push("--data-dir".into());
                words.push(quoted(&settings.data_dir.to_string_lossy()));
            }
            if let Some(binaries) = &settings.binaries {
                words.push("--postgres-bin".into());
                words.push(quoted(&binaries.to_string_lossy()));
            }
        }
        Database::Url { server, url } => {
            let bare = split_password(url).map_or_else(|_| server.to_string(), |(bare, _)| bare);
            words.push("--database-url".into());
            words.push(quoted(&bare));
        }
    }
    words.join(" ")
}

/// Completes the commands in a sentence such as `Run event-piper migrate.`
pub(super) fn in_sentence(config: &Config, sentence: &str) -> String {
    ["migrate", "doctor", "serve", "psql"].into_iter().fold(sentence.to_owned(), |text, command| {
        text.replace(&format!("event-piper {command}"), &of(&config.database, command))
    })
}

/// Quotes a word for a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/-_.+,:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::server::Server;

    fn at(url: &str) -> String {
        let server = Box::new(Server::parse(url).unwrap());
        let invocation = of(&Database::Url { server, url: url.into() }, "psql");
        invocation.split_once(" psql ").unwrap().1.to_owned()
    }

    #[test]
    fn a_hint_names_the_database_without_password() {
        assert_eq!(at("postgres://u:s3cret@h/d"), "--database-url postgres://u@h/d");
        let url = "postgres://u@h/d?sslmode=require";
        assert_eq!(at(url), format!("--database-url '{url}'"));
        assert_eq!(at("host=h user=u password=s dbname=d"), "--database-url postgres://u@h:5432/d");
        let settings = embedded::Settings {
            data_dir: "/srv/my events".into(),
            binaries: Some("/opt/pg/bin".into()),
            port: None,
        };
        let hint = of(&Database::Embedded(settings), "psql");
        assert!(hint.ends_with("--data-dir '/srv/my events' --postgres-bin /opt/pg/bin"), "{hint}");
    }
}
