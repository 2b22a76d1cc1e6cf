//! Tries every flag of every command: a valid value is accepted, an invalid one is reported by the name of
//! the flag, and its environment variable is known.

use std::collections::BTreeSet;

use clap::{Arg, Args, CommandFactory};

use super::*;
use crate::config::{AggregatorFlags, commands};

/// A flag of a command that is not a setting.
struct Own {
    /// The command and its subcommand.
    command: &'static str,
    flag: &'static str,
    /// A valid value. `None` for a flag without a value.
    right: Option<&'static str>,
    /// An invalid value. `None` if every text is accepted at first.
    wrong: Option<&'static str>,
}

const fn own(
    command: &'static str,
    flag: &'static str,
    right: Option<&'static str>,
    wrong: Option<&'static str>,
) -> Own {
    Own { command, flag, right, wrong }
}

/// The arguments that these commands need.
const NEEDED: [(&str, &[&str]); 5] = [
    ("keys create", &["--name=n"]),
    ("keys revoke", &["id"]),
    ("pump retry", &["name", "1"]),
    ("pump skip", &["name", "1"]),
    ("append", &["--type=t", "1"]),
];

#[rustfmt::skip]
const OWN: [Own; 31] = [
    own("prune", "older-than", Some("7d"), Some("long")),
    own("prune", "keep", Some("7"), Some("0")),
    own("prune", "except", Some("a*"), None),
    own("prune", "whole-log", None, None),
    own("prune", "dry-run", None, None),
    own("erase", "subscriber", Some("a"), None),
    own("erase", "stream", Some("a"), None),
    own("keys create", "name", Some("a"), Some("")),
    own("keys create", "read", Some("a*"), None),
    own("keys create", "write", Some("a*"), None),
    own("keys create", "read-streams", Some("a*"), None),
    own("keys create", "write-streams", Some("a*"), None),
    own("keys create", "all", None, None),
    own("keys create", "console", None, None),
    own("keys create", "metrics", None, None),
    own("keys create", "expires-in", Some("7d"), Some("soon")),
    own("tail", "consumer", Some("a"), Some("")),
    own("tail", "url", Some("http://h:7/"), Some("h")),
    own("tail", "from", Some("7"), None),
    own("tail", "types", Some("a,b"), None),
    own("tail", "token", Some("unusual"), None),
    own("tail", "token-file", Some("/unusual"), None),
    own("tail", "json", None, None),
    own("pump", "health", Some("127.0.0.1:7"), Some("h")),
    own("append", "type", Some("t"), None),
    own("append", "consumer", Some("a"), None),
    own("append", "stream", Some("a"), None),
    own("append", "resume", Some("a"), None),
    own("append", "url", Some("http://h:7/"), Some("h")),
    own("append", "token", Some("unusual"), None),
    own("append", "token-file", Some("/unusual"), None),
];
/// The flags of settings, each with its help, which contains the variable.
fn settings() -> BTreeSet<(String, String)> {
    let command = Flags::augment_args(clap::Command::new("event-piper"));
    AggregatorFlags::augment_args(command).get_arguments().map(flag_and_help).collect()
}

fn flag_and_help(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string);
    (arg.get_long().unwrap().to_owned(), help.unwrap_or_default())
}

/// Collects every flag of every command below this one, with the name of the command.
fn every_flag(command: &clap::Command, name: &str, found: &mut Vec<(String, Arg)>) {
    let flags = command.get_arguments().filter(|arg| arg.get_long().is_some());
    found.extend(flags.map(|arg| (name.trim().to_owned(), arg.clone())));
    for below in command.get_subcommands() {
        every_flag(below, &format!("{name} {}", below.get_name()), found);
    }
}

fn every() -> Vec<(String, Arg)> {
    let mut found = Vec::new();
    every_flag(&Cli::command(), "", &mut found);
    found
}

/// Parses a command line. The error is the printed message.
fn parse(command: &str, flag: &str) -> Result<(), String> {
    let needed = NEEDED.iter().find(|(name, _)| *name == command).map_or(&[][..], |it| it.1);
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    let needed = needed.iter().filter(|it| !it.starts_with(&format!("{name}=")));
    let line = ["event-piper"].into_iter().chain(command.split(' ')).chain([flag]);
    let line = line.chain(needed.copied());
    Cli::try_parse_from(line).map(drop).map_err(|error| error.to_string())
}

#[test]
fn flags_accept_valid_values_and_name_invalid_ones() {
    for Own { command, flag, right, wrong } in OWN {
        let given = |value: &str| parse(command, &format!("--{flag}={value}"));
        let taken = right.map_or_else(|| parse(command, &format!("--{flag}")), given);
        assert_eq!(taken, Ok(()), "{command} --{flag}");
        if let Some(wrong) = wrong {
            let said = given(wrong).expect_err(flag);
            assert!(said.contains(&format!("--{flag}")), "{command} --{flag}: {said}");
        }
    }
}

#[test]
fn every_flag_is_a_setting_or_tested() {
    let settings = settings();
    let tested: BTreeSet<_> = OWN.iter().map(|it| (it.command, it.flag)).collect();
    let every = every();
    for (command, arg) in &every {
        let flag = arg.get_long().unwrap();
        let known = tested.contains(&(command, flag)) || settings.contains(&flag_and_help(arg));
        assert!(known, "no test knows {command} --{flag}");
    }
    for (command, flag) in tested {
        let there = every.iter().any(|(name, arg)| name == command && arg.get_long() == Some(flag));
        assert!(there, "there is no {command} --{flag}");
    }
}

#[test]
fn every_variable_of_a_flag_is_known() {
    let env = |arg: &Arg| arg.get_env().map(|name| name.to_str().unwrap().to_owned());
    let read: BTreeSet<_> = every().iter().filter_map(|(_, arg)| env(arg)).collect();
    assert_eq!(read, commands::ALL.map(ToOwned::to_owned).into());
}
