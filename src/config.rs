//! The settings, from flags, the environment and a file. They are parsed before anything starts.
//!
//! [`settings`] has one constant per setting, [`sources`] reads the given values, and [`value`] parses
//! them. This module builds the settings of the other modules from them. All errors are reported
//! together.

mod access;
mod aggregator;
mod belonging;
pub(crate) mod commands;
mod environment;
mod flags;
mod setting;
mod settings;
mod sources;
mod value;
mod values;

use secrecy::{ExposeSecret, SecretString};

use self::{environment::Environment, sources::Sources, values::Values};
pub use self::{
    flags::{AggregatorFlags, Flags},
    values::WrongSettings,
};
use crate::{
    embedded,
    gateway::{self, followed},
    http, pump,
    store::server::Server,
    telemetry, write,
};

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database with the log.
    pub database: Database,
    /// The address of the HTTP server.
    pub listen: http::ListenAddress,
    /// The certificate and key of the HTTP server. `None`: no TLS.
    pub tls: Option<http::tls::Files>,
    /// Whether `serve` migrates the schema at the start.
    pub migrate: bool,
    /// The settings of the gateway.
    pub gateway: gateway::Settings,
    /// The settings of authentication and authorization.
    pub access: crate::access::Settings,
    /// The settings of the HTTP server.
    pub http: http::Settings,
    /// The settings of the program's log.
    pub telemetry: telemetry::Settings,
    /// The settings of the pumps, one for each aggregator.
    pub aggregators: Vec<pump::Settings>,
    /// Warnings about settings that were given and have no effect, one sentence each.
    pub unused: Vec<String>,
}

/// The database with the log.
#[derive(Clone, Debug)]
pub enum Database {
    /// The embedded PostgreSQL.
    Embedded(embedded::Settings),
    /// A PostgreSQL server that is run separately.
    Url {
        /// The server to connect to.
        server: Box<Server>,
        /// The same as a URL, for programs that this one starts.
        url: SecretString,
    },
}

impl Config {
    /// Loads the settings of this process.
    pub fn load(flags: Flags) -> Result<Self, WrongSettings> {
        Self::from_sources(Sources::new(flags, &Environment::of_process()))
    }

    /// Loads the settings for pumps: for the aggregator in these flags, or for those in the file.
    pub fn load_for_pumps(
        flags: Flags,
        aggregator: AggregatorFlags,
    ) -> Result<Self, WrongSettings> {
        Self::for_pumps(flags, aggregator, &Environment::of_process())
    }

    fn for_pumps(
        flags: Flags,
        aggregator: AggregatorFlags,
        environment: &Environment,
    ) -> Result<Self, WrongSettings> {
        let mut sources = Sources::new(flags, environment);
        let wrong = &mut sources.values.wrong;
        let named = aggregator::of_flags(aggregator, environment)
            .map(|given| aggregator::settings(given, wrong));
        if named.is_some() {
            sources.aggregators.clear();
        } else if sources.aggregators.is_empty() {
            wrong.push("--to: expected the aggregator's URL, or [[aggregator]] in --config".into());
        }
        let mut config = Self::from_sources(sources)?;
        config.aggregators.extend(named.flatten());
        Ok(config)
    }

    fn from_sources(sources: Sources) -> Result<Self, WrongSettings> {
        let Sources { values: mut from, aggregators } = sources;
        belonging::check(&mut from);
        let database = database(&mut from);
        let listen = from.setting(&settings::LISTEN);
        let cors_origins: Vec<String> = from.setting(&settings::CORS_ORIGINS);
        let access = access::settings(&mut from, &listen, &cors_origins);
        let tls = tls(&mut from, &listen);
        let streams: usize = from.setting(&settings::MAX_STREAMS);
        let http = http::Settings {
            cors_origins,
            cors_headers: from.setting(&settings::CORS_HEADERS),
            tls: None,
            heartbeat: from.setting(&settings::HEARTBEAT),
            drain: from.setting(&settings::DRAIN),
            limits: http::Limits {
                connections: streams.saturating_add(http::Limits::SPARE),
                streams,
                streams_of_a_consumer: from.setting(&settings::MAX_STREAMS_PER_CONSUMER),
                head_within: from.setting(&settings::HEAD_TIMEOUT),
                head: from.setting(&settings::MAX_HEAD),
                body: from.setting(&settings::MAX_BODY),
                event: from.setting(&settings::MAX_EVENT),
                page: from.setting(&settings::MAX_PAGE),
                body_within: from.setting(&settings::BODY_TIMEOUT),
                write_within: from.setting(&settings::WRITE_TIMEOUT),
                answers: from.setting(&settings::ANSWER_BUFFER),
                answers_each: from.setting(&settings::ANSWER_BUFFER_PER_PRINCIPAL),
            },
            append_path: from.optional(&settings::APPEND_PATH),
        };
        let gateway = gateway::Settings {
            log: followed::Settings {
                hold: from.setting(&settings::HOLD),
                pool: from.setting(&settings::POOL_SIZE),
                queries_each: from.optional(&settings::MAX_QUERIES_PER_PRINCIPAL),
                checks: from.setting(&settings::SAFETY_CHECKS),
            },
            recent: from.setting(&settings::RECENT),
            writer: writer(&mut from),
        };
        let telemetry = telemetry::Settings {
            filter: from.setting(&settings::LOG),
            format: from.setting(&settings::LOG_FORMAT),
        };
        let migrate = from.setting(&settings::MIGRATE);
        let aggregators = self::aggregators(aggregators, &mut from);
        let log_format = telemetry.format;
        let unused = std::mem::take(&mut from.unused);
        let config = Self {
            database,
            listen,
            tls,
            migrate,
            gateway,
            access,
            http,
            telemetry,
            aggregators,
            unused,
        };
        from.finish(config, log_format)
    }
}

