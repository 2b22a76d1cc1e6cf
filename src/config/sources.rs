//! Where settings come from: a flag beats the environment beats the file.

use std::{collections::BTreeMap, fmt, fs};

use clap::{Arg, ArgAction, ArgMatches, Command, error::Error as ClapError};

use super::{environment::Environment, value::Expected};
use crate::{nearest::did_you_mean, telemetry::Format};

/// One thing that an operator can turn; known by this name as a flag and in the file.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
}

const fn setting(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { name, variable, value, default, help }
}

/// Every setting there is: what the flags, the variables and the file's keys are made from.
#[rustfmt::skip]
const SETTINGS: &[Setting] = &[
    setting("config", "EVENT_PIPER_CONFIG", "FILE", None, "A TOML file of settings, by the same names"),
    setting("database-url", "DATABASE_URL", "URL", None, "The PostgreSQL database; without it, one is brought along"),
    setting("database-url-file", "DATABASE_URL_FILE", "FILE", None, "A file that holds the database's URL, so that it shows nowhere else"),
    setting("data-dir", "EVENT_PIPER_DATA_DIR", "FOLDER", None, "Where the embedded PostgreSQL keeps its data [default: the platform's data folder]"),
    setting("postgres-bin", "EVENT_PIPER_POSTGRES_BIN", "FOLDER", None, "Where PostgreSQL's server programs are [default: looked for]"),
    setting("postgres-port", "EVENT_PIPER_POSTGRES_PORT", "PORT", None, "Serve the embedded PostgreSQL on 127.0.0.1 too; its password is in the data folder"),
    setting("listen", "EVENT_PIPER_LISTEN", "ADDRESS", Some("127.0.0.1:4000"), "Where HTTP is served: an address and a port, or unix:/path"),
    setting("allowed-hosts", "EVENT_PIPER_ALLOWED_HOSTS", "NAMES", Some(""), "Names with a dot that requests may be for [default: in the open mode none, else any]"),
    setting("auth", "EVENT_PIPER_AUTH", "MODES", None, "Who is believed: open (loopback only), some of trusted-header,jwt,keys, or open-anywhere [default on loopback: open]"),
    setting("trusted-proxies", "EVENT_PIPER_TRUSTED_PROXIES", "NETWORKS", Some("127.0.0.0/8,::1"), "Whose X-Consumer-Id is believed: addresses and networks, separated by commas"),
    setting("header-rights", "EVENT_PIPER_HEADER_RIGHTS", "JSON", Some("{}"), "What those may do whom X-Consumer-Id names, beside reading their own events"),
    setting("jwt-issuer", "EVENT_PIPER_JWT_ISSUER", "ISSUER", None, "Whose tokens are believed: their claim iss"),
    setting("jwt-audience", "EVENT_PIPER_JWT_AUDIENCE", "NAMES", None, "Whom tokens must be for: one of these in their claim aud"),
    setting("jwt-algorithms", "EVENT_PIPER_JWT_ALGORITHMS", "NAMES", None, "What the issuer signs with, such as RS256 [default: HS256 with a secret, else RS256,ES256,EdDSA]"),
    setting("jwt-jwks-url", "EVENT_PIPER_JWT_JWKS_URL", "URL", None, "Where the issuer publishes its keys"),
    setting("jwt-key-file", "EVENT_PIPER_JWT_KEY_FILE", "FILE", None, "The issuer's public key, as PEM, JWK or JWKS"),
    setting("jwt-secret", "EVENT_PIPER_JWT_SECRET", "SECRET", None, "What the issuer signs with HS256, better in a file"),
    setting("jwt-secret-file", "EVENT_PIPER_JWT_SECRET_FILE", "FILE", None, "A file that holds this secret"),
    setting("jwt-issuers-file", "EVENT_PIPER_JWT_ISSUERS_FILE", "FILE", None, "A TOML file of issuers, where there are several"),
    setting("jwt-consumer-claim", "EVENT_PIPER_JWT_CONSUMER_CLAIM", "CLAIM", Some("sub"), "The claim that names the consumer"),
    setting("jwt-rights-claim", "EVENT_PIPER_JWT_RIGHTS_CLAIM", "CLAIM", Some("event_piper"), "The claim that says what else may be read and written"),
    setting("jwt-leeway", "EVENT_PIPER_JWT_LEEWAY", "DURATION", Some("5s"), "How far the issuer's clock may differ"),
    setting("jwt-refresh", "EVENT_PIPER_JWT_REFRESH", "DURATION", Some("5m"), "How often an issuer's keys are read again, so that those it has withdrawn are believed no longer"),
    setting("jwt-cookie", "EVENT_PIPER_JWT_COOKIE", "NAME", None, "A cookie in which browsers may bring a token"),
    setting("ticket-key", "EVENT_PIPER_TICKET_KEY", "SECRET", None, "What signs tickets, the same on all instances, better in a file [default: made up at start]"),
    setting("ticket-key-file", "EVENT_PIPER_TICKET_KEY_FILE", "FILE", None, "A file that holds this key, and in further lines older ones that still count"),
    setting("metrics-from", "EVENT_PIPER_METRICS_FROM", "NETWORKS", Some("127.0.0.0/8,::1"), "Who may read the metrics without a proof: addresses and networks"),
    setting("tls-cert", "EVENT_PIPER_TLS_CERT", "FILE", None, "The certificate for clients, as PEM; read again when it changes"),
    setting("tls-key", "EVENT_PIPER_TLS_KEY", "FILE", None, "Its private key, as PEM"),
    setting("max-streams-per-principal", "EVENT_PIPER_MAX_STREAMS_PER_PRINCIPAL", "NUMBER", Some("10000"), "Streams that one token's, key's or header's name has open at once"),
    setting("max-requests-per-principal", "EVENT_PIPER_MAX_REQUESTS_PER_PRINCIPAL", "NUMBER", Some("1000"), "Requests a second of one such name"),
    setting("max-appends-per-principal", "EVENT_PIPER_MAX_APPENDS_PER_PRINCIPAL", "NUMBER", Some("10000"), "Events a second that one such name appends"),
    setting("max-append-bytes-per-principal", "EVENT_PIPER_MAX_APPEND_BYTES_PER_PRINCIPAL", "SIZE", Some("32MiB"), "Bytes of these a second, with numbers written out"),
    setting("max-queries-per-principal", "EVENT_PIPER_MAX_QUERIES_PER_PRINCIPAL", "NUMBER", None, "Queries of one such name that run at once [default: half of --pool-size]"),
    setting("cors-origins", "EVENT_PIPER_CORS_ORIGINS", "ORIGINS", Some(""), "Web origins that may read, separated by commas"),
    setting("cors-headers", "EVENT_PIPER_CORS_HEADERS", "NAMES", Some(""), "Headers that their pages may send beside the usual ones, separated by commas; * for any"),
    setting("hold", "EVENT_PIPER_HOLD", "DURATION", Some("20ms"), "How long an open transaction may hold back later events; unlimited for strict id order"),
    setting("safety-checks", "EVENT_PIPER_SAFETY_CHECKS", "enforce|warn", Some("enforce"), "What to do where events could be lost, as with the doorbell's trigger disabled; enforce: do not start, do not be ready; warn, in an emergency: log it"),
    setting("heartbeat", "EVENT_PIPER_HEARTBEAT", "DURATION", Some("10s"), "How often a quiet stream says that it lives"),
    setting("recent", "EVENT_PIPER_RECENT", "SIZE", Some("64MiB"), "How much of the recent events is kept in memory for reconnects"),
    setting("drain", "EVENT_PIPER_DRAIN", "DURATION", Some("10s"), "How long streams may take to leave at shutdown"),
    setting("pool-size", "EVENT_PIPER_POOL_SIZE", "NUMBER", Some("8"), "Database connections for replays, beside the listening one"),
    setting("max-streams", "EVENT_PIPER_MAX_STREAMS", "NUMBER", Some("100000"), "Streams in all; who comes beyond that is asked to try again in some seconds"),
    setting("max-streams-per-consumer", "EVENT_PIPER_MAX_STREAMS_PER_CONSUMER", "NUMBER", Some("100000"), "Streams that follow one consumer"),
    setting("head-timeout", "EVENT_PIPER_HEAD_TIMEOUT", "DURATION", Some("10s"), "How long a request's head may take to arrive, and a connection may wait for its next request"),
    setting("max-head", "EVENT_PIPER_MAX_HEAD", "SIZE", Some("16KiB"), "How large a request's head may be"),
    setting("max-body", "EVENT_PIPER_MAX_BODY", "SIZE", Some("8MiB"), "How large a body may be that is written at once"),
    setting("max-event", "EVENT_PIPER_MAX_EVENT", "SIZE", Some("1MiB"), "How large one event may be that is written over HTTP"),
    setting("max-page", "EVENT_PIPER_MAX_PAGE", "NUMBER", Some("1000"), "How many events of a stream may be asked for at once"),
    setting("writing", "EVENT_PIPER_WRITING", "on|off", Some("on"), "Whether events can be written through this gateway; off: a role that may only SELECT is enough"),
    setting("append-path", "EVENT_PIPER_APPEND_PATH", "PATH", None, "Serve the predecessor's append service below this path, too; / for its own addresses"),
    setting("write-buffer-per-principal", "EVENT_PIPER_WRITE_BUFFER_PER_PRINCIPAL", "SIZE", Some("32MiB"), "How much of it one token's, key's or header's name may have"),
    setting("body-timeout", "EVENT_PIPER_BODY_TIMEOUT", "DURATION", Some("10s"), "How long nothing may come of a body that is written at once"),
    setting("write-timeout", "EVENT_PIPER_WRITE_TIMEOUT", "DURATION", Some("1m"), "How long a client may take nothing of an answer or a stream before it is cut off"),
    setting("answer-buffer", "EVENT_PIPER_ANSWER_BUFFER", "SIZE", Some("256MiB"), "Bytes of answers that are being made or sent, all in all"),
    setting("answer-buffer-per-principal", "EVENT_PIPER_ANSWER_BUFFER_PER_PRINCIPAL", "SIZE", Some("64MiB"), "How much of that one such name may have"),
    setting("write-connections", "EVENT_PIPER_WRITE_CONNECTIONS", "NUMBER", Some("4"), "Database connections that write, opened when they are needed"),
    setting("write-queue", "EVENT_PIPER_WRITE_QUEUE", "NUMBER", Some("4096"), "Requests that may wait to be written; who comes beyond that is answered 429"),
    setting("write-buffer", "EVENT_PIPER_WRITE_BUFFER", "SIZE", Some("64MiB"), "How much of them is kept in memory, all in all"),
    setting("migrate", "EVENT_PIPER_MIGRATE", "", Some("true"), "Bring the schema up to date at start (the default)"),
    setting("log", "EVENT_PIPER_LOG", "FILTER", Some("info,tokio_postgres=warn"), "What is logged, such as warn,event_piper=debug"),
    setting("log-format", "EVENT_PIPER_LOG_FORMAT", "FORMAT", Some("text"), "How it is logged: text, or json"),
];

