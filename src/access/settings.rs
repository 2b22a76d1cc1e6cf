//! What an operator can turn about who may do what.

use std::time::Duration;

use secrecy::SecretString;

use super::{hosts::Hosts, networks::Networks, rights::Rights, throttle::Limits, token::Issuer};

/// See the module.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which proofs count.
    pub modes: Modes,
    /// Whose `X-Consumer-Id` and `X-Forwarded-For` are believed.
    pub trusted_proxies: Networks,
    /// What those may do whom a trusted proxy names.
    pub header_rights: Rights,
    /// Who may read the metrics without any proof.
    pub metrics_from: Networks,
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// The cookie in which browsers may bring a token.
    pub cookie: Option<String>,
    /// Web origins whose pages may write by way of that cookie.
    pub origins: Vec<String>,
    /// What signs tickets, and what signed them until lately.
    pub ticket_keys: Vec<SecretString>,
    /// How often the keys of issuers are looked at: one that was withdrawn is believed no longer.
    pub refresh: Duration,
    /// How much each principal may ask for.
    pub limits: Limits,
    /// Names beside this machine's own that requests may be for.
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

/// Which proofs count. None: the open mode, in which nobody needs any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// The header that a trusted proxy sets.
    pub trusted_header: bool,
    /// Tokens of trusted issuers.
    pub jwt: bool,
    /// Keys of our own.
    pub keys: bool,
}

impl Modes {
    /// Anybody may do anything: for loopback addresses.
    pub const OPEN: Self = Self { trusted_header: false, jwt: false, keys: false };
    /// Something in front has authenticated the caller.
    pub const TRUSTED_HEADER: Self = Self { trusted_header: true, jwt: false, keys: false };

    /// Nobody needs a proof.
    #[must_use]
    pub fn is_open(self) -> bool {
        self == Self::OPEN
    }
}
