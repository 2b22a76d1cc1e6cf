//! The server of the log: a parsed `DATABASE_URL`, and how to connect to it.

use std::{
    fmt::{self, Debug, Display, Formatter},
    time::Duration,
};

use deadpool_postgres::{
    ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode as WireSslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use crate::hosts::Connection;
use crate::{
    connection_string::ConnectionString,
    hosts,
    session::{self, Purpose},
    ssl_mode::{self, RootsError, SslMode, SslRootCert},
};

/// An attempt to connect is given up after this time, and made again later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead connection is detected within 5 + 2 * 2 s while nothing is sent ...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 2;
/// ... and within this while something is.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(8);
const APPLICATION_NAME: &str = "event-piper";
/// The error for a connection to a standby, which may lack events that were delivered already.
const STANDBY: &str = "the server is a standby, which may lack events that were delivered already; \
                       let the database URL name the primary";

/// A PostgreSQL database to connect to. Neither `Debug` nor `Display` shows the password.
#[derive(Clone)]
pub struct Server {
    config: Config,
    /// One configuration for each host, if there are several and the URL does not say which kind to use.
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
}

/// A `DATABASE_URL` cannot be used. The error never shows the password.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The URL cannot be parsed, or has an unknown parameter.
    #[error("reading the database URL: {0}")]
    Syntax(String),
    /// A parameter has an invalid value.
    #[error("reading the database URL: `{name}` must be {expected}")]
    Value {
        /// The parameter's name.
        name: &'static str,
        /// The values that it may have.
        expected: &'static str,
    },
    /// `tokio_postgres` rejects the URL. The cause names the parameter.
    #[error("reading the database URL")]
    Config(#[from] tokio_postgres::Error),
    /// The URL names no host.
    #[error("reading the database URL: it names no host")]
    NoHost,
    /// The certificates of `sslrootcert` cannot be used.
    #[error("reading the database URL: `sslrootcert` cannot be used")]
    Roots(#[from] RootsError),
}

impl Server {
    /// Parses a `postgres://` URL or a `key=value` connection string, as libpq does, with its `sslmode` and
    /// `sslrootcert` (a file, or `system`).
    pub fn parse(url: &str) -> Result<Self, ServerError> {
        let given = ConnectionString::parse(url).map_err(|e| ServerError::Syntax(e.to_string()))?;
        let mut config: Config = given.rest.parse()?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(ServerError::NoHost);
        }
        let mode = ssl_mode(&given)?;
        config.ssl_mode(wire_ssl_mode(mode, &config));
        set_defaults(&mut config, &given);
        let tls = ssl_mode::connector(mode, ssl_root_cert(&given).as_ref())?;
        let hosts = match given.get("target_session_attrs") {
            None => hosts::each(&config),
            Some(_) => Vec::new(),
        };
        Ok(Self { config, hosts, tls })
    }

    /// Returns the same server with another `application_name`, under which administrators see the
    /// connections in `pg_stat_activity`.
    #[must_use]
    pub fn named(&self, application_name: &str) -> Self {
        let mut server = self.clone();
        server.config.application_name(application_name);
        for host in &mut server.hosts {
            host.application_name(application_name);
        }
        server
    }

    /// The TLS configuration of its connections.
    pub(super) fn tls(&self) -> &MakeRustlsConnect {
        &self.tls
    }

    /// Opens a connection. The caller drives the [`Connection`]. The session has no settings of ours yet.
    ///
    /// If there are several hosts, connects to the first primary, or to the first host that answers if there
    /// is no primary.
    pub async fn connect(&self) -> Result<(Client, Connection), tokio_postgres::Error> {
        if self.hosts.is_empty() {
            return self.config.connect(self.tls.clone()).await;
        }
        hosts::connect(&self.hosts, &self.tls).await
    }

    /// Opens a connection for a few statements, with the session settings of a reader. A task drives it until
    /// the client is dropped. Notifications are not received.
    pub async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        self.client_for(Purpose::Read).await
    }

    /// The same with the session settings for another purpose.
    pub(super) async fn client_for(
        &self,
        purpose: Purpose,
    ) -> Result<Client, tokio_postgres::Error> {
        let client = self.unsettled().await?;
        session::settle(&client, purpose).await?;
        Ok(client)
    }

    /// The same without session settings: the session may belong to a pooler that lends it to others
    /// afterwards.
    pub(super) async fn unsettled(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.connect().await?;
        // Errors of the connection are reported by the client's next statement.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates a pool of at most `size` connections that read the log. They are opened when first needed, and
    /// only to a primary.
    ///
    /// # Panics
    /// Never: a pool with a runtime always builds.
    #[must_use]
    pub fn pool(&self, size: usize) -> Pool {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(self.config.clone(), self.clone(), config);
        let settle = Hook::async_fn(|client: &mut ClientWrapper, _| {
            Box::pin(async {
                match session::settle(client, Purpose::Read).await {
                    Ok(settled) if settled.standby => Err(HookError::message(STANDBY)),
                    Ok(_) => Ok(()),
                    Err(error) => Err(HookError::Backend(error)),
                }
            })
        });
        Pool::builder(manager)
            .max_size(size)
            .post_create(settle)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime always builds")
    }
}

impl Connect for Server {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        async move {
            let (client, connection) = Self::connect(self).await?;
            // Errors of the connection are reported by the client's next statement.
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        }
        .boxed()
    }
}

impl Display for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        write!(f, "{}/", hosts::shown(&self.config))?;
        write!(f, "{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Debug for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

fn ssl_mode(given: &ConnectionString) -> Result<SslMode, ServerError> {
    let Some(text) = given.get("sslmode") else { return Ok(SslMode::default()) };
    text.parse().map_err(|()| ServerError::Value {
        name: "sslmode",
        expected: "one of disable, prefer, require, verify-ca, verify-full",
    })
}

/// A Unix socket needs no encryption, and PostgreSQL offers none there. As in libpq, no mode asks for it.
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

/// Sets what the string leaves out, so that a dead connection is detected within ten seconds.
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
    use crate::error::ErrorChain;

    fn refusal(url: &str) -> String {
        ErrorChain(&Server::parse(url).unwrap_err()).to_string()
    }

    #[test]
    fn is_shown_without_its_password() {
        let server = Server::parse("postgres://toto:s3cret@db.example,other:7/log").unwrap();
        assert_eq!(server.to_string(), "postgres://toto@db.example:5432,other:7/log");
        assert!(!format!("{server:?}").contains("s3cret"));
    }

    #[test]
    fn errors_name_the_parameter_and_show_no_password() {
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
    fn parameters_override_the_defaults() {
        let config = Server::parse("postgres://h/?connect_timeout=60").unwrap().config;
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_mins(1)));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(config.get_application_name(), Some("event-piper"));
    }
}
