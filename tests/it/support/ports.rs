//! Addresses for programs that are restarted at the same address.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{LazyLock, Mutex},
};

/// Below the ephemeral ports of the system, so that no other program takes a server's port while it is stopped.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The ports that were given out, because a server may be stopped and restart at its port.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// Returns an unused port.
pub(crate) fn free_port() -> u16 {
    free_address().port()
}

/// Returns an unused loopback address.
pub(crate) fn free_address() -> SocketAddr {
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
    let free = |address: &SocketAddr| {
        TcpListener::bind(address).is_ok() && GIVEN.lock().unwrap().insert(address.port())
    };
    std::iter::repeat_with(any).find(free).unwrap()
}
