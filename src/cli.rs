//! The commands: each wires together what it needs, and nobody imports them.

pub mod doctor;
pub mod migrate;
