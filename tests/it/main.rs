//! Integration tests, in one binary: real PostgreSQL, real sockets.

mod order;
