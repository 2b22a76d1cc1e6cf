//! Settings: from flags, the environment and a file, parsed as a whole before anything starts.
//!
//! [`settings`] has a constant for each, [`sources`] finds what was given for it, [`value`] says what
//! a value must look like, and this module puts together what the rest of the program takes.
//! Whatever is wrong is reported at once.

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

/// Everything that an operator can turn, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log is.
    pub database: Database,
    /// Where HTTP is served.
    pub listen: http::ListenAddress,
    /// The certificate and the key for clients, where they are to speak TLS.
    pub tls: Option<http::tls::Files>,
    /// Whether `serve` brings the schema up to date first.
    pub migrate: bool,
    /// The engine's.
    pub gateway: gateway::Settings,
    /// Who may do what.
    pub access: crate::access::Settings,
    /// The HTTP side's.
    pub http: http::Settings,
    /// The logs'.
    pub telemetry: telemetry::Settings,
    /// The pumps', one for each aggregator.
    pub aggregators: Vec<pump::Settings>,
    /// What was given and has no effect, a sentence each, for the log.
    pub unused: Vec<String>,
}

/// Where the log is.
#[derive(Clone, Debug)]
pub enum Database {
    /// In a PostgreSQL that we bring along.
    Embedded(embedded::Settings),
    /// On a server that somebody else runs.
    Url {
        /// How to connect to it.
        server: Box<Server>,
        /// The same, for programs that we start.
        url: SecretString,
    },
}

impl Config {
    /// Reads the settings of this process.
    pub fn load(flags: Flags) -> Result<Self, WrongSettings> {
        Self::from_sources(Sources::new(flags, &Environment::of_process()))
    }

    /// Reads them for pumps: for the one that these flags name, else for those of the file.
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

/// Complains of variables of the environment that bear our prefix and that nothing reads. For
/// commands that take no settings: the others do so when they load them.
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

/// What is given beside `--writing off` must be right all the same.
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
    /// The URL of the server, with its password; none for the embedded one while it is down.
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
