//! Authentication and authorization: valid and invalid credentials, and rights.

mod amendments;
mod browsers;
mod console;
mod hostile;
pub(crate) mod issuer;
mod issuer_keys;
mod keys;
mod limits;
mod proxies;
mod rights;
mod sockets;
mod tickets;
mod tokens;
