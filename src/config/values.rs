//! What was given for settings, and what was wrong with it.

use std::{collections::BTreeMap, fmt, fs};

use super::{
    setting::{Key, Optional, Setting},
    value::Expected,
};
use crate::{nearest::did_you_mean, telemetry::Format};

/// Everything that was wrong, a sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSettings {
    pub(super) complaints: Vec<String>,
    /// How logs are to be written, as far as that was understood.
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

/// A value, and what to call the place that it was given in.
pub(super) struct Given {
    pub(super) place: String,
    pub(super) value: String,
}

/// What one source gives, by the settings' names.
pub(super) type Source = BTreeMap<&'static str, Given>;

/// What was given for each of these settings, the strongest first, and what was wrong so far.
pub(super) struct Values {
    keys: &'static [&'static Key],
    given: BTreeMap<&'static str, Vec<Given>>,
    pub(super) wrong: Vec<String>,
    /// What was given and has no effect, a sentence each.
    pub(super) unused: Vec<String>,
}

impl Values {
    pub(super) fn new(keys: &'static [&'static Key]) -> Self {
        Self { keys, given: BTreeMap::new(), wrong: Vec::new(), unused: Vec::new() }
    }

    /// Adds a source that is weaker than those before it.
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

    /// Turns the name of a file with a secret into the secret, so that both are one setting.
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

    /// The value of a setting that has a default. What is wrong is noted, and the default
    /// stands in, so that the others are looked at too.
    pub(super) fn setting<T>(&mut self, setting: &Setting<T>) -> T {
        let given = self.parsed(&setting.key, setting.parse);
        let default = || (setting.parse)(setting.key.default.unwrap_or_default()).ok();
        given.or_else(default).expect("a default is right")
    }

    /// The value of a setting that need not be given.
    pub(super) fn optional<T>(&mut self, setting: &Optional<T>) -> Option<T> {
        self.parsed(&setting.key, setting.parse)
    }

    /// The strongest value. Weaker ones must be right all the same.
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

    /// Notes what is wrong with settings taken together.
    pub(super) fn wrong(&mut self, complaint: String) {
        self.wrong.push(complaint);
    }

    /// The value that counts of a setting, as it was given.
    pub(super) fn peek(&self, key: &Key) -> Option<&str> {
        Some(&self.given.get(key.name)?.first()?.value)
    }

    /// Where the value that counts was given, if there is one.
    pub(super) fn place_of(&self, key: &Key) -> Option<&str> {
        Some(&self.given.get(key.name)?.first()?.place)
    }

    /// The outcome, if nothing was wrong; else what was, for a log of this format.
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

/// The setting of this name, else a complaint that names the one that was probably meant, or all.
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

/// What a file holds, without the blanks around it and the byte order mark of some editors.
pub(super) fn trimmed(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text).trim()
}