/// Settings that nobody may see, and those that name a file which holds one instead.
const SECRETS: [(&str, &str); 3] = [
    ("database-url", "database-url-file"),
    ("jwt-secret", "jwt-secret-file"),
    ("ticket-key", "ticket-key-file"),
];
/// What the file has beside settings: a table for each aggregator.
const AGGREGATOR: &str = "aggregator";

/// The name and the variable of each setting.
#[cfg(test)]
pub(super) static EVERY_SETTING: std::sync::LazyLock<Vec<(&'static str, &'static str)>> =
    std::sync::LazyLock::new(|| SETTINGS.iter().map(|it| (it.name, it.variable)).collect());

/// The one setting that is no `--name value`, but `--migrate` or `--no-migrate`.
const SWITCH: &str = "migrate";
const NO_SWITCH: &str = "no-migrate";

/// What was given on the command line, not looked at yet. No `Debug`: there are secrets.
#[derive(Clone, Default)]
pub struct Flags(pub(super) BTreeMap<&'static str, String>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, it| match it.name {
            SWITCH => switch(command, it),
            _ => command.arg(flag(it)),
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(it: &Setting) -> Arg {
    let default = it.default.filter(|default| !default.is_empty());
    let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let help = format!("{}{default} [env: {}]", it.help, it.variable);
    Arg::new(it.name).long(it.name).value_name(it.value).help(help)
}

fn switch(command: Command, it: &Setting) -> Command {
    let help = format!("{} [env: {}]", it.help, it.variable);
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    command
        .arg(flag(SWITCH).help(help).overrides_with(NO_SWITCH))
        .arg(flag(NO_SWITCH).help("Leave the schema as it is").overrides_with(SWITCH))
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let values = SETTINGS.iter().filter(|it| it.name != SWITCH);
        let given = values.filter_map(|it| Some((it.name, matches.get_one::<String>(it.name)?)));
        let mut flags: BTreeMap<_, _> = given.map(|(name, text)| (name, text.clone())).collect();
        for (name, value) in [(SWITCH, "true"), (NO_SWITCH, "false")] {
            if matches.get_flag(name) {
                flags.insert(SWITCH, value.to_owned());
            }
        }
        Ok(Self(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Everything that was wrong, a sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSettings {
    pub(super) complaints: Vec<String>,
    /// How logs are to be written, as far as that was understood.
    pub log_format: Format,
}

impl std::error::Error for WrongSettings {}

impl fmt::Display for WrongSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.complaints.len() == 1;
        f.write_str(if one { "a setting is wrong:" } else { "settings are wrong:" })?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

/// A value, and what to call the place that it was given in.
struct Given {
    place: String,
    value: String,
}

/// What was given for each setting, the strongest first, and what was wrong so far.
pub(super) struct Sources {
    given: BTreeMap<&'static str, Vec<Given>>,
    /// The tables `[[aggregator]]` of the file, and its path.
    pub(super) aggregators: Vec<(String, toml::Table)>,
    pub(super) wrong: Vec<String>,
    /// What was given and has no effect, a sentence each.
    pub(super) unused: Vec<String>,
    log_format: Format,
}

impl Sources {
    pub(super) fn new(flags: Flags, environment: &Environment) -> Self {
        let mut sources = Self {
            given: BTreeMap::new(),
            aggregators: Vec::new(),
            wrong: environment.complaints(&variables()),
            unused: Vec::new(),
            log_format: Format::default(),
        };
        sources.add(flags.0.into_iter().map(|(name, value)| (name, format!("--{name}"), value)));
        sources.add(SETTINGS.iter().filter_map(|it| {
            Some((it.name, it.variable.to_owned(), environment.get(it.variable)?))
        }));
        if let Some(path) = sources.peek("config").map(ToOwned::to_owned) {
            let settings = sources.read_file(&path);
            sources.add(settings.into_iter());
        }
        sources
    }

    fn add(&mut self, settings: impl Iterator<Item = (&'static str, String, String)>) {
        let mut source: BTreeMap<_, _> =
            settings.map(|(name, place, value)| (name, Given { place, value })).collect();
        for (secret, file) in SECRETS {
            self.resolve_file(&mut source, secret, file);
        }
        for (name, given) in source {
            self.given.entry(name).or_default().push(given);
        }
    }

    /// Turns the name of a file with a secret into the secret, so that both are one setting.
    fn resolve_file(
        &mut self,
        source: &mut BTreeMap<&'static str, Given>,
        secret: &'static str,
        file: &'static str,
    ) {
        let Some(Given { place, value }) = source.remove(file) else { return };
        if let Some(given) = source.get(secret) {
            return self
                .wrong(format!("{place}: {} is given too: expected one of them", given.place));
        }
        match fs::read_to_string(&value) {
            Ok(text) => {
                let text = Given { place, value: trimmed(&text).to_owned() };
                source.insert(secret, text);
            }
            Err(e) => self.wrong(format!("{place}: {value:?} cannot be read ({e})")),
        }
    }

    fn read_file(&mut self, path: &str) -> Vec<(&'static str, String, String)> {
        let mut table = match fs::read_to_string(path).map(|text| text.parse::<toml::Table>()) {
            Ok(Ok(table)) => table,
            Ok(Err(e)) => {
                // The message alone: the excerpt that comes with it may show a secret.
                self.wrong(format!("--config: {path:?} is no TOML: {}", e.message()));
                return Vec::new();
            }
            Err(e) => {
                self.wrong(format!("--config: {path:?} cannot be read ({e})"));
                return Vec::new();
            }
        };
        if let Some(aggregators) = table.remove(AGGREGATOR) {
            self.take_aggregators(path, aggregators);
        }
        table.into_iter().filter_map(|(key, value)| self.known_setting(path, &key, value)).collect()
    }

    fn take_aggregators(&mut self, path: &str, value: toml::Value) {
        let tables = match value {
            toml::Value::Array(tables) => tables,
            one => vec![one],
        };
        for table in tables {
            match table {
                toml::Value::Table(table) => self.aggregators.push((path.to_owned(), table)),
                _ => {
                    self.wrong(format!("{AGGREGATOR} in {path}: expected [[{AGGREGATOR}]]"));
                }
            }
        }
    }

    fn known_setting(
        &mut self,
        path: &str,
        key: &str,
        value: toml::Value,
    ) -> Option<(&'static str, String, String)> {
        let place = format!("{key} in {path}");
        let known = SETTINGS.iter().find(|it| it.name == key && it.name != "config");
        let Some(known) = known else {
            let names = SETTINGS.iter().map(|it| it.name).filter(|name| *name != "config");
            self.wrong(format!("{place}: {}", no_such_setting(key, names)));
            return None;
        };
        let Some(value) = plain(value) else {
            self.wrong(format!("{place}: expected a text, a number, a switch or a list of texts"));
            return None;
        };
        Some((known.name, place, value))
    }

    /// The value of a setting that has a default. What is wrong is noted, and the default
    /// stands in, so that the others are looked at too.
    pub(super) fn setting<T>(
        &mut self,
        name: &'static str,
        parse: fn(&str) -> Result<T, Expected>,
    ) -> T {
        let default = SETTINGS.iter().find(|it| it.name == name).and_then(|it| it.default);
        let default = || parse(default.unwrap_or_default()).ok();
        self.optional(name, parse).or_else(default).expect("a default is right")
    }

    /// The value of a setting that need not be given. Weaker ones must be right all the same.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        parse: fn(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        let given = self.given.remove(name).unwrap_or_default();
        let parsed = given.into_iter().filter_map(|it| match parse(&it.value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.wrong.push(complaint(name, &it, &expected));
                None
            }
        });
        parsed.collect::<Vec<_>>().into_iter().next()
    }

    /// Notes what is wrong with settings taken together.
    pub(super) fn wrong(&mut self, complaint: String) {
        self.wrong.push(complaint);
    }

    /// The value that counts of a setting, as it was given.
    pub(super) fn peek(&self, name: &str) -> Option<&str> {
        Some(&self.given.get(name)?.first()?.value)
    }

    /// Where the value that counts was given, if there is one.
    pub(super) fn place_of(&self, name: &str) -> Option<&str> {
        Some(&self.given.get(name)?.first()?.place)
    }

    /// Notes how logs are to be written, for the complaint that may come of all this.
    pub(super) fn logs_are(&mut self, format: Format) {
        self.log_format = format;
    }

    /// Whether the environment as such is right.
    pub(super) fn only_environment(self) -> Result<(), WrongSettings> {
        self.finish(())
    }

    /// The outcome, if nothing was wrong.
    pub(super) fn finish<T>(self, outcome: T) -> Result<T, WrongSettings> {
        if self.wrong.is_empty() {
            return Ok(outcome);
        }
        Err(WrongSettings { complaints: self.wrong, log_format: self.log_format })
    }
}

fn complaint(name: &str, given: &Given, expected: &str) -> String {
    let Given { place, value } = given;
    if SECRETS.iter().any(|(secret, _)| *secret == name) {
        format!("{place}: cannot be understood: expected {expected}")
    } else {
        format!("{place}: {value:?} is given, expected {expected}")
    }
}

/// Every variable that a setting or a pump has.
pub(super) fn variables() -> Vec<String> {
    let settings = SETTINGS.iter().map(|it| it.variable.to_owned());
    settings.chain(super::aggregator::variables()).collect()
}

/// Names the setting that was probably meant, else all of them.
pub(super) fn no_such_setting<'a>(
    given: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let meant = did_you_mean(given, names.clone());
    if meant.is_empty() {
        let names: Vec<_> = names.collect();
        format!("there is no such setting: expected one of {}", names.join(", "))
    } else {
        format!("there is no such setting{meant}")
    }
}

/// What a file holds, without the blanks around it and the byte order mark of some editors.
pub(super) fn trimmed(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text).trim()
}

/// A value of the file as it would be written in a flag.
pub(super) fn plain(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<_>> = list.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}
