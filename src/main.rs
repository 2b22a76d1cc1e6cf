//! The `event-piper` program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    event_piper::cli::run().await
}
