//! Where the log lives: a parsed `DATABASE_URL`, and how to connect to it.

use std::{
    fmt::{self, Debug, Display, Formatter},
    time::Duration,
};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod,
};
use tokio_postgres::{
    Client, Config, Socket,
    config::{Host, SslMode as WireSslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    connection_string::ConnectionString,
    tls::{self, RootsError, SslMode, SslRootCert},
};

/// A server that does not answer within this is tried again later, rather than waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that went silently dead is found within 5 + 2 * 2 s while nothing is sent ...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 2;
/// ... and within this while something is.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(8);
const APPLICATION_NAME: &str = "event-piper";

/// For every session of the gateway's: nothing that an administrator has set for others ends
/// its queries or its waits, which have deadlines of their own; a query that was given up at its
/// deadline does not run on for nobody (only Linux tells a busy server that its client has gone);
/// and a gateway that vanished without a word is found by the server as soon as the server is
/// found by the gateway, so that its locks do not outlive it for hours. (On a Unix socket the
/// latter is ignored.)
pub(super) const SESSION: &str = "
set statement_timeout = 0; set lock_timeout = 0;
set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 2;
set tcp_user_timeout = 8000;
select set_config(name, value, false)
from pg_settings join (values
    ('idle_session_timeout', '0'), ('transaction_timeout', '0'),
    ('client_connection_check_interval', case when version() ~ 'linux' then '1s' else '0' end)
) own(name, value) using (name);";

/// A PostgreSQL database to connect to. Neither its `Debug` nor its `Display` shows a password.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: MakeRustlsConnect,
}

/// What drives one connection; see [`Server::connect`].
pub type Connection =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Why a `DATABASE_URL` cannot be used. Never shows the password.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot be taken apart, or has a parameter that is not known.
    #[error("reading the database URL: {0}")]
    Syntax(String),
    /// A parameter has a value that PostgreSQL does not know.
    #[error("reading the database URL: `{name}` must be {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// `tokio_postgres` found fault with it; its cause names the parameter.
    #[error("reading the database URL")]
    Config(#[from] tokio_postgres::Error),
    /// There is nothing to connect to.
    #[error("reading the database URL: it names no host")]
    NoHost,
    /// What `sslrootcert` names cannot be used.
    #[error("reading the database URL: `sslrootcert` cannot be used")]
    Roots(#[from] RootsError),
}

impl Server {
    /// Reads a `postgres://` URL or a `key=value` connection string, as libpq does, with its
    /// `sslmode` and `sslrootcert` (a file, or `system`).
    pub fn parse(url: &str) -> Result<Self, ServerError> {
        let given = ConnectionString::parse(url).map_err(|e| ServerError::Syntax(e.to_string()))?;
        let mut config: Config = given.rest.parse()?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(ServerError::NoHost);
        }
        let mode = ssl_mode(&given)?;
        config.ssl_mode(wire_ssl_mode(mode, &config));
        set_defaults(&mut config, &given);
        let tls = tls::connector(mode, ssl_root_cert(&given).as_ref())?;
        Ok(Self { config, tls })
    }

    /// The same server under another `application_name`, which is how administrators see
    /// the connection in `pg_stat_activity`.
    #[must_use]
    pub fn named(&self, application_name: &str) -> Self {
        let mut server = self.clone();
        server.config.application_name(application_name);
        server
    }

    /// Opens one connection. The caller drives the [`Connection`].
    pub async fn connect(&self) -> Result<(Client, Connection), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// Opens one connection that drives itself, until the client is dropped.
    ///
    /// For a few statements; notifications are not heard on it.
    pub async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.connect().await?;
        // What goes wrong on the connection, the client's next statement reports.
        tokio::spawn(connection);
        Ok(client)
    }

    /// A pool of at most `size` connections, opened when first needed.
    ///
    /// # Panics
    /// Never: a pool with a runtime builds.
    #[must_use]
    pub fn pool(&self, size: usize) -> Pool {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let settled = Hook::async_fn(|client: &mut ClientWrapper, _| {
            Box::pin(async { client.batch_execute(SESSION).await.map_err(HookError::Backend) })
        });
        Pool::builder(manager)
            .max_size(size)
            .post_create(settled)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime builds")
    }
}

impl Display for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        write!(f, "{}/", hosts(&self.config))?;
        write!(f, "{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Debug for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

/// `host:port`, of several separated by commas.
fn hosts(config: &Config) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let names: Vec<_> = match config.get_hosts() {
        [] => config.get_hostaddrs().iter().map(ToString::to_string).collect(),
        _ => names.collect(),
    };
    // One port may stand for all, and none for the usual one.
    let port = |index| {
        let ports = config.get_ports();
        ports.get(index).or(ports.first()).copied().unwrap_or(5432)
    };
    let hosts = names.iter().enumerate().map(|(index, name)| format!("{name}:{}", port(index)));
    hosts.collect::<Vec<_>>().join(",")
}

fn ssl_mode(given: &ConnectionString) -> Result<SslMode, ServerError> {
    let Some(text) = given.get("sslmode") else { return Ok(SslMode::default()) };
    text.parse().map_err(|()| ServerError::Value {
        name: "sslmode",
        expected: "one of disable, prefer, require, verify-ca, verify-full",
    })
}

/// A Unix socket needs no encryption, and PostgreSQL offers none there; as in libpq, no mode asks
/// for it.
fn wire_ssl_mode(mode: SslMode, config: &Config) -> WireSslMode {
    let unix = |host: &Host| matches!(host, Host::Unix(_));
    if !config.get_hosts().is_empty() && config.get_hosts().iter().all(unix) {
        return WireSslMode::Disable;
    }
    mode.into()
}

fn ssl_root_cert(given: &ConnectionString) -> Option<SslRootCert> {
    match given.get("sslrootcert") {
        None | Some("") => None,
        Some("system") => Some(SslRootCert::System),
        Some(path) => Some(SslRootCert::File(path.into())),
    }
}

/// What the string does not say: a dead connection must be found within ten seconds.
fn set_defaults(config: &mut Config, given: &ConnectionString) {
    let missing = |name| given.get(name).is_none();
    if missing("connect_timeout") {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if missing("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if missing("keepalives_interval") {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if missing("keepalives_retries") {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if missing("tcp_user_timeout") {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    if missing("application_name") {
        config.application_name(APPLICATION_NAME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::error::Chain;

    fn refusal(url: &str) -> String {
        Chain(&Server::parse(url).unwrap_err()).to_string()
    }

    #[test]
    fn a_server_shows_itself_without_its_password() {
        let server = Server::parse("postgres://toto:s3cret@db.example,other:7/log").unwrap();
        assert_eq!(server.to_string(), "postgres://toto@db.example:5432,other:7/log");
        assert!(!format!("{server:?}").contains("s3cret"));
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let refused = refusal("postgres://u:s3cret@h/d?sslmode=yes");
        assert!(refused.contains("`sslmode` must be one of disable"), "{refused}");
        let refused = refusal("postgres://u:s3cret@h/d?connect_timeout=soon");
        assert!(refused.contains("connect_timeout"), "{refused}");
        assert!(!refused.contains("s3cret"), "{refused}");
        let refused = refusal("host=h sslmode=verify-ca sslrootcert=/nowhere.pem");
        assert!(refused.contains("/nowhere.pem"), "{refused}");
        assert!(refusal("user=toto").contains("no host"));
    }

    #[test]
    fn what_the_url_says_beats_the_default() {
        let config = Server::parse("postgres://h/?connect_timeout=60").unwrap().config;
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_mins(1)));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(config.get_application_name(), Some("event-piper"));
    }
}
