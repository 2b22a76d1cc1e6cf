//! Lists of addresses and networks, and the peers of connections.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer with this address.
    Ip(IpAddr),
    /// A process of this machine that the permissions of the Unix socket let in.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A list of addresses and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    /// The loopback addresses.
    #[must_use]
    pub fn loopback() -> Self {
        "127.0.0.0/8,::1".parse().unwrap_or_default()
    }

    /// Whether the peer is listed. A peer at a Unix socket always is.
    #[must_use]
    pub fn contain(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => true,
            Peer::Ip(address) => {
                let address = address.to_canonical();
                self.0.iter().any(|network| network.contains(&address))
            }
        }
    }
}

impl std::str::FromStr for Networks {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let listed = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        let network = |text: &str| {
            let address = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse::<IpNet>().ok().or_else(|| address(text)).ok_or(())
        };
        listed.map(network).collect::<Result<_, ()>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_only_listed_addresses_and_networks() {
        let listed: Networks = "10.0.0.0/8, 192.168.1.7 ,2001:db8::/32".parse().unwrap();
        let contain = |address: &str| listed.contain(Peer::Ip(address.parse().unwrap()));
        for inside in ["10.1.2.3", "192.168.1.7", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(contain(inside), "{inside}");
        }
        for outside in ["11.0.0.1", "192.168.1.8", "2001:db9::1", "::1", "127.0.0.1"] {
            assert!(!contain(outside), "{outside}");
        }
        assert!(listed.contain(Peer::Unix));
        assert!(Networks::loopback().contain(Peer::Ip("127.8.8.8".parse().unwrap())));
        for wrong in ["10.0.0.0/33", "kong", "10.0.0.1-9", "10.0.0"] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
    }
}
