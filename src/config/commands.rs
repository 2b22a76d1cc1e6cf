//! The environment variables of flags that belong to single commands and are not settings.

pub(crate) const URL: &str = "EVENT_PIPER_URL";
pub(crate) const TOKEN: &str = "EVENT_PIPER_TOKEN";
pub(crate) const TOKEN_FILE: &str = "EVENT_PIPER_TOKEN_FILE";
pub(crate) const PUMP_HEALTH: &str = "EVENT_PIPER_PUMP_HEALTH";

/// All of these variables.
pub(crate) const ALL: [&str; 4] = [URL, TOKEN, TOKEN_FILE, PUMP_HEALTH];
