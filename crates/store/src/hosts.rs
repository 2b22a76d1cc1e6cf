//! Which host to connect to when a `DATABASE_URL` names several.
//!
//! A gateway reads from the primary only. A standby may lack events that clients have seen already, and
//! events that it does not have yet would look as if they did not exist.

use std::{future::poll_fn, pin::pin};

use tokio::select;
use tokio_postgres::{Client, Config, Socket, config::Host, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::error::ErrorChain;

/// The future that drives one connection. See [`Server::connect`](crate::server::Server::connect).
pub type Connection =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Splits a configuration into one for each host. Empty if there is only one host.
pub(super) fn each(config: &Config) -> Vec<Config> {
    let count = config.get_hosts().len().max(config.get_hostaddrs().len());
    if count < 2 { Vec::new() } else { (0..count).map(|host| only(config, host)).collect() }
}

/// Connects to the first host that is a primary; if there is none, to the first that answers.
///
/// # Errors
/// The error of the last host, if none answers.
pub(super) async fn connect(
    hosts: &[Config],
    tls: &MakeRustlsConnect,
) -> Result<(Client, Connection)> {
    let (mut standby, mut failed) = (None, None);
    for host in hosts {
        match connect_to(host, tls).await {
            Ok((client, connection, false)) => return Ok((client, connection)),
            Ok((client, connection, true)) => standby = standby.or(Some((client, connection))),
            Err(error) => {
                debug!(host = shown(host), error = %ErrorChain(&error), "a host does not answer");
                failed = Some(error);
            }
        }
    }
    match (standby, failed) {
        (Some(standby), _) => Ok(standby),
        (None, Some(error)) => Err(error),
        // `each` returns at least two hosts, or none; then this is not called.
        (None, None) => unreachable!("there is no host to connect to"),
    }
}

/// Connects to one host, and asks whether it is a standby.
async fn connect_to(host: &Config, tls: &MakeRustlsConnect) -> Result<(Client, Connection, bool)> {
    let (client, mut connection) = host.connect(tls.clone()).await?;
    let standby = {
        let mut asked = pin!(client.simple_query("select pg_catalog.pg_is_in_recovery()"));
        loop {
            select! {
                answer = &mut asked => break is_true(&answer?),
                message = poll_fn(|context| connection.poll_message(context)) => {
                    message.transpose()?;
                }
            }
        }
    };
    Ok((client, connection, standby))
}

fn is_true(answer: &[tokio_postgres::SimpleQueryMessage]) -> bool {
    answer.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    })
}

fn only(config: &Config, host: usize) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(name) = config.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    match config.get_hosts().get(host) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(folder)) => drop(one.host_path(folder)),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(host) {
        one.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(host).or(config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.ssl_mode(config.get_ssl_mode());
    one.ssl_negotiation(config.get_ssl_negotiation());
    one.keepalives(config.get_keepalives());
    one.keepalives_idle(config.get_keepalives_idle());
    one.channel_binding(config.get_channel_binding());
    one
}

/// The hosts as `host:port`, separated by commas.
pub(super) fn shown(config: &Config) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let names: Vec<_> = match config.get_hosts() {
        [] => config.get_hostaddrs().iter().map(ToString::to_string).collect(),
        _ => names.collect(),
    };
    // One port may stand for all hosts, and no port means the default.
    let port = |index| {
        let ports = config.get_ports();
        ports.get(index).or(ports.first()).copied().unwrap_or(5432)
    };
    let hosts = names.iter().enumerate().map(|(index, name)| format!("{name}:{}", port(index)));
    hosts.collect::<Vec<_>>().join(",")
}
