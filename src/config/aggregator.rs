//! The settings of one aggregator's pump: from flags and the environment, or from a table
//! `[[aggregator]]` of the file, by the same names.

use std::{collections::BTreeMap, fs, str::FromStr, time::Duration};

use clap::{Arg, ArgMatches, Command, error::Error as ClapError};
use reqwest::Url;
use secrecy::SecretString;

use super::{
    environment::Environment,
    sources::{no_such_setting, plain, trimmed},
    value::{self, Expected},
};
use crate::{
    postgres::error::Chain,
    pump::{
        CatchUp, OnRefusal, Settings,
        aggregator::Target,
        feed::{BatchSize, Filter, Shape},
        fields::Fields,
        resume::Start,
        sign::SigningKey,
        tls,
    },
};

/// One thing that can be turned on a pump.
struct Key {
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
}

const fn key(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { name, value, default, help }
}

#[rustfmt::skip]
const KEYS: [Key; 22] = [
    key("to", "URL", "", "The aggregator: what stands before events/latest"),
    key("name", "NAME", "", "The name of its lease and checkpoint [default: the URL]"),
    key("batch-path", "PATH", "events/batch", "Where batches go"),
    key("batch-events", "NUMBER", "1000", "Events in a batch"),
    key("batch-bytes", "SIZE", "1MiB", "Bytes in a batch; one event alone may be larger"),
    key("only-types", "TYPES", "", "Only events of these types, separated by commas"),
    key("only-subscribers", "NAMES", "", "Only events for these consumers, separated by commas"),
    key("only-streams", "PREFIXES", "", "Only events of streams that begin so, separated by commas"),
    key("fields", "FIELDS", "default", "The fields of an event's JSON: default, predecessor, or name=source pairs"),
    key("start", "WHERE", "beginning", "Where to begin if nobody knows: beginning, or now"),
    key("timeout", "DURATION", "30s", "How long a request may take"),
    key("longest-pause", "DURATION", "30s", "The longest pause between attempts"),
    key("refusals", "NUMBER", "3", "How often an event may be refused before that counts"),
    key("on-refusal", "WHAT", "stop", "What happens then: stop, or set-aside"),
    key("catch-up", "HOW", "events", "How a booted aggregator gets events that wait: events, or batches"),
    key("token", "TOKEN", "", "Sent as Authorization: Bearer; a file is better"),
    key("token-file", "FILE", "", "A file that holds the token"),
    key("signing-key", "KEY", "", "whsec_ and Base64, to sign requests with; a file is better"),
    key("signing-key-file", "FILE", "", "A file that holds the signing key"),
    key("ca-file", "FILE", "", "Who vouches for the aggregator, PEM [default: the system's roots]"),
    key("certificate-file", "FILE", "", "The pump's own certificate, PEM"),
    key("key-file", "FILE", "", "The key of that certificate, PEM"),
];

/// Values that are never shown.
const SECRETS: [&str; 2] = ["token", "signing-key"];

