//! Settings: from flags, the environment and a file, parsed as a whole before anything starts.
//!
//! [`sources`] finds what was given for each name, [`value`] says what a value must look like,
//! and this module puts together what the rest of the program takes. Whatever is wrong is
//! reported at once.

mod access;
pub mod aggregator;
mod belonging;
mod environment;
pub mod sources;
mod value;

use secrecy::{ExposeSecret, SecretString};

pub use self::{
    aggregator::AggregatorFlags,
    sources::{Flags, WrongSettings},
};
use self::{aggregator::Given, environment::Environment, sources::Sources};
use crate::{
    embedded,
    gateway::{self, writer},
    http,
    postgres::server::Server,
    pump, telemetry,
};

/// Everything that an operator can turn, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log is.
    pub database: Database,
    /// Where HTTP is served.
    pub listen: http::Place,
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
        let mut from = Sources::new(flags, environment);
        let named = Given::flags(aggregator, environment, &mut from.wrong);
        let named = named.map(Given::settings);
        if named.is_some() {
            from.aggregators.clear();
        } else if from.aggregators.is_empty() {
            from.wrong("--to: expected the aggregator's URL, or [[aggregator]] in --config".into());
        }
        let mut config = Self::from_sources(from)?;
        config.aggregators.extend(named.flatten());
        Ok(config)
    }

    fn from_sources(mut from: Sources) -> Result<Self, WrongSettings> {
        belonging::check(&mut from);
        let database = database(&mut from);
        let listen = from.setting("listen", value::place);
        let cors_origins: Vec<String> = from.setting("cors-origins", value::origins);
        let access = access::settings(&mut from, &listen, &cors_origins);
        let tls = tls(&mut from, &listen);
        let streams: usize = from.setting("max-streams", value::limit);
        let http = http::Settings {
            cors_origins,
            cors_headers: from.setting("cors-headers", value::header_names),
            tls: None,
            drain: from.setting("drain", value::duration),
            limits: http::Limits {
                connections: streams.saturating_add(http::Limits::SPARE),
                streams,
                streams_of_a_consumer: from.setting("max-streams-per-consumer", value::limit),
                head_within: from.setting("head-timeout", value::interval),
                head: from.setting("max-head", value::head),
                body: from.setting("max-body", value::size),
                event: from.setting("max-event", value::size),
                page: from.setting("max-page", value::page),
                body_within: from.setting("body-timeout", value::interval),
                write_within: from.setting("write-timeout", value::interval),
                answers: from.setting("answer-buffer", value::size),
                answers_each: from.setting("answer-buffer-per-principal", value::size),
            },
            append_path: from.optional("append-path", value::url_path),
        };
        let gateway = gateway::Settings {
            drain: http.drain,
            hold: from.setting("hold", value::hold),
            heartbeat: from.setting("heartbeat", value::interval),
            streams: true,
            recent: from.setting("recent", value::size),
            pool: from.setting("pool-size", value::count),
            queries_each: from.optional("max-queries-per-principal", value::count),
            writer: writer(&mut from),
            checks: from.setting("safety-checks", value::checks),
        };
        let telemetry = telemetry::Settings {
            filter: from.setting("log", value::filter),
            format: from.setting("log-format", value::format),
        };
        from.logs_are(telemetry.format);
        let migrate = from.setting("migrate", value::switch);
        let aggregators = aggregators(&mut from);
        let unused = std::mem::take(&mut from.unused);
        from.finish(Self {
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
        })
    }
}

/// Complains of variables of the environment that bear our prefix and that nothing reads. For
/// commands that take no settings: the others do so when they load them.
pub fn check_environment() -> Result<(), WrongSettings> {
    Sources::new(Flags::default(), &Environment::of_process()).only_environment()
}

fn aggregators(from: &mut Sources) -> Vec<pump::Settings> {
    let tables = std::mem::take(&mut from.aggregators).into_iter();
    let parsed =
        tables.filter_map(|(path, table)| Given::table(&path, table, &mut from.wrong).settings());
    let parsed: Vec<pump::Settings> = parsed.collect();
    for (index, it) in parsed.iter().enumerate() {
        if parsed[..index].iter().any(|other| other.name == it.name) {
            let name = &it.name;
            from.wrong(format!(
                "[[aggregator]] {name:?} is there twice: expected names of their own"
            ));
        }
    }
    parsed
}

/// What is given beside `--writing off` must be right all the same.
fn writer(from: &mut Sources) -> Option<writer::Settings> {
    let settings = writer::Settings {
        connections: from.setting("write-connections", value::count),
        queue: from.setting("write-queue", value::limit),
        bytes: from.setting("write-buffer", value::size),
        bytes_each: from.setting("write-buffer-per-principal", value::size),
    };
    from.setting("writing", value::on_or_off).then_some(settings)
}

fn database(from: &mut Sources) -> Database {
    let binaries = from.optional("postgres-bin", value::path);
    let port = from.optional("postgres-port", value::port);
    let data_dir = from.optional("data-dir", value::path);
    if let Some((server, url)) = from.optional("database-url", value::database) {
        return Database::Url { server: Box::new(server), url };
    }
    let data_dir = data_dir.or_else(embedded::default_data_dir).unwrap_or_else(|| {
        from.wrong("--data-dir: without a home folder, expected the folder for the data".into());
        std::path::PathBuf::new()
    });
    Database::Embedded(embedded::Settings { data_dir, binaries, port })
}

fn tls(from: &mut Sources, listen: &http::Place) -> Option<http::tls::Files> {
    let certificate = from.optional("tls-cert", value::path);
    let key = from.optional("tls-key", value::path);
    if certificate.is_some() && matches!(listen, http::Place::Unix(_)) {
        from.wrong(format!(
            "--tls-cert: there is no TLS on a Unix socket, and --listen is {listen}"
        ));
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(http::tls::Files { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            from.wrong("--tls-cert: needs its private key: expected --tls-key too".into());
            None
        }
        (None, Some(_)) => {
            from.wrong("--tls-key: needs its certificate: expected --tls-cert too".into());
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
