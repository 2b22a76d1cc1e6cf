//! Sets every setting by flag, by variable and by file. An unusual value must arrive in the configuration,
//! and an invalid value must be reported with its place.

use std::{fmt::Write, time::Duration};

use clap::{Args, FromArgMatches};
use secrecy::ExposeSecret;

use super::{setting::Key, tests::File, *};
use crate::access::jwks::Source;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ISSUER: [(&str, &str); 3] = [("auth", "jwt"), ("jwt-issuer", "i"), ("jwt-audience", "a")];
const TLS: [(&str, &str); 2] = [("tls-cert", "/c.pem"), ("tls-key", "/k.pem")];
/// Placeholders for files that the test creates.
const ISSUERS_FILE: &str = "<issuers>";
const SECRET_FILE: &str = "<secret>";
const URL_FILE: &str = "<url>";
const KEY_FILE: &str = "<key>";

type Arrived = fn(&Config) -> bool;

struct Case {
    key: &'static Key,
    unusual: &'static str,
    arrived: Arrived,
    /// A value that is rejected. `None`: every value is accepted.
    wrong: Option<&'static str>,
    /// Other settings that must be given with it.
    beside: Vec<(&'static str, &'static str)>,
}

fn case(
    key: &'static Key,
    unusual: &'static str,
    wrong: impl Into<Option<&'static str>>,
    arrived: Arrived,
) -> Case {
    Case { key, unusual, arrived, wrong: wrong.into(), beside: Vec::new() }
}

impl Case {
    fn beside(self, beside: &[(&'static str, &'static str)]) -> Self {
        let beside = beside.iter().filter(|(name, _)| *name != self.key.name).copied().collect();
        Self { beside, ..self }
    }

