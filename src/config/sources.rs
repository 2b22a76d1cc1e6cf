//! The sources of settings. A flag takes precedence over the environment, and that over the file.

use std::{collections::BTreeMap, fs};

use super::{
    aggregator::settings::ALL as OF_AGGREGATORS,
    environment::Environment,
    flags::Flags,
    setting::Key,
    settings,
    values::{Given, Source, Values, WrongSettings, known},
};
use crate::telemetry::Format;

/// The key of the tables of aggregators in the file.
const AGGREGATOR: &str = "aggregator";

/// The values from all sources.
pub(super) struct Sources {
    pub(super) values: Values,
    /// The `[[aggregator]]` tables, each with the path of the file.
    pub(super) aggregators: Vec<(String, toml::Table)>,
}

impl Sources {
    pub(super) fn new(flags: Flags, environment: &Environment) -> Self {
        let values = Values::new(settings::ALL);
        let mut sources = Self { values, aggregators: Vec::new() };
        sources.values.wrong = environment.complaints(&variables());
        sources.values.add(of_flags(flags.0));
        sources.values.add(of_environment(settings::ALL, environment));
        if let Some(path) = sources.values.peek(&settings::CONFIG.key).map(ToOwned::to_owned) {
            let settings = sources.read_file(&path);
            sources.values.add(settings);
        }
        sources
    }

    fn read_file(&mut self, path: &str) -> Source {
        let mut table = match fs::read_to_string(path).map(|text| text.parse::<toml::Table>()) {
            Ok(Ok(table)) => table,
            Ok(Err(e)) => {
                // Only the message: the excerpt of the file may contain a secret.
                self.values.wrong(format!("--config: {path:?} is not valid TOML: {}", e.message()));
                return Source::new();
            }
            Err(e) => {
                self.values.wrong(format!("--config: cannot read {path:?} ({e})"));
                return Source::new();
            }
        };
        if let Some(aggregators) = table.remove(AGGREGATOR) {
            self.take_aggregators(path, aggregators);
        }
        table.into_iter().filter_map(|(name, value)| self.known(path, &name, value)).collect()
    }

    fn take_aggregators(&mut self, path: &str, value: toml::Value) {
        let tables = match value {
            toml::Value::Array(tables) => tables,
            one => vec![one],
        };
        for table in tables {
            match table {
                toml::Value::Table(table) => self.aggregators.push((path.to_owned(), table)),
                _ => {
                    self.values.wrong(format!("{AGGREGATOR} in {path}: expected [[{AGGREGATOR}]]"));
                }
            }
        }
    }

    fn known(
        &mut self,
        path: &str,
        name: &str,
        value: toml::Value,
    ) -> Option<(&'static str, Given)> {
        let place = format!("{name} in {path}");
        let config = settings::CONFIG.key.name;
        let of_file = settings::ALL.iter().copied().filter(|key| key.name != config);
        let key = match known(of_file, name) {
            Ok(key) => key,
            Err(complaint) => {
                self.values.wrong(format!("{place}: {complaint}"));
                return None;
            }
        };
        let Some(value) = plain(value) else {
            let expected = "expected a string, a number, a boolean or a list of strings";
            self.values.wrong(format!("{place}: {expected}"));
            return None;
        };
        Some((key.name, Given { place, value }))
    }

    /// Returns the errors in the environment.
    pub(super) fn only_environment(self) -> Result<(), WrongSettings> {
        self.values.finish((), Format::default())
    }
}

/// The values from flags.
pub(super) fn of_flags(flags: BTreeMap<&'static str, String>) -> Source {
    let given = |(name, value)| (name, Given { place: format!("--{name}"), value });
    flags.into_iter().map(given).collect()
}

/// The values from the variables of these settings.
pub(super) fn of_environment(keys: &[&'static Key], environment: &Environment) -> Source {
    let given = |key: &&'static Key| {
        let value = environment.get(key.variable)?;
        Some((key.name, Given { place: key.variable.to_owned(), value }))
    };
    keys.iter().filter_map(given).collect()
}

/// The variables of all settings, including those of aggregators.
fn variables() -> Vec<&'static str> {
    settings::ALL.iter().chain(OF_AGGREGATORS).map(|key| key.variable).collect()
}

/// A value from the file, in the form of a flag's value.
pub(super) fn plain(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<_>> = list.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}
