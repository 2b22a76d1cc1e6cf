//! The values that were given for settings, and the errors in them.

use std::{collections::BTreeMap, fmt, fs};

use super::{
    setting::{Key, Optional, Setting},
    value::Expected,
};
use crate::{nearest::did_you_mean, telemetry::Format};

/// The errors in all settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSettings {
    /// One sentence each.
    pub(super) complaints: Vec<String>,
    /// The format in which to log the errors. The default if that setting is wrong, too.
    pub log_format: Format,
}

impl std::error::Error for WrongSettings {}

impl fmt::Display for WrongSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.complaints.len() == 1;
        f.write_str(if one { "a setting is invalid:" } else { "settings are invalid:" })?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

/// A value, and the place where it was given, as error messages name it.
pub(super) struct Given {
    pub(super) place: String,
    pub(super) value: String,
}

/// The values of one source, by the names of the settings.
pub(super) type Source = BTreeMap<&'static str, Given>;

/// The given values of each setting, the one that takes precedence first, and the errors so far.
pub(super) struct Values {
    keys: &'static [&'static Key],
    given: BTreeMap<&'static str, Vec<Given>>,
    pub(super) wrong: Vec<String>,
    /// Warnings about settings that were given and have no effect, one sentence each.
    pub(super) unused: Vec<String>,
}

impl Values {
    pub(super) fn new(keys: &'static [&'static Key]) -> Self {
        Self { keys, given: BTreeMap::new(), wrong: Vec::new(), unused: Vec::new() }
    }

    /// Adds a source. The sources before it take precedence.
    pub(super) fn add(&mut self, mut source: Source) {
        for key in self.keys {
            if let Some(file) = key.file {
                self.read_secret(&mut source, key, file);
            }
        }
        for (name, given) in source {
            self.given.entry(name).or_default().push(given);
        }
    }

    /// Replaces the path of a file with a secret by the secret, so that both are one setting.
    fn read_secret(&mut self, source: &mut Source, secret: &Key, file: &Key) {
        let Some(Given { place, value }) = source.remove(file.name) else { return };
        if let Some(given) = source.get(secret.name) {
            return self
                .wrong(format!("{place}: {} is set too: expected only one of them", given.place));
        }
        match fs::read_to_string(&value) {
            Ok(text) => {
                let text = Given { place, value: trimmed(&text).to_owned() };
                source.insert(secret.name, text);
            }
            Err(e) => self.wrong(format!("{place}: cannot read {value:?} ({e})")),
        }
    }

    /// The value of a setting with a default. After an error the default is returned, so that the other
    /// settings are checked as well.
    pub(super) fn setting<T>(&mut self, setting: &Setting<T>) -> T {
        let given = self.parsed(&setting.key, setting.parse);
        let default = || (setting.parse)(setting.key.default.unwrap_or_default()).ok();
        given.or_else(default).expect("a default is right")
    }

    /// The value of a setting without a default.
    pub(super) fn optional<T>(&mut self, setting: &Optional<T>) -> Option<T> {
        self.parsed(&setting.key, setting.parse)
    }

    /// Parses all values of a setting, and returns the one that takes precedence. Errors in the others are
    /// reported, too.
    fn parsed<T>(&mut self, key: &Key, parse: fn(&str) -> Result<T, Expected>) -> Option<T> {
        let given = self.given.remove(key.name).unwrap_or_default();
        let parsed = given.into_iter().filter_map(|it| match parse(&it.value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.wrong.push(complaint(key, &it, &expected));
                None
            }
        });
        parsed.collect::<Vec<_>>().into_iter().next()
    }

    /// Adds an error about a combination of settings.
    pub(super) fn wrong(&mut self, complaint: String) {
        self.wrong.push(complaint);
    }

    /// The value of a setting that takes precedence, as it was given.
    pub(super) fn peek(&self, key: &Key) -> Option<&str> {
        Some(&self.given.get(key.name)?.first()?.value)
    }

    /// The place where the value that takes precedence was given.
    pub(super) fn place_of(&self, key: &Key) -> Option<&str> {
        Some(&self.given.get(key.name)?.first()?.place)
    }

    /// Returns the outcome, or the errors if there are any.
    pub(super) fn finish<T>(self, outcome: T, log_format: Format) -> Result<T, WrongSettings> {
        if self.wrong.is_empty() {
            return Ok(outcome);
        }
        Err(WrongSettings { complaints: self.wrong, log_format })
    }
}

fn complaint(key: &Key, given: &Given, expected: &str) -> String {
    let Given { place, value } = given;
    if key.hidden {
        format!("{place}: the value is invalid: expected {expected}")
    } else {
        format!("{place}: {value:?} is invalid: expected {expected}")
    }
}

/// Finds a setting by its name. The error names the setting that was probably meant, or all of them.
pub(super) fn known(
    mut keys: impl Iterator<Item = &'static Key> + Clone,
    name: &str,
) -> Result<&'static Key, String> {
    let names = keys.clone().map(|key| key.name);
    keys.find(|key| key.name == name).ok_or_else(|| {
        let meant = did_you_mean(name, names.clone());
        if meant.is_empty() {
            let names: Vec<_> = names.collect();
            format!("unknown setting: expected one of {}", names.join(", "))
        } else {
            format!("unknown setting{meant}")
        }
    })
}

/// The content of a file without surrounding white space and without a byte order mark.
pub(super) fn trimmed(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text).trim()
}
