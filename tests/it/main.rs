//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod embedded;
mod harness;
mod support;
