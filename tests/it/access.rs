//! Who may do what: proofs, good and bad, and what they open.

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
