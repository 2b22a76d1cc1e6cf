//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod amend;
mod browser;
mod chaos;
mod doctor;
mod embedded;
mod erase;
mod harness;
mod http;
mod late;
mod limits;
mod live;
mod load;
mod migrate;
mod order;
mod partition;
mod prune;
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
