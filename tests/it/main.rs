//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod access;
mod browser;
mod chaos;
mod doctor;
mod embedded;
mod exhaustion;
mod failover;
mod harness;
mod http;
mod late;
mod limits;
mod live;
mod load;
mod migrate;
mod order;
mod reconnect;
mod replay;
mod roles;
mod schema;
mod server;
mod shutdown;
mod slow_consumer;
mod support;
mod tail;
mod wakeups;
