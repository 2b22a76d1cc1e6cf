//! The `event-piper` program.

fn main() {}
