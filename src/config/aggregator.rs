//! The settings of one aggregator's pump: from flags and the environment, or from a table
//! `[[aggregator]]` of the file, by the same names.

pub(super) mod settings;
mod value;

use std::{path::Path, sync::Arc};

use super::{
    environment::Environment,
    flags::AggregatorFlags,
    sources::{self, plain},
    values::{Given, Source, Values, known},
};
use crate::{
    pump::{
        Settings,
        aggregator::Target,
        feed::{BatchSize, EventFormat, Filter},
        tls::{self, TlsError},
    },
    store::error::ErrorChain,
};

/// The values from flags and, where they are not given, from the environment. `None` if there are none.
pub(super) fn of_flags(flags: AggregatorFlags, environment: &Environment) -> Option<Values> {
    let mut source = sources::of_environment(settings::ALL, environment);
    source.extend(sources::of_flags(flags.0));
    if source.is_empty() { None } else { Some(values(source)) }
}

/// The values from a table of the file.
pub(super) fn of_table(path: &str, table: toml::Table, wrong: &mut Vec<String>) -> Values {
    let mut source = Source::new();
    for (name, value) in table {
        let place = format!("{name} of an [[aggregator]] in {path}");
        let key = match known(settings::ALL.iter().copied(), &name) {
            Ok(key) => key,
            Err(complaint) => {
                wrong.push(format!("{place}: {complaint}"));
                continue;
            }
        };
        match written(value) {
            Some(value) => drop(source.insert(key.name, Given { place, value })),
            None => wrong.push(format!("{place}: expected a string, a number, or a list")),
        }
    }
    values(source)
}

/// Collects values. An empty one counts as not given.
fn values(mut source: Source) -> Values {
    source.retain(|_, given| !given.value.is_empty());
    let mut values = Values::new(settings::ALL);
    values.add(source);
    values
}

/// Builds the settings of a pump. Errors are added to `wrong`.
pub(super) fn settings(mut from: Values, wrong: &mut Vec<String>) -> Option<Settings> {
    let target = target(&mut from);
    let format = format(&mut from);
    let name = from.optional(&settings::NAME);
    let start = from.setting(&settings::START);
    let longest_pause = from.setting(&settings::LONGEST_PAUSE);
    let refusals = from.setting(&settings::REFUSALS);
    let on_refusal = from.setting(&settings::ON_REFUSAL);
    let catch_up = from.setting(&settings::CATCH_UP);
    let right = from.wrong.is_empty();
    wrong.append(&mut from.wrong);
    let (url, target) = target?;
    let settings = Settings {
        name: name.unwrap_or(url),
        target,
        format,
        start,
        longest_pause,
        refusals: u32::try_from(refusals).unwrap_or(u32::MAX),
        on_refusal,
        catch_up,
    };
    right.then_some(settings)
}

fn format(from: &mut Values) -> EventFormat {
    EventFormat {
        filter: Filter {
            types: from.setting(&settings::ONLY_TYPES),
            subscribers: from.setting(&settings::ONLY_SUBSCRIBERS),
            streams: from.setting(&settings::ONLY_STREAMS),
        },
        fields: from.setting(&settings::FIELDS),
        size: BatchSize {
            events: from.setting(&settings::BATCH_EVENTS),
            bytes: from.setting(&settings::BATCH_BYTES),
        },
    }
}

/// The URL of the aggregator, which is its default name, and how to connect to it.
fn target(from: &mut Values) -> Option<(String, Target)> {
    let timeout = from.setting(&settings::TIMEOUT);
    let batch_path = from.setting(&settings::BATCH_PATH);
    let token = from.optional(&settings::TOKEN);
    let key = from.optional(&settings::SIGNING_KEY);
    let tls = tls(from);
    if from.peek(&settings::TO.key).is_none() {
        from.wrong("an aggregator: expected `to`, its URL".into());
    }
    let url = from.optional(&settings::TO)?;
    let target = Target {
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port_or_known_default().unwrap_or(80),
        base: format!("{}/", url.path().trim_end_matches('/')),
        batch_path,
        tls: if url.scheme() == "https" { tls? } else { None },
        token,
        key,
        timeout,
    };
    Some((url.as_str().trim_end_matches('/').to_owned(), target))
}

fn is_key(files: &tls::Files, path: &Path) -> bool {
    files.own.as_ref().is_some_and(|(_, key)| key == path)
}

/// The TLS configuration. `None` after an error, `Some(None)` if none is needed. Files are read for HTTPS
/// or if they are given.
#[expect(clippy::option_option, reason = "an error, or not needed")]
fn tls(from: &mut Values) -> Option<Option<Arc<rustls::ClientConfig>>> {
    let keys = [&settings::CA_FILE.key, &settings::CERTIFICATE_FILE.key, &settings::KEY_FILE.key];
    let [ca, own_place, key_place] = keys.map(|key| from.place_of(key).map(ToOwned::to_owned));
    let roots = from.optional(&settings::CA_FILE);
    let certificate = from.optional(&settings::CERTIFICATE_FILE);
    let own = match (certificate, from.optional(&settings::KEY_FILE)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            from.wrong("certificate-file and key-file: expected both, or neither".into());
            return None;
        }
    };
    let named = roots.is_some() || own.is_some();
    let https = from.peek(&settings::TO.key).is_some_and(|to| to.starts_with("https:"));
    if !named && !https {
        return Some(None);
    }
    let files = tls::Files { roots, own };
    match tls::config(&files) {
        Ok(config) => Some(Some(config)),
        Err(error) => {
            let place = match &error {
                TlsError::Unreadable { path, .. } if files.roots.as_ref() == Some(path) => ca,
                TlsError::Unreadable { path, .. } if is_key(&files, path) => key_place,
                TlsError::Unreadable { .. } | TlsError::Unusable(_) => own_place,
                TlsError::NoRoots => ca,
            };
            let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
            from.wrong(format!("{place}TLS to an aggregator: {}", ErrorChain(&error)));
            None
        }
    }
}

/// A value from the file, in the form of a flag's value. The table `fields` becomes lines of pairs.
fn written(value: toml::Value) -> Option<String> {
    let toml::Value::Table(table) = value else { return plain(value) };
    let pairs =
        table.into_iter().map(|(name, source)| Some(format!("{name}={}\n", source.as_str()?)));
    pairs.collect()
}

#[cfg(test)]
mod every;
