//! The environment variables of this program.

use std::{collections::BTreeMap, env};

use super::commands;
use crate::nearest::did_you_mean;

const PREFIX: &str = "EVENT_PIPER_";
/// The prefix of variables for the tests of this repository.
const TEST_PREFIX: &str = "EVENT_PIPER_TEST_";

/// Variables by name, and errors in them.
#[derive(Default)]
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    wrong: Vec<String>,
}

impl Environment {
    /// The environment of this process.
    pub(super) fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in env::vars_os() {
            let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name.to_owned(), value)),
                Err(_) => environment.wrong.push(format!("{name}: its value is not UTF-8")),
            }
        }
        environment
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self { variables: variables.iter().map(owned).collect(), wrong: Vec::new() }
    }

    /// The value of a variable. An empty one counts as not set, since many tools pass empty variables.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// An error for each variable that begins with the prefix and is not known.
    pub(super) fn complaints(&self, known: &[&str]) -> Vec<String> {
        let known = || known.iter().copied().chain(commands::ALL);
        let unknown = self.variables.keys().filter(|name| {
            name.starts_with(PREFIX)
                && !name.starts_with(TEST_PREFIX)
                && !is_of_kubernetes(name)
                && known().all(|known| known != *name)
        });
        let complaint =
            |name: &String| format!("{name}: unknown variable{}", did_you_mean(name, known()));
        self.wrong.iter().cloned().chain(unknown.map(complaint)).collect()
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with("DATABASE_URL")
}

/// Whether Kubernetes sets a variable. It describes the services of the namespace to every container, and
/// a service that is called `event-piper` leads to variables with our prefix.
fn is_of_kubernetes(name: &str) -> bool {
    let port = |it: &str| it.is_empty() || it.starts_with(|c: char| c == '_' || c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.split_once("_SERVICE_PORT").is_some_and(|(_, rest)| port(rest))
        || name == "EVENT_PIPER_PORT"
        || name.split_once("_PORT_").is_some_and(|(_, rest)| {
            let (number, protocol) = rest.split_once('_').unwrap_or((rest, ""));
            number.bytes().all(|byte| byte.is_ascii_digit())
                && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_misspelt_variables_but_not_those_of_kubernetes() {
        let environment = Environment::of(&[
            ("EVENT_PIPER_HEARBEAT", "1s"),
            ("EVENT_PIPER_HEARTBEAT", "1s"),
            ("EVENT_PIPER_TOKEN", "x"),
            ("EVENT_PIPER_TEST_POSTGRES_BIN", "/x"),
            ("EVENT_PIPER_SERVICE_HOST", "10.0.0.1"),
            ("EVENT_PIPER_SERVICE_PORT", "4000"),
            ("EVENT_PIPER_SERVICE_PORT_HTTP", "4000"),
            ("EVENT_PIPER_PORT", "tcp://10.0.0.1:4000"),
            ("EVENT_PIPER_PORT_4000_TCP", "tcp://10.0.0.1:4000"),
            ("EVENT_PIPER_PORT_4000_TCP_ADDR", "10.0.0.1"),
            ("EVENT_PIPER_PUMP_PORT_4000_TCP_PROTO", "tcp"),
            ("EVENT_PIPER_WHATEVER_ELSE", ""),
        ]);
        let complaints = environment.complaints(&["EVENT_PIPER_HEARTBEAT"]);
        assert_eq!(
            complaints,
            [
                "EVENT_PIPER_HEARBEAT: unknown variable: did you mean EVENT_PIPER_HEARTBEAT?",
                "EVENT_PIPER_WHATEVER_ELSE: unknown variable",
            ]
        );
    }
}
