//! Loads the settings of a command, and starts logging with them.

use tracing::warn;

use crate::{
    config::{Config, Flags, WrongSettings},
    telemetry,
};

/// Loads the settings, and starts logging.
pub(super) fn load(flags: Flags) -> Result<Config, WrongSettings> {
    Ok(start_logging(Config::load(flags)?))
}

/// Starts logging, and warns about settings without effect.
pub(super) fn start_logging(config: Config) -> Config {
    telemetry::init(&config.telemetry);
    config.unused.iter().for_each(|sentence| warn!("{sentence}"));
    config
}
