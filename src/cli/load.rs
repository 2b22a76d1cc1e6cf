//! Loads the settings of a command, and starts the log as they say.

use tracing::warn;

use crate::{
    config::{Config, Flags, WrongSettings},
    telemetry,
};

pub(super) fn load(flags: Flags) -> Result<Config, WrongSettings> {
    Ok(start_logging(Config::load(flags)?))
}

/// Logs as these settings say, and first of all what has no effect of them.
pub(super) fn start_logging(config: Config) -> Config {
    telemetry::init(&config.telemetry);
    config.unused.iter().for_each(|sentence| warn!("{sentence}"));
    config
}
