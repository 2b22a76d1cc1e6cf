//! The settings of authentication and authorization.

use std::time::Duration;

use secrecy::SecretString;

use super::{hosts::Hosts, networks::Networks, rights::Rights, throttle::Limits, token::Issuer};

/// What is accepted as credentials, and what principals may do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The accepted kinds of credentials.
    pub modes: Modes,
    /// The peers whose `X-Consumer-Id` and `X-Forwarded-For` are trusted.
    pub trusted_proxies: Networks,
    /// The rights of consumers that a trusted proxy names, in addition to reading their own events.
    pub header_rights: Rights,
    /// The peers that may read the metrics without credentials.
    pub metrics_from: Networks,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// The name of the cookie in which browsers may send a token.
    pub cookie: Option<String>,
    /// Web origins whose pages may write with a token from that cookie.
    pub origins: Vec<String>,
    /// The keys of tickets: the first one signs, and all of them verify. Empty: a random key.
    pub ticket_keys: Vec<SecretString>,
    /// How often the keys of issuers are fetched. A withdrawn key is trusted for at most this long.
    pub refresh: Duration,
    /// The limits of each principal.
    pub limits: Limits,
    /// Host names that requests may name, in addition to those of this machine.
    pub hosts: Hosts,
}

impl Default for Settings {
    /// The open mode.
    fn default() -> Self {
        Self {
            modes: Modes::OPEN,
            trusted_proxies: Networks::loopback(),
            header_rights: Rights::default(),
            metrics_from: Networks::loopback(),
            issuers: Vec::new(),
            cookie: None,
            origins: Vec::new(),
            ticket_keys: Vec::new(),
            refresh: Duration::from_mins(5),
            limits: Limits::default(),
            hosts: Hosts::default(),
        }
    }
}

/// The accepted kinds of credentials. In the open mode there are none, and none are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// The header that a trusted proxy sets.
    pub trusted_header: bool,
    /// Tokens (JWT) of trusted issuers.
    pub jwt: bool,
    /// Keys that this program creates.
    pub keys: bool,
}

impl Modes {
    /// The open mode: every request may do everything. It is meant for loopback addresses.
    pub const OPEN: Self = Self { trusted_header: false, jwt: false, keys: false };
    /// A proxy in front authenticates the callers.
    pub const TRUSTED_HEADER: Self = Self { trusted_header: true, jwt: false, keys: false };

    /// Whether no credentials are needed.
    #[must_use]
    pub fn is_open(self) -> bool {
        self == Self::OPEN
    }
}
