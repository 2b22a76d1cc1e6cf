//! Sets every setting of an aggregator by flag, by variable and by file. An unusual value must arrive, and
//! an invalid one must be reported with its place.

use std::{fmt::Write, time::Duration};

use clap::{Args, FromArgMatches};
use rustls::ClientConfig;
use secrecy::ExposeSecret;

use super::*;
use crate::{
    config::{Config, Flags, WrongSettings, every::By, setting::Key, tests::File},
    pump::{CatchUp, OnRefusal, resume::Start, sign::SigningKey},
};

type Arrived = fn(&Settings) -> bool;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Placeholders for files that the test creates.
const CERTIFICATE: &str = "<certificate>";
const CERTIFICATE_KEY: &str = "<certificate-key>";
const SIGNING_KEY_FILE: &str = "<signing-key>";
const TOKEN_FILE: &str = "<token>";

struct Case {
    key: &'static Key,
    unusual: &'static str,
    /// A value that is rejected. `None`: every value is accepted.
    wrong: Option<&'static str>,
    /// Other settings that must be given with it.
    beside: &'static [(&'static str, &'static str)],
    arrived: Arrived,
}

fn case(
    key: &'static Key,
    unusual: &'static str,
    wrong: impl Into<Option<&'static str>>,
    arrived: Arrived,
) -> Case {
    Case { key, unusual, wrong: wrong.into(), beside: &[("to", "http://h")], arrived }
}

impl Case {
    fn beside(self, beside: &'static [(&'static str, &'static str)]) -> Self {
        Self { beside, ..self }
    }
}

const HTTPS: &[(&str, &str)] = &[("to", "https://h")];
const WITH_KEY: &[(&str, &str)] =
    &[("to", "https://h"), ("ca-file", CERTIFICATE), ("key-file", CERTIFICATE_KEY)];
const WITH_CERTIFICATE: &[(&str, &str)] =
    &[("to", "https://h"), ("ca-file", CERTIFICATE), ("certificate-file", CERTIFICATE)];

fn token(settings: &Settings) -> &str {
    settings.target.token.as_ref().map_or("", |it| it.expose_secret())
}

fn shows_certificate(settings: &Settings) -> bool {
    let tls: Option<&ClientConfig> = settings.target.tls.as_deref();
    tls.is_some_and(|tls| tls.client_auth_cert_resolver.has_certs())
}

fn signature(settings: &Settings) -> Option<String> {
    settings.target.key.as_ref().map(|key| key.sign("id", 7, b"body"))
}

fn signed(settings: &Settings) -> bool {
    signature(settings) == SigningKey::parse(KEY).map(|key| key.sign("id", 7, b"body"))
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        case(&settings::TO.key, "http://unusual:7/a", "ftp://h", |it| (&*it.target.host, it.target.port, &*it.target.base) == ("unusual", 7, "/a/")).beside(&[]),
        case(&settings::NAME.key, "unusual", None, |it| it.name == "unusual"),
        case(&settings::BATCH_PATH.key, "/unusual", "a b", |it| it.target.batch_path == "unusual"),
        case(&settings::BATCH_EVENTS.key, "7", "0", |it| it.format.size.events == 7),
        case(&settings::BATCH_BYTES.key, "7MiB", "much", |it| it.format.size.bytes == 7 << 20),
        case(&settings::ONLY_TYPES.key, "a,b", None, |it| it.format.filter.types == ["a", "b"]),
        case(&settings::ONLY_SUBSCRIBERS.key, "a,b", None, |it| it.format.filter.subscribers == ["a", "b"]),
        case(&settings::ONLY_STREAMS.key, "a,b", None, |it| it.format.filter.streams == ["a", "b"]),
        case(&settings::FIELDS.key, "n=id", "n", |it| it.format.fields == "n=id".parse().unwrap()),
        case(&settings::START.key, "now", "then", |it| it.start == Start::Now),
        case(&settings::TIMEOUT.key, "7s", "soon", |it| it.target.timeout == Duration::from_secs(7)),
        case(&settings::LONGEST_PAUSE.key, "7s", "soon", |it| it.longest_pause == Duration::from_secs(7)),
        case(&settings::REFUSALS.key, "7", "0", |it| it.refusals == 7),
        case(&settings::ON_REFUSAL.key, "set-aside", "ignore", |it| it.on_refusal == OnRefusal::SetAside),
        case(&settings::CATCH_UP.key, "batches", "nothing", |it| it.catch_up == CatchUp::Batches),
        case(&settings::TOKEN.key, "unusual", "a b", |it| token(it) == "unusual"),
        case(&settings::TOKEN_FILE.key, TOKEN_FILE, "/nowhere", |it| token(it) == "of-a-file"),
        case(&settings::SIGNING_KEY.key, KEY, "whsec_short", signed),
        case(&settings::SIGNING_KEY_FILE.key, SIGNING_KEY_FILE, "/nowhere", signed),
        case(&settings::CA_FILE.key, CERTIFICATE, "/nowhere", |it| it.target.tls.is_some()).beside(HTTPS),
        case(&settings::CERTIFICATE_FILE.key, CERTIFICATE, "/nowhere", shows_certificate).beside(WITH_KEY),
        case(&settings::KEY_FILE.key, CERTIFICATE_KEY, "/nowhere", shows_certificate).beside(WITH_CERTIFICATE),
    ]
}

