//! Addresses of programs that are started again where they were.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the ports that systems hand out by themselves, so that nobody takes a server's port
/// while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of this machine's that nobody has.
pub(crate) fn free_port() -> u16 {
    free_address().port()
}

/// The same with its address.
pub(crate) fn free_address() -> SocketAddr {
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
    let free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    std::iter::repeat_with(any).find(free).unwrap()
}