    fn of_issuer(self) -> Self {
        self.beside(&[&ISSUER[..], &[("jwt-secret", SECRET)]].concat())
    }
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

fn embedded(config: &Config) -> &crate::embedded::Settings {
    let Database::Embedded(settings) = &config.database else { panic!("not the embedded one") };
    settings
}

fn url(config: &Config) -> String {
    config.database.url().expect("a URL").expose_secret().to_owned()
}

fn writer(config: &Config) -> &write::Settings {
    config.gateway.writer.as_ref().expect("writing is on")
}

fn issuer(config: &Config) -> &crate::access::token::Issuer {
    &config.access.issuers[0]
}

fn secret(config: &Config) -> &str {
    let Source::Secret(secret) = &issuer(config).keys else { panic!("no secret") };
    secret.expose_secret()
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        case(&settings::DATABASE_URL.key, "postgres://u:p@h:7/d", "postgres://h/?sslmode=yes", |it| url(it) == "postgres://u:p@h:7/d"),
        case(&settings::DATABASE_URL_FILE.key, URL_FILE, "/nowhere", |it| url(it) == "postgres://of-a-file/d"),
        case(&settings::DATA_DIR.key, "/unusual", None, |it| embedded(it).data_dir.ends_with("unusual")),
        case(&settings::POSTGRES_BIN.key, "/unusual", None, |it| embedded(it).binaries.as_ref().unwrap().ends_with("unusual")),
        case(&settings::POSTGRES_PORT.key, "7", "0", |it| embedded(it).port == Some(7)),
        case(&settings::LISTEN.key, "127.0.0.7:7", "everywhere", |it| it.listen == http::ListenAddress::Tcp("127.0.0.7:7".parse().unwrap())),
        case(&settings::ALLOWED_HOSTS.key, "a.test", "a.test:80", |it| it.access.hosts.contain("a.test")),
        case(&settings::AUTH.key, "keys", "kees", |it| it.access.modes.keys),
        case(&settings::TRUSTED_PROXIES.key, "10.0.0.7", "proxy", |it| it.access.trusted_proxies == "10.0.0.7".parse().unwrap()),
        case(&settings::HEADER_RIGHTS.key, r#"{"all":true}"#, r#"{"al":true}"#, |it| it.access.header_rights.all).beside(&[("auth", "trusted-header")]),
        case(&settings::JWT_ISSUER.key, "unusual", " ", |it| issuer(it).name == "unusual").of_issuer(),
        case(&settings::JWT_AUDIENCE.key, "unusual", ",", |it| issuer(it).audience == ["unusual"]).of_issuer(),
        case(&settings::JWT_ALGORITHMS.key, "HS512", "RS256", |it| format!("{:?}", issuer(it).algorithms) == "[HS512]").of_issuer(),
        case(&settings::JWT_JWKS_URL.key, "https://i.test/keys", "file:///keys", |it| matches!(&issuer(it).keys, Source::Url(url) if url.path() == "/keys")).beside(&ISSUER),
        case(&settings::JWT_KEY_FILE.key, KEY_FILE, "/nowhere.pem", |it| matches!(&issuer(it).keys, Source::File(_))).beside(&ISSUER),
        case(&settings::JWT_SECRET.key, "unusual-unusual-unusual", "short", |it| secret(it) == "unusual-unusual-unusual").beside(&ISSUER),
        case(&settings::JWT_SECRET_FILE.key, SECRET_FILE, "/nowhere", |it| secret(it) == "of-a-file-of-a-file").beside(&ISSUER),
        case(&settings::JWT_ISSUERS_FILE.key, ISSUERS_FILE, "/nowhere", |it| it.access.issuers.iter().any(|it| it.name == "of-a-file")).of_issuer(),
        case(&settings::JWT_CONSUMER_CLAIM.key, "unusual", " ", |it| issuer(it).consumer_claim == "unusual").of_issuer(),
        case(&settings::JWT_RIGHTS_CLAIM.key, "unusual", " ", |it| issuer(it).rights_claim == "unusual").of_issuer(),
        case(&settings::JWT_LEEWAY.key, "7s", "1h", |it| seconds(issuer(it).leeway) == 7).of_issuer(),
        case(&settings::JWT_REFRESH.key, "7s", "0s", |it| seconds(it.access.refresh) == 7).of_issuer(),
        case(&settings::JWT_COOKIE.key, "unusual", "a=b", |it| it.access.cookie.as_deref() == Some("unusual")).of_issuer(),
        case(&settings::TICKET_KEY.key, "unusual-unusual-unusual", "short", |it| it.access.ticket_keys[0].expose_secret() == "unusual-unusual-unusual").beside(&[("auth", "keys")]),
        case(&settings::TICKET_KEY_FILE.key, SECRET_FILE, "/nowhere", |it| it.access.ticket_keys[0].expose_secret() == "of-a-file-of-a-file").beside(&[("auth", "keys")]),
        case(&settings::METRICS_FROM.key, "10.0.0.7", "prometheus", |it| it.access.metrics_from == "10.0.0.7".parse().unwrap()),
        case(&settings::TLS_CERT.key, "/unusual", None, |it| it.tls.as_ref().unwrap().certificate.ends_with("unusual")).beside(&TLS),
        case(&settings::TLS_KEY.key, "/unusual", None, |it| it.tls.as_ref().unwrap().key.ends_with("unusual")).beside(&TLS),
        case(&settings::MAX_STREAMS_PER_PRINCIPAL.key, "7", "0", |it| it.access.limits.streams == 7),
        case(&settings::MAX_REQUESTS_PER_PRINCIPAL.key, "7", "0", |it| it.access.limits.requests.get() == 7),
        case(&settings::MAX_APPENDS_PER_PRINCIPAL.key, "7", "0", |it| it.access.limits.appends.get() == 7),
        case(&settings::MAX_APPEND_BYTES_PER_PRINCIPAL.key, "7MiB", "0", |it| it.access.limits.append_bytes.get() == 7 << 20),
        case(&settings::MAX_QUERIES_PER_PRINCIPAL.key, "7", "0", |it| it.gateway.log.queries_each == Some(7)),
        case(&settings::CORS_ORIGINS.key, "https://a.test", "a.test", |it| it.http.cors_origins == ["https://a.test"] && it.access.origins == ["https://a.test"]),
        case(&settings::CORS_HEADERS.key, "x-tenant", "x tenant", |it| it.http.cors_headers == ["x-tenant"]),
        case(&settings::HOLD.key, "unlimited", "long", |it| it.gateway.log.hold == crate::order::Hold::Unlimited),
        case(&settings::SAFETY_CHECKS.key, "warn", "off", |it| it.gateway.log.checks == crate::tail::safety::Checks::Warn),
        case(&settings::HEARTBEAT.key, "7s", "1ms", |it| seconds(it.http.heartbeat) == 7),
        case(&settings::RECENT.key, "7MiB", "much", |it| it.gateway.recent == 7 << 20),
        case(&settings::DRAIN.key, "7s", "soon", |it| seconds(it.http.drain) == 7),
        case(&settings::POOL_SIZE.key, "7", "0", |it| it.gateway.log.pool == 7),
        case(&settings::MAX_STREAMS.key, "7", "0", |it| it.http.limits.streams == 7 && it.http.limits.connections > 7),
        case(&settings::MAX_STREAMS_PER_CONSUMER.key, "7", "0", |it| it.http.limits.streams_of_a_consumer == 7),
        case(&settings::HEAD_TIMEOUT.key, "7s", "0s", |it| seconds(it.http.limits.head_within) == 7),
        case(&settings::MAX_HEAD.key, "77KiB", "1KiB", |it| it.http.limits.head == 77 << 10),
        case(&settings::MAX_BODY.key, "7MiB", "large", |it| it.http.limits.body == 7 << 20),
        case(&settings::MAX_EVENT.key, "7MiB", "large", |it| it.http.limits.event == 7 << 20),
        case(&settings::MAX_PAGE.key, "7", "0", |it| it.http.limits.page == 7),
        case(&settings::WRITING.key, "off", "no", |it| it.gateway.writer.is_none()),
        case(&settings::APPEND_PATH.key, "/unusual", "unusual", |it| it.http.append_path.as_deref() == Some("/unusual")),
        case(&settings::WRITE_BUFFER_PER_PRINCIPAL.key, "7MiB", "large", |it| writer(it).bytes_each == 7 << 20),
        case(&settings::BODY_TIMEOUT.key, "7s", "0s", |it| seconds(it.http.limits.body_within) == 7),
        case(&settings::WRITE_TIMEOUT.key, "7s", "0s", |it| seconds(it.http.limits.write_within) == 7),
        case(&settings::ANSWER_BUFFER.key, "7MiB", "large", |it| it.http.limits.answers == 7 << 20),
        case(&settings::ANSWER_BUFFER_PER_PRINCIPAL.key, "7MiB", "large", |it| it.http.limits.answers_each == 7 << 20),
        case(&settings::WRITE_CONNECTIONS.key, "7", "0", |it| writer(it).connections == 7),
        case(&settings::WRITE_QUEUE.key, "7", "0", |it| writer(it).queue == 7),
        case(&settings::WRITE_BUFFER.key, "7MiB", "large", |it| writer(it).bytes == 7 << 20),
        case(&settings::MIGRATE.key, "false", "no", |it| !it.migrate),
        case(&settings::LOG.key, "warn,event_piper=trace", "a=b=c", |it| it.telemetry.filter == telemetry::Filter::parse("warn,event_piper=trace").unwrap()),
        case(&settings::LOG_FORMAT.key, "json", "xml", |it| it.telemetry.format == telemetry::Format::Json),
    ]
}

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    Flag,
    Variable,
    File,
}