/// Loads the settings from a command line, an environment or a file.
fn load(by: By, given: &[(&str, &str)]) -> Result<Settings, WrongSettings> {
    let (mut args, mut env) = (vec!["event-piper".to_owned()], Vec::new());
    let mut text = "[[aggregator]]\n".to_owned();
    for (name, value) in given {
        let key = known(settings::ALL.iter().copied(), name).unwrap();
        match by {
            By::Flag => args.push(format!("--{name}={value}")),
            By::Variable => env.push((key.variable, *value)),
            By::File => writeln!(text, "{name} = {}", toml::Value::from(*value)).unwrap(),
        }
    }
    let file = File::new(&text);
    if by == By::File {
        env.push(("EVENT_PIPER_CONFIG", file.path()));
    }
    let command = AggregatorFlags::augment_args(clap::Command::new("event-piper"));
    let matches = command.try_get_matches_from(args).unwrap_or_else(|error| panic!("{error}"));
    let flags = AggregatorFlags::from_arg_matches(&matches).unwrap();
    let mut config = Config::for_pumps(Flags::default(), flags, &Environment::of(&env))?;
    assert_eq!(config.aggregators.len(), 1);
    Ok(config.aggregators.remove(0))
}

/// The files for the placeholders.
struct Files {
    certificate: File,
    certificate_key: File,
    signing_key: File,
    token: File,
}

impl Files {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        Self {
            certificate: File::new(&made.cert.pem()),
            certificate_key: File::new(&made.signing_key.serialize_pem()),
            signing_key: File::new(&format!("{KEY}\n")),
            token: File::new("of-a-file\n"),
        }
    }

    fn in_place<'a>(&'a self, value: &'a str) -> &'a str {
        match value {
            CERTIFICATE => self.certificate.path(),
            CERTIFICATE_KEY => self.certificate_key.path(),
            SIGNING_KEY_FILE => self.signing_key.path(),
            TOKEN_FILE => self.token.path(),
            other => other,
        }
    }
}

#[test]
fn every_setting_of_an_aggregator_arrives() {
    let files = Files::new();
    let mut walked = Vec::new();
    for Case { key, unusual, wrong, beside, arrived } in cases() {
        let name = key.name;
        walked.push(name);
        let beside = beside.iter().map(|(name, value)| (*name, files.in_place(value)));
        let beside: Vec<_> = beside.collect();
        for by in [By::Flag, By::Variable, By::File] {
            let given = |value| [&beside[..], &[(name, files.in_place(value))]].concat();
            let loaded = load(by, &given(unusual));
            let loaded = loaded.unwrap_or_else(|e| panic!("{name} by {by:?}: {e}"));
            assert!(arrived(&loaded), "{name} = {unusual} by {by:?} did not arrive");
            // The value without it, if that is valid.
            if let Ok(usual) = load(by, &beside)
                && name != settings::CA_FILE.key.name
            {
                assert!(!arrived(&usual), "{name} arrives without being given");
            }
            let Some(wrong) = wrong else { continue };
            let complaints = load(by, &given(wrong)).expect_err(name).complaints;
            let named = match by {
                By::Flag => format!("--{name}: "),
                By::Variable => format!("{}: ", key.variable),
                By::File => format!("{name} of an [[aggregator]] in "),
            };
            let is_named = complaints.iter().any(|it| it.starts_with(&named));
            assert!(is_named, "{name} by {by:?}: {complaints:?}");
        }
    }
    let every: Vec<_> = settings::ALL.iter().map(|key| key.name).collect();
    assert_eq!(walked, every, "every setting has a case");
}
