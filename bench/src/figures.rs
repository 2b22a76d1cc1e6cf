//! What is measured, one module a figure.

pub(crate) mod writers;
