//! Names that requests may be for.
//!
//! A web page can make a name of its own point to this machine (DNS rebinding). To the browser,
//! whatever is answered there is then the page's own, and nothing but the name that the request
//! is for tells it apart from a request of somebody who sits here. Such a name has a dot: it is in
//! the public DNS. Addresses point to nothing else, and names of one label are a local network's.

use std::{net::IpAddr, str::FromStr};

/// Names that are listed, beside those of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Box<[Box<str>]>);

impl Hosts {
    /// None is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them, or no name that a web page can have.
    #[must_use]
    pub fn contain(&self, host: &str) -> bool {
        let host = plain(host);
        let local = is_this_machine(&host) || host.parse::<IpAddr>().is_ok() || is_label(&host);
        local || self.0.iter().any(|listed| **listed == *host)
    }
}

/// Whether only this machine itself can be meant (RFC 6761, section 6.3).
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    is_this_machine(&plain(host))
}

fn is_this_machine(plain: &str) -> bool {
    let address = plain.parse::<IpAddr>();
    let loopback = address.is_ok_and(|address| address.to_canonical().is_loopback());
    loopback || plain == "localhost" || plain.ends_with(".localhost")
}

fn is_label(plain: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !plain.is_empty() && plain.bytes().all(fine)
}

/// In small letters, without the brackets of an address and the dot of a whole name.
fn plain(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

impl FromStr for Hosts {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let listed = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let name = |name: &str| {
            let name = plain(name);
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
    fn this_machine_has_several_names_and_nobody_elses_looks_like_them() {
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
    fn a_name_is_listed_as_it_is_asked_for() {
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
