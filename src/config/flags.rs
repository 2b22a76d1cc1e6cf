//! The flags of settings, built from their constants.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command, error::Error as ClapError};

use super::{aggregator::settings::ALL as OF_AGGREGATORS, setting::Key, settings};

/// The values from the command line by the names of settings, not parsed yet. No `Debug`, since they
/// may be secrets.
#[derive(Clone, Default)]
pub struct Flags(pub(super) BTreeMap<&'static str, String>);

/// The same for the settings of one aggregator.
#[derive(Clone, Default)]
pub struct AggregatorFlags(pub(super) BTreeMap<&'static str, String>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(settings::ALL.iter().copied().flat_map(flags))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        Ok(Self(given(settings::ALL, matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for AggregatorFlags {
    fn augment_args(command: Command) -> Command {
        let flags = OF_AGGREGATORS.iter().copied().flat_map(flags);
        command.args(flags.map(|flag| flag.help_heading("Aggregator")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for AggregatorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        Ok(Self(given(OF_AGGREGATORS, matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting; for a switch, also the flag for `false`.
fn flags(key: &'static Key) -> Vec<Arg> {
    let Key { name, value, variable, help, default, .. } = *key;
    let Some((no, no_help)) = key.negation else {
        let default = default.filter(|default| !default.is_empty());
        let default = default.map(|it| format!(" [default: {it}]")).unwrap_or_default();
        let help = format!("{help}{default} [env: {variable}]");
        return vec![Arg::new(name).long(name).value_name(value).help(help)];
    };
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    vec![
        switch(name).help(format!("{help} [env: {variable}]")).overrides_with(no),
        switch(no).help(no_help).overrides_with(name),
    ]
}

fn given(keys: &[&'static Key], matches: &ArgMatches) -> BTreeMap<&'static str, String> {
    let text = |key: &Key| match key.negation {
        None => matches.get_one::<String>(key.name).cloned(),
        Some(_) if matches.get_flag(key.name) => Some("true".to_owned()),
        Some((no, _)) => matches.get_flag(no).then(|| "false".to_owned()),
    };
    keys.iter().filter_map(|key| Some((key.name, text(key)?))).collect()
}
