//! Addresses of programs that are started again where they were.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{LazyLock, Mutex},
};

/// Below the ports that systems hand out by themselves, so that nobody takes a server's port
/// while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What was given out: a server that is down for a moment comes back to its port.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port of this machine's that nobody has.
pub(crate) fn free_port() -> u16 {
    free_address().port()
}

/// The same with its address.
pub(crate) fn free_address() -> SocketAddr {
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)));
    let free = |address: &SocketAddr| {
        TcpListener::bind(address).is_ok() && GIVEN.lock().unwrap().insert(address.port())
    };
    std::iter::repeat_with(any).find(free).unwrap()
}