fn variable(name: &str) -> &'static str {
    settings::ALL.iter().find(|key| key.name == name).expect("a setting").variable
}

/// Loads the settings from a command line, an environment or a file.
fn load(by: By, given: &[(&str, &str)]) -> Result<Config, WrongSettings> {
    let (mut args, mut env) = (vec!["event-piper".to_owned()], Vec::new());
    let mut text = String::new();
    for (name, value) in given {
        match by {
            // The only setting whose flag takes no value.
            By::Flag if *name == "migrate" && *value == "false" => args.push("--no-migrate".into()),
            By::Flag => args.push(format!("--{name}={value}")),
            By::Variable => env.push((variable(name), *value)),
            By::File => writeln!(text, "{name} = {}", toml::Value::from(*value)).unwrap(),
        }
    }
    let file = File::new(&text);
    if by == By::File {
        env.push(("EVENT_PIPER_CONFIG", file.path()));
    }
    let command = Flags::augment_args(clap::Command::new("event-piper"));
    let matches = command.try_get_matches_from(args).unwrap_or_else(|error| panic!("{error}"));
    let flags = Flags::from_arg_matches(&matches).unwrap();
    Config::from_sources(Sources::new(flags, &Environment::of(&env)))
}

#[test]
fn every_setting_arrives_from_every_source() {
    let issuers = File::new(
        "[[issuer]]\nissuer = 'of-a-file'\naudience = ['x']\njwks-url = 'https://b.test/jwks'\n",
    );
    let (secret, url) = (File::new("of-a-file-of-a-file\n"), File::new("postgres://of-a-file/d\n"));
    let key = File::new(&rcgen::KeyPair::generate().unwrap().public_key_pem());
    let mut walked = vec!["config"];
    for Case { key: &Key { name, .. }, unusual, arrived, wrong, beside } in cases() {
        walked.push(name);
        let unusual = match unusual {
            ISSUERS_FILE => issuers.path(),
            SECRET_FILE => secret.path(),
            URL_FILE => url.path(),
            KEY_FILE => key.path(),
            other => other,
        };
        for by in [By::Flag, By::Variable, By::File] {
            let given = |value| [&beside[..], &[(name, value)]].concat();
            let config =
                load(by, &given(unusual)).unwrap_or_else(|e| panic!("{name} by {by:?}: {e}"));
            assert!(arrived(&config), "{name} = {unusual} by {by:?} did not arrive: {config:?}");
            if beside.is_empty() && !name.starts_with("database-url") {
                let usual = load(by, &[]).unwrap();
                assert!(!would_arrive(arrived, &usual), "{name} arrives without being given");
            }
            // The switch has no invalid value as a flag.
            let Some(wrong) = wrong.filter(|_| by != By::Flag || name != "migrate") else {
                continue;
            };
            let complaints = load(by, &given(wrong)).expect_err(name).complaints.join("\n");
            let named = match by {
                By::Flag => format!("--{name}: "),
                By::Variable => format!("{}: ", variable(name)),
                By::File => format!("{name} in "),
            };
            assert!(complaints.contains(&named), "{name} by {by:?}: {complaints}");
        }
    }
    let every: Vec<_> = settings::ALL.iter().map(|key| key.name).collect();
    assert_eq!(walked, every, "every setting has a case");
}

/// Whether a check also passes with the defaults, and so proves nothing.
fn would_arrive(arrived: Arrived, usual: &Config) -> bool {
    let arrived = std::panic::AssertUnwindSafe(|| arrived(usual));
    std::panic::catch_unwind(arrived).unwrap_or(false)
}

#[test]
fn the_last_flag_of_a_switch_counts() {
    let migrate = |args: &[&str]| {
        let command = Flags::augment_args(clap::Command::new("event-piper"));
        let args = [&["event-piper"], args].concat();
        let flags = Flags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap();
        let environment = Environment::of(&[("EVENT_PIPER_MIGRATE", "false")]);
        Config::from_sources(Sources::new(flags, &environment)).unwrap().migrate
    };
    assert!(!migrate(&[]));
    assert!(migrate(&["--migrate"]), "a flag takes precedence over the environment");
    assert!(!migrate(&["--migrate", "--no-migrate"]));
    assert!(migrate(&["--no-migrate", "--migrate"]));
}