/// Reports environment variables that begin with `EVENT_PIPER_` and are unknown, for commands without
/// settings. Other commands report them when they load their settings.
pub fn check_environment() -> Result<(), WrongSettings> {
    Sources::new(Flags::default(), &Environment::of_process()).only_environment()
}

fn aggregators(tables: Vec<(String, toml::Table)>, from: &mut Values) -> Vec<pump::Settings> {
    let mut parsed: Vec<pump::Settings> = Vec::new();
    for (path, table) in tables {
        let given = aggregator::of_table(&path, table, &mut from.wrong);
        parsed.extend(aggregator::settings(given, &mut from.wrong));
    }
    for (index, it) in parsed.iter().enumerate() {
        if parsed[..index].iter().any(|other| other.name == it.name) {
            let name = &it.name;
            from.wrong(format!("[[aggregator]] {name:?} is defined twice: expected unique names"));
        }
    }
    parsed
}

/// The settings of the writer. With `--writing off`, the others are checked as well.
fn writer(from: &mut Values) -> Option<write::Settings> {
    let settings = write::Settings {
        connections: from.setting(&settings::WRITE_CONNECTIONS),
        queue: from.setting(&settings::WRITE_QUEUE),
        bytes: from.setting(&settings::WRITE_BUFFER),
        bytes_each: from.setting(&settings::WRITE_BUFFER_PER_PRINCIPAL),
    };
    from.setting(&settings::WRITING).then_some(settings)
}

fn database(from: &mut Values) -> Database {
    let binaries = from.optional(&settings::POSTGRES_BIN);
    let port = from.optional(&settings::POSTGRES_PORT);
    let data_dir = from.optional(&settings::DATA_DIR);
    if let Some((server, url)) = from.optional(&settings::DATABASE_URL) {
        return Database::Url { server: Box::new(server), url };
    }
    let data_dir = data_dir.or_else(embedded::default_data_dir).unwrap_or_else(|| {
        from.wrong(
            "--data-dir: there is no home folder, so expected the folder for the data".into(),
        );
        std::path::PathBuf::new()
    });
    Database::Embedded(embedded::Settings { data_dir, binaries, port })
}

fn tls(from: &mut Values, listen: &http::ListenAddress) -> Option<http::tls::Files> {
    let certificate = from.optional(&settings::TLS_CERT);
    let key = from.optional(&settings::TLS_KEY);
    if certificate.is_some() && matches!(listen, http::ListenAddress::Unix(_)) {
        from.wrong(format!(
            "--tls-cert: TLS is not available on a Unix socket, and --listen is {listen}"
        ));
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(http::tls::Files { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            from.wrong("--tls-cert: requires the private key: expected --tls-key too".into());
            None
        }
        (None, Some(_)) => {
            from.wrong("--tls-key: requires the certificate: expected --tls-cert too".into());
            None
        }
    }
}

impl Database {
    /// The URL with its password. `None` for the embedded PostgreSQL while it is not running.
    #[must_use]
    pub fn url(&self) -> Option<SecretString> {
        match self {
            Self::Embedded(settings) => embedded::running_url(settings).map(Into::into),
            Self::Url { url, .. } => Some(url.expose_secret().into()),
        }
    }
}

#[cfg(test)]
mod every;
#[cfg(test)]
mod tests;
