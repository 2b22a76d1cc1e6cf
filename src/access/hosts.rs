//! The host names that requests may name.
//!
//! A web page can make its own host name resolve to this machine (DNS rebinding). The browser then
//! treats the responses of this machine as the page's own, and only the host name in the request
//! tells it from a request of a local user. Such a name contains a dot, because it is in the public
//! DNS. An IP address cannot be rebound, and a name of one label belongs to the local network.

use std::{net::IpAddr, str::FromStr};

/// The host names of `--allowed-hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Box<[Box<str>]>);

impl Hosts {
    /// Whether no name is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a name is listed, or is one that a web page cannot have.
    #[must_use]
    pub fn contain(&self, host: &str) -> bool {
        let host = normalized(host);
        let local = is_this_machine(&host) || host.parse::<IpAddr>().is_ok() || is_label(&host);
        local || self.0.iter().any(|listed| **listed == *host)
    }
}

/// Whether a name always means this machine (RFC 6761, section 6.3).
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    is_this_machine(&normalized(host))
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    let loopback = address.is_ok_and(|address| address.to_canonical().is_loopback());
    loopback || host == "localhost" || host.ends_with(".localhost")
}

fn is_label(host: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !host.is_empty() && host.bytes().all(fine)
}

/// Lower case, without the brackets of an IPv6 address and the final dot of a fully qualified name.
fn normalized(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

impl FromStr for Hosts {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let listed = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let name = |name: &str| {
            let name = normalized(name);
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            let is_name = name.bytes().all(fine) || name.parse::<IpAddr>().is_ok();
            is_name.then(|| name.into()).ok_or(())
        };
        listed.map(name).collect::<Result<_, ()>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_told_from_others() {
        let none = Hosts::default();
        for own in [
            "localhost",
            "LocalHost",
            "localhost.",
            "app.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "::1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(none.contain(own) && is_loopback(own), "{own}");
        }
        for foreign in [
            "",
            ".",
            "a b",
            "a@b",
            "evil.example",
            "evil.example.",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
        ] {
            assert!(!none.contain(foreign) && !is_loopback(foreign), "{foreign}");
        }
        for harmless in ["gateway", "notlocalhost", "0.0.0.0", "192.168.1.7", "[fe80::1]"] {
            assert!(none.contain(harmless) && !is_loopback(harmless), "{harmless}");
        }
    }

    #[test]
    fn listed_names_are_compared_without_case_and_final_dot() {
        let listed: Hosts = "Events.Test, 192.168.1.7,[fe80::1]".parse().unwrap();
        for known in ["events.test", "EVENTS.TEST.", "192.168.1.7", "[fe80::1]", "localhost"] {
            assert!(listed.contain(known), "{known}");
        }
        assert!(!listed.contain("a.events.test") && !listed.contain("events.tests"));
        for wrong in ["https://a.test", "a.test:80", "*.a.test", "a b", "a/b", "a@b"] {
            assert!(wrong.parse::<Hosts>().is_err(), "{wrong}");
        }
    }
}
