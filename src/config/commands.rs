//! The variables of flags that single commands have beside the settings: those that follow a
//! gateway from elsewhere, and a pump's health.

pub(crate) const URL: &str = "EVENT_PIPER_URL";
pub(crate) const TOKEN: &str = "EVENT_PIPER_TOKEN";
pub(crate) const TOKEN_FILE: &str = "EVENT_PIPER_TOKEN_FILE";
pub(crate) const PUMP_HEALTH: &str = "EVENT_PIPER_PUMP_HEALTH";

/// All of them.
pub(crate) const ALL: [&str; 4] = [URL, TOKEN, TOKEN_FILE, PUMP_HEALTH];