/// What was given for one aggregator on the command line. No `Debug`: there are secrets.
#[derive(Clone, Default)]
pub struct AggregatorFlags(pub(super) BTreeMap<&'static str, String>);

impl clap::Args for AggregatorFlags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, it| {
            let default = Some(it.default).filter(|default| !default.is_empty());
            let default = default.map(|it| format!(" [default: {it}]")).unwrap_or_default();
            let help = format!("{}{default} [env: {}]", it.help, variable(it));
            let arg = Arg::new(it.name).long(it.name).value_name(it.value);
            command.arg(arg.help(help).help_heading("Aggregator"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for AggregatorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let given = |it: &Key| Some((it.name, matches.get_one::<String>(it.name)?.clone()));
        Ok(Self(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `EVENT_PIPER_PUMP_BATCH_PATH`.
fn variable(key: &Key) -> String {
    format!("EVENT_PIPER_PUMP_{}", key.name.to_ascii_uppercase().replace('-', "_"))
}

/// The variables of all of them.
pub(super) fn variables() -> impl Iterator<Item = String> {
    KEYS.iter().map(variable)
}

/// What was given for one aggregator, by name: where, and what.
pub(super) struct Given<'a> {
    values: BTreeMap<&'static str, (String, String)>,
    wrong: &'a mut Vec<String>,
}

impl<'a> Given<'a> {
    /// From flags, and the environment where those say nothing; none when they name none.
    pub(super) fn flags(
        flags: AggregatorFlags,
        environment: &Environment,
        wrong: &'a mut Vec<String>,
    ) -> Option<Self> {
        let variables = KEYS
            .iter()
            .filter_map(|it| Some((it.name, (variable(it), environment.get(&variable(it))?))));
        let mut values: BTreeMap<_, _> = variables.collect();
        let flags = flags.0.into_iter();
        values.extend(flags.map(|(name, value)| (name, (format!("--{name}"), value))));
        if values.is_empty() { None } else { Some(Self { values, wrong }) }
    }

    /// From a table of the file.
    pub(super) fn table(path: &str, table: toml::Table, wrong: &'a mut Vec<String>) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let place = format!("{name} of an [[aggregator]] in {path}");
            let Some(key) = KEYS.iter().find(|it| it.name == name) else {
                let names = KEYS.iter().map(|it| it.name);
                wrong.push(format!("{place}: {}", no_such_setting(&name, names)));
                continue;
            };
            match text(value) {
                Some(value) => drop(values.insert(key.name, (place, value))),
                None => wrong.push(format!("{place}: expected a text, a number, or a list")),
            }
        }
        Self { values, wrong }
    }

    /// All of it, checked; what is wrong is noted.
    pub(super) fn settings(mut self) -> Option<Settings> {
        let before = self.wrong.len();
        let target = self.target();
        let shape = Shape {
            filter: Filter {
                types: self.parsed("only-types", list),
                subscribers: self.parsed("only-subscribers", list),
                streams: self.parsed("only-streams", list),
            },
            fields: self.parsed("fields", |text| {
                Fields::from_str(text).map_err(|error| format!("fields: {error}"))
            }),
            size: BatchSize {
                events: self.parsed("batch-events", value::limit),
                bytes: self.parsed("batch-bytes", value::size),
            },
        };
        let start = self.parsed("start", start);
        let longest_pause = self.parsed("longest-pause", value::interval);
        let refusals = self.parsed("refusals", value::limit);
        let on_refusal = self.parsed("on-refusal", on_refusal);
        let catch_up = self.parsed("catch-up", catch_up);
        let (name, target) = target?;
        let settings = Settings {
            name: self.get("name").map_or(name, |(_, name)| name),
            target,
            shape,
            start,
            longest_pause,
            refusals: u32::try_from(refusals).unwrap_or(u32::MAX),
            on_refusal,
            catch_up,
        };
        (self.wrong.len() == before).then_some(settings)
    }

    fn target(&mut self) -> Option<(String, Target)> {
        let timeout: Duration = self.parsed("timeout", value::interval);
        let (batch_path, token) = (self.parsed("batch-path", path), self.token());
        let (key, tls) = (self.key(), self.tls());
        let Some((place, to)) = self.get("to") else {
            self.wrong.push("an aggregator: expected `to`, the URL that it is at".into());
            return None;
        };
        let Some(url) = base(&to) else {
            // The URL may hold a password, where none belongs.
            self.wrong.push(format!(
                "{place}: cannot be understood: expected a URL such as http://host:8080/, with \
                 no user, query or fragment"
            ));
            return None;
        };
        let target = Target {
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or(80),
            base: format!("{}/", url.path().trim_end_matches('/')),
            batch_path,
            tls: if url.scheme() == "https" { tls? } else { None },
            token,
            key,
            timeout,
        };
        Some((url.as_str().trim_end_matches('/').to_owned(), target))
    }

    fn token(&mut self) -> Option<SecretString> {
        let (place, token) = self.secret("token", "token-file")?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.wrong
                .push(format!("{place}: expected a token of printable ASCII, without blanks"));
        }
        Some(token.into())
    }

    fn key(&mut self) -> Option<SigningKey> {
        let (place, text) = self.secret("signing-key", "signing-key-file")?;
        let key = SigningKey::parse(&text);
        if key.is_none() {
            self.wrong.push(format!("{place}: expected whsec_ and 24 to 64 bytes in Base64"));
        }
        key
    }

    /// Read for HTTPS only; what was given wrong is wrong all the same.
    #[expect(clippy::option_option, reason = "wrong, or not asked for")]
    fn tls(&mut self) -> Option<Option<std::sync::Arc<rustls::ClientConfig>>> {
        let roots = self.get("ca-file").map(|(_, path)| path.into());
        let own = match (self.get("certificate-file"), self.get("key-file")) {
            (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => {
                let expected = "certificate-file and key-file: expected both, or neither";
                self.wrong.push(expected.into());
                return None;
            }
        };
        let named = roots.is_some() || own.is_some();
        let https = self.values.get("to").is_some_and(|(_, to)| to.starts_with("https:"));
        if !named && !https {
            return Some(None);
        }
        match tls::config(&tls::Files { roots, own }) {
            Ok(config) => Some(Some(config)),
            Err(error) => {
                self.wrong.push(format!("TLS to an aggregator: {}", Chain(&error)));
                None
            }
        }
    }

    /// A secret, given itself or as the name of its file.
    fn secret(&mut self, name: &str, file: &str) -> Option<(String, String)> {
        let (given, file) = (self.get(name), self.get(file));
        match (given, file) {
            (Some((place, _)), Some((other, _))) => {
                self.wrong.push(format!("{place}: {other} is given too: expected one of them"));
                None
            }
            (None, Some((place, path))) => match fs::read_to_string(&path) {
                Ok(text) => Some((place, trimmed(&text).to_owned())),
                Err(error) => {
                    self.wrong.push(format!("{place}: {path:?} cannot be read ({error})"));
                    None
                }
            },
            (given, None) => given,
        }
    }

    fn get(&self, name: &str) -> Option<(String, String)> {
        self.values.get(name).filter(|(_, value)| !value.is_empty()).cloned()
    }

    /// The value, or the default, which stands in where the value is wrong, too.
    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, Expected>) -> T {
        let default = KEYS.iter().find(|it| it.name == name).map_or("", |it| it.default);
        if let Some((place, value)) = self.get(name) {
            match parse(&value) {
                Ok(value) => return value,
                Err(expected) => {
                    debug_assert!(!SECRETS.contains(&name), "a secret is not shown");
                    self.wrong.push(format!("{place}: {value:?} is given, expected {expected}"));
                }
            }
        }
        parse(default).expect("a default is right")
    }
}

/// A value of the file as it would be written in a flag; the table `fields` as pairs, a line each.
fn text(value: toml::Value) -> Option<String> {
    let toml::Value::Table(table) = value else { return plain(value) };
    let pairs =
        table.into_iter().map(|(name, source)| Some(format!("{name}={}\n", source.as_str()?)));
    pairs.collect()
}

fn base(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (plain && url.has_host() && ["http", "https"].contains(&url.scheme())).then_some(url)
}

#[expect(clippy::unnecessary_wraps, reason = "one of several that may be refused")]
fn list(text: &str) -> Result<Vec<String>, Expected> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(items.map(ToOwned::to_owned).collect())
}

fn path(text: &str) -> Result<String, Expected> {
    let path = text.trim_start_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(&byte);
    let right = !path.is_empty() && path.bytes().all(plain);
    if right { Ok(path.to_owned()) } else { Err("a path such as events/import".into()) }
}

fn start(text: &str) -> Result<Start, Expected> {
    match text {
        "beginning" => Ok(Start::Beginning),
        "now" => Ok(Start::Now),
        _ => Err("beginning or now".into()),
    }
}

fn catch_up(text: &str) -> Result<CatchUp, Expected> {
    match text {
        "events" => Ok(CatchUp::Events),
        "batches" => Ok(CatchUp::Batches),
        _ => Err("events or batches".into()),
    }
}

fn on_refusal(text: &str) -> Result<OnRefusal, Expected> {
    match text {
        "stop" => Ok(OnRefusal::Stop),
        "set-aside" => Ok(OnRefusal::SetAside),
        _ => Err("stop or set-aside".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregators_address_holds_no_secret_and_nothing_behind_its_path() {
        assert!(base("http://h:8080/a").is_some() && base("https://h").is_some());
        for wrong in ["h", "ftp://h/", "http://u@h/", "http://:p@h/", "http://h/?a", "http://h/#a"]
        {
            assert!(base(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn batches_go_to_a_plain_path() {
        assert_eq!(path("/events/import"), Ok("events/import".into()));
        for wrong in ["", "/", "a b", "a?b", "a\r\nb", "é"] {
            assert!(path(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        for (token, right) in [("a.b-c", true), ("a b", false), ("a\r\nb", false), ("é", false)] {
            let mut wrong = Vec::new();
            let flags =
                BTreeMap::from([("to", "http://h".to_owned()), ("token", token.to_owned())]);
            let given =
                Given::flags(AggregatorFlags(flags), &Environment::default(), &mut wrong).unwrap();
            assert_eq!(given.settings().is_some(), right, "{token:?}");
            assert_eq!(wrong.is_empty(), right, "{wrong:?}");
        }
    }
}
