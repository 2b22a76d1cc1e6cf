//! The banner with the next steps for new users, printed when the gateway listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tracing::info;

use super::{
    invocation::{self, quoted},
    output,
};
use crate::{
    access::Modes,
    config::{Config, Database},
    http::ListenAddress,
    telemetry,
};

/// Hints for using the gateway that was started.
pub(super) struct Banner {
    psql: String,
    scheme: &'static str,
    modes: Modes,
    /// Whether to suggest inserting over HTTP. On another machine's PostgreSQL, psql may be missing here or
    /// ask for a password.
    over_http: bool,
}

const SQL: &str = r#"insert into events (type, timestamp, subscriber, payload) values ('insert', now(), 'toto', '{\"foo\": \"bar\"}')"#;
const EVENT: &str = r#"{"type": "insert", "subscriber": "toto", "payload": {"foo": "bar"}}"#;

impl Banner {
    pub(super) fn new(config: &Config) -> Self {
        let modes = config.access.modes;
        let url = matches!(config.database, Database::Url { .. });
        Self {
            psql: invocation::of(&config.database, "psql"),
            scheme: if config.tls.is_some() { "https" } else { "http" },
            modes,
            over_http: url && modes.is_open() && config.gateway.writer.is_some(),
        }
    }

    /// Prints the hints as text, or as one log line if logs are JSON. Errors are ignored.
    pub(super) fn print(&self, listening: &ListenAddress) {
        let (address, watch, insert, page) = self.hints(listening);
        if telemetry::is_json() {
            return info!(address, watch, insert, page, "EventPiper is at {address}");
        }
        let page = if page.is_empty() { page } else { format!("  page     {page}\n") };
        let text = format!(
            "\nEventPiper is at {address}\n\n  watch    {watch}\n  insert   {insert}\n{page}"
        );
        let _ = output::line(text);
    }

    /// The address, the commands to watch and to insert events, and the address of the console page.
    fn hints(&self, listening: &ListenAddress) -> (String, String, String, String) {
        let (address, curl, base, page) = match listening {
            ListenAddress::Tcp(listening) => {
                let address = format!("{}://{}", self.scheme, reachable_at(*listening));
                let page = format!("{address}/");
                (address.clone(), "curl".to_owned(), address, page)
            }
            ListenAddress::Unix(path) => {
                let curl = format!("curl --unix-socket {}", quoted(&path.to_string_lossy()));
                (listening.to_string(), curl, "http://localhost".to_owned(), String::new())
            }
        };
        let (credentials, psql) = (self.credentials(), &self.psql);
        let url = |path: &str| quoted(&format!("{base}{path}"));
        let watch = format!("{curl} -N -H '{credentials}' {}", url("/events"));
        let insert = if self.over_http {
            format!("{curl} -d '{EVENT}' {}", url("/events"))
        } else {
            format!("{psql} -c \"{SQL}\"")
        };
        (address, watch, insert, page)
    }

    /// The header with credentials for `curl`.
    fn credentials(&self) -> &'static str {
        if self.modes.jwt || self.modes.keys {
            "Authorization: Bearer ..."
        } else {
            "X-Consumer-Id: toto"
        }
    }
}

/// An address to connect to: loopback in place of the unspecified address.
pub(super) fn reachable_at(mut listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listening.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listening.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listening
}
