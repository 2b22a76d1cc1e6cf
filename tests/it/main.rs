//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod harness;
mod migrate;
mod support;
