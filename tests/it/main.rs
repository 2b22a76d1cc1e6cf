//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod chaos;
mod doctor;
mod embedded;
mod harness;
mod late;
mod live;
mod load;
mod migrate;
mod order;
mod roles;
mod schema;
mod server;
mod support;
mod wakeups;
