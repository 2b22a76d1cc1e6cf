//! Where the log lives: a parsed `DATABASE_URL`, and how to connect to it.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Client, Config, Connection, NoTls, Socket, tls::NoTlsStream};

/// A PostgreSQL database to connect to. Its `Debug` never shows a password.
#[derive(Clone, Debug)]
pub struct Server {
    config: Config,
}

impl Server {
    /// Reads a `postgres://` URL or a `key=value` connection string.
    pub fn parse(url: &str) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { config: url.parse()? })
    }

    /// The same server under another `application_name`, which is how administrators see
    /// the connection in `pg_stat_activity`.
    #[must_use]
    pub fn named(&self, application_name: &str) -> Self {
        let mut config = self.config.clone();
        config.application_name(application_name);
        Self { config }
    }

    /// Opens one connection. The caller drives the [`Connection`].
    pub async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, NoTlsStream>), tokio_postgres::Error> {
        self.config.connect(NoTls).await
    }

    /// A pool of at most `size` connections, opened when first needed.
    ///
    /// # Panics
    /// Never: a pool with a runtime builds.
    #[must_use]
    pub fn pool(&self, size: usize) -> Pool {
        let manager = Manager::from_config(
            self.config.clone(),
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(size)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime builds")
    }
}

/// Why a connection could not be opened.
pub type ConnectError = tokio_postgres::Error;
