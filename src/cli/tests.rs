//! Every flag of every command: a right value is taken, a wrong one is refused by its name, and a
//! variable that sets it is one that is known.

use std::collections::BTreeSet;

use clap::{Arg, Args, CommandFactory};

use super::*;
use crate::config::{AggregatorFlags, commands};

/// A flag that a command has beside the settings.
struct Own {
    /// The command, with what it does not do without.
    command: &'static str,
    flag: &'static str,
    /// None for a flag that takes no value.
    right: Option<&'static str>,
    /// None where every text is taken, or what is wrong is found later.
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

/// What such flags are given without, for the command to be whole.
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
/// The flags of settings, each with its help, which names its variable.
fn settings() -> BTreeSet<(String, String)> {
    let command = Flags::augment_args(clap::Command::new("event-piper"));
    AggregatorFlags::augment_args(command).get_arguments().map(flag_and_help).collect()
}

fn flag_and_help(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string);
    (arg.get_long().unwrap().to_owned(), help.unwrap_or_default())
}

/// Every flag of every command below this one, with the command's name.
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

/// What a command line comes to; what is wrong with it, as it is printed.
fn parse(command: &str, flag: &str) -> Result<(), String> {
    let needed = NEEDED.iter().find(|(name, _)| *name == command).map_or(&[][..], |it| it.1);
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    let needed = needed.iter().filter(|it| !it.starts_with(&format!("{name}=")));
    let line = ["event-piper"].into_iter().chain(command.split(' ')).chain([flag]);
    let line = line.chain(needed.copied());
    Cli::try_parse_from(line).map(drop).map_err(|error| error.to_string())
}

#[test]
fn every_flag_of_a_command_takes_what_is_right_and_is_named_when_it_is_wrong() {
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
fn every_flag_of_every_command_is_a_setting_or_tested() {
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
fn every_variable_of_a_flag_is_known_and_each_known_one_has_a_flag() {
    let env = |arg: &Arg| arg.get_env().map(|name| name.to_str().unwrap().to_owned());
    let read: BTreeSet<_> = every().iter().filter_map(|(_, arg)| env(arg)).collect();
    assert_eq!(read, commands::ALL.map(ToOwned::to_owned).into());
}
