//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod browser;
mod chaos;
mod doctor;
mod embedded;
mod harness;
mod http;
mod late;
mod limits;
mod live;
mod load;
mod migrate;
mod order;
mod pump;
mod reconnect;
mod replay;
mod roles;
mod schema;
mod server;
mod shutdown;
mod slow_consumer;
mod strict;
mod support;
mod tail;
mod wakeups;
