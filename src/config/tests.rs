//! Valid and invalid settings, and their combinations.

use std::time::Duration;

use super::*;
use crate::{access::Modes, order::Hold};

pub(super) fn load(
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
) -> Result<Config, WrongSettings> {
    let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Config::from_sources(Sources::new(Flags(flags), &Environment::of(env)))
}

fn complaints(flags: &[(&'static str, &str)], env: &[(&str, &str)]) -> Vec<String> {
    load(flags, env).unwrap_err().complaints
}

/// A file that is removed when the value is dropped.
pub(super) struct File(std::path::PathBuf);

impl File {
    pub(super) fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ep-config-{:016x}", fastrand::u64(..)));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = load(&[("data-dir", "/d")], &[]).unwrap();
    assert_eq!(config.listen, http::ListenAddress::Tcp("127.0.0.1:4000".parse().unwrap()));
    assert_eq!(config.gateway.log.hold, Hold::For(Duration::from_millis(20)));
    assert_eq!(config.http.heartbeat, Duration::from_secs(10));
    assert_eq!(config.gateway.recent, 64 << 20);
    assert_eq!(config.gateway.log.pool, 8);
    assert!(config.access.modes.is_open());
    assert_eq!(config.http.drain, Duration::from_secs(10));
    assert!(config.http.cors_origins.is_empty());
    assert!(config.migrate);
    assert!(matches!(config.database, Database::Embedded(it) if it.port.is_none()));
}

#[test]
fn flags_precede_the_environment_and_that_the_file() {
    let file = File::new("heartbeat = '1s'\ndrain = '1s'\nhold = '1s'\npool-size = 3\n");
    let env = [("EVENT_PIPER_HEARTBEAT", "2s"), ("EVENT_PIPER_DRAIN", "2s")];
    let flags = [("config", file.path()), ("drain", "3s")];
    let config = load(&flags, &env).unwrap();
    assert_eq!(config.gateway.log.hold, Hold::For(Duration::from_secs(1)));
    assert_eq!(config.http.heartbeat, Duration::from_secs(2));
    assert_eq!(config.http.drain, Duration::from_secs(3));
    assert_eq!(config.gateway.log.pool, 3);
}

#[test]
fn all_errors_are_reported_together() {
    let file = File::new(
        "herdbeat = '1s'\nrecent = 'much'\nmigrate = false\ncors-origins = ['https://a.example', 'b']\n",
    );
    let env = [("EVENT_PIPER_DRAIN", "soon"), ("EVENT_PIPER_POOL_SIZE", "0")];
    let flags = [("config", file.path()), ("listen", "everywhere"), ("hold", "20")];
    let complaints = complaints(&flags, &env).join("\n");
    for expected in [
        "--listen: \"everywhere\"",
        "--hold: \"20\"",
        "EVENT_PIPER_DRAIN: \"soon\"",
        "EVENT_PIPER_POOL_SIZE: \"0\"",
        "recent in ",
        "\"much\"",
        "herdbeat in ",
        "cors-origins in ",
    ] {
        assert!(complaints.contains(expected), "{expected} in:\n{complaints}");
    }
    assert_eq!(complaints.lines().count(), 7, "{complaints}");
}

#[test]
fn an_overridden_value_is_checked_too() {
    let complaints = complaints(&[("hold", "5ms")], &[("EVENT_PIPER_HOLD", "??")]);
    assert!(complaints[0].starts_with("EVENT_PIPER_HOLD: \"??\""), "{complaints:?}");
}

#[test]
fn a_secret_is_never_shown() {
    let url = "postgres://u:hunter2@h/d?bogus=1";
    let complaints = complaints(&[], &[("DATABASE_URL", url)]).join("\n");
    assert!(complaints.contains("DATABASE_URL: "), "{complaints}");
    assert!(!complaints.contains("hunter2"), "{complaints}");
    let config = load(&[("database-url", "postgres://u:hunter2@h/d")], &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_database_url_may_be_in_a_file() {
    let file = File::new("postgres://u:p@h/d\n");
    let config = load(&[], &[("DATABASE_URL_FILE", file.path())]).unwrap();
    let Database::Url { url, .. } = config.database else { panic!("not the URL") };
    assert_eq!(url.expose_secret(), "postgres://u:p@h/d");
    let both = [("DATABASE_URL_FILE", file.path()), ("DATABASE_URL", "postgres://h/d")];
    assert_eq!(complaints(&[], &both).len(), 1);
}

#[test]
fn open_mode_for_other_machines_is_explicit() {
    assert_eq!(complaints(&[("listen", "0.0.0.0:4000")], &[]).len(), 1);
    assert_eq!(complaints(&[("listen", "[::]:1"), ("auth", "open")], &[]).len(), 1);
    let chosen = load(&[("listen", "0.0.0.0:4000"), ("auth", "trusted-header")], &[]).unwrap();
    assert_eq!(chosen.access.modes, Modes::TRUSTED_HEADER);
    let socket = load(&[("listen", "unix:/run/event-piper.sock")], &[]).unwrap();
    assert!(socket.access.modes.is_open(), "the socket's permissions are the choice");
}

#[test]
fn aggregators_are_tables_of_the_file() {
    let file = File::new(
        "hold = '1s'\n[[aggregator]]\nto = 'http://h:1/a'\nonly-types = ['a', 'b']\n\
         [aggregator.fields]\nn = 'id'\nkind = \"'x'\"\n\
         [[aggregator]]\nname = 'other'\nto = 'http://h/'\non-refusal = 'set-aside'\n",
    );
    let config = load(&[("config", file.path())], &[]).unwrap();
    let [one, other] = &config.aggregators[..] else { panic!("not two") };
    assert_eq!((one.name.as_str(), one.target.port), ("http://h:1/a", 1));
    assert_eq!(one.target.base, "/a/");
    assert_eq!(one.format.filter.types, ["a", "b"]);
    assert_eq!(one.format.fields, "kind = 'x', n = id".parse().unwrap());
    assert_eq!((other.name.as_str(), other.target.port), ("other", 80));
    assert_eq!(other.on_refusal, pump::OnRefusal::SetAside);
}

#[test]
fn errors_of_aggregators_contain_no_secrets() {
    let file = File::new(
        "[[aggregator]]\nto = 'http://u:hunter2@h/'\nsigning-key = 'whsec_hunter2'\n\
         bach-path = 'x'\n[[aggregator]]\nname = 'x'\n\
         [[aggregator]]\nto = 'http://h'\nname = 'y'\ntimeout = 'soon'\n\
         [[aggregator]]\nto = 'http://h'\nname = 'z'\n\
         [[aggregator]]\nto = 'http://h'\nname = 'z'\n",
    );
    let complaints = complaints(&[("config", file.path())], &[]).join("\n");
    for expected in [
        "to of an",
        "signing-key of",
        "bach-path of",
        "expected `to`",
        "timeout of",
        "\"z\" is defined twice",
    ] {
        assert!(complaints.contains(expected), "{expected} in:\n{complaints}");
    }
    assert!(!complaints.contains("hunter2"), "{complaints}");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    load(&[], &[("DATABASE_URL", ""), ("EVENT_PIPER_HOLD", "")]).unwrap();
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn modes_can_be_combined() {
    let modes = |text| load(&[("auth", text)], &[]).map(|config| config.access.modes);
    let both = Modes { trusted_header: true, jwt: false, keys: true };
    assert_eq!(modes("keys, trusted-header"), Ok(both));
    for wrong in ["open,keys", "header", "", "keys,"] {
        assert!(modes(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn jwt_needs_an_issuer_an_audience_and_keys() {
    let jwt = |flags: &[(&'static str, &str)]| {
        load(&[&[("auth", "jwt"), ("jwt-issuer", "https://i.example")], flags].concat(), &[])
    };
    let whole = jwt(&[("jwt-audience", "a,b"), ("jwt-secret", SECRET)]).unwrap();
    let [issuer] = &whole.access.issuers[..] else { panic!("one issuer") };
    assert_eq!(issuer.audience, ["a", "b"]);
    assert_eq!(format!("{:?}", issuer.algorithms), "[HS256]");
    assert!(!format!("{whole:?}").contains(SECRET));
    for (flags, says) in [
        (&[("jwt-secret", SECRET)][..], "audience"),
        (&[("jwt-audience", "a")], "has no keys"),
        (&[("jwt-audience", "a"), ("jwt-secret", "short")], "16 bytes"),
        (&[("jwt-audience", "a"), ("jwt-jwks-url", "file:///etc/passwd")], "https://"),
        (&[("jwt-audience", "a"), ("jwt-jwks-url", "https://u:hunter2@i.example/")], "password"),
        (&[("jwt-audience", "a"), ("jwt-key-file", "/nowhere.pem")], "/nowhere.pem"),
        (
            &[("jwt-audience", "a"), ("jwt-secret", SECRET), ("jwt-algorithms", "RS256")],
            "is not an algorithm for these keys",
        ),
        (
            &[
                ("jwt-audience", "a"),
                ("jwt-jwks-url", "https://i.example/jwks"),
                ("jwt-algorithms", "HS256"),
            ],
            "is not an algorithm for these keys",
        ),
        (
            &[
                ("jwt-audience", "a"),
                ("jwt-jwks-url", "https://i.example/jwks"),
                ("jwt-secret", SECRET),
            ],
            "several sources",
        ),
    ] {
        let wrong = jwt(flags).unwrap_err().to_string();
        assert!(wrong.contains(says), "{flags:?}: {wrong}");
    }
    assert!(complaints(&[("auth", "jwt")], &[])[0].contains("--jwt-issuer"));
}

#[test]
fn rejects_invalid_hosts_and_refresh_intervals() {
    let config = load(&[("allowed-hosts", "events.test")], &[]).unwrap();
    assert!(config.access.hosts.contain("events.test"));
    for wrong in [
        ("allowed-hosts", "https://events.test"),
        ("allowed-hosts", "events.test:80"),
        ("jwt-refresh", "0s"),
        ("jwt-refresh", "9000years"),
    ] {
        let complaints = complaints(&[wrong], &[]);
        assert!(complaints.iter().any(|it| it.contains("is invalid: expected")), "{complaints:?}");
    }
}

#[test]
fn a_file_may_describe_several_issuers() {
    let secret = File::new(SECRET);
    let text = format!(
        "[[issuer]]\nissuer = 'a'\naudience = ['x']\nsecret-file = '{}'\nconsumer-claim = 'user.name'\n
         [[issuer]]\nissuer = 'b'\naudience = ['x']\njwks-url = 'https://b.example/jwks'\n",
        secret.path()
    );
    let file = File::new(&text);
    let config = load(&[("auth", "jwt"), ("jwt-issuers-file", file.path())], &[]).unwrap();
    let claims: Vec<_> = config.access.issuers.iter().map(|it| &*it.consumer_claim).collect();
    assert_eq!(claims, ["user.name", "sub"]);
    for (wrong, says) in [
        ("[[issuer]]\nissuer = 'a'\nsecret = 'x'", "unknown field"),
        (&format!("{text}{}", text.replace("'b'", "'c'")), "twice"),
        ("issuer = 1", "[[issuer]]"),
    ] {
        let file = File::new(wrong);
        let flags = [("auth", "jwt"), ("jwt-issuers-file", file.path())];
        assert!(complaints(&flags, &[]).join("\n").contains(says), "{wrong}");
    }
}

#[test]
fn an_error_in_a_secret_does_not_contain_it() {
    for name in ["jwt-secret", "ticket-key"] {
        let complaints = complaints(&[(name, "hunter2")], &[]).join("\n");
        assert!(complaints.contains("16 bytes") && !complaints.contains("hunter2"));
    }
}

#[test]
fn a_certificate_needs_its_key() {
    assert!(load(&[("tls-cert", "/c"), ("tls-key", "/k")], &[]).unwrap().tls.is_some());
    for wrong in [
        &[("tls-cert", "/c")][..],
        &[("tls-key", "/k")],
        &[("tls-cert", "/c"), ("tls-key", "/k"), ("listen", "unix:/s")],
    ] {
        assert_eq!(complaints(wrong, &[]).len(), 1, "{wrong:?}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Any text in a file or a variable is accepted, or reported with the name of its place.
    #[test]
    fn any_text_is_accepted_or_reported(
        key in proptest::sample::select(super::settings::ALL),
        value in "\\PC{0,24}|[0-9.]{0,20}(ms|s|MiB|)|[a-z0-9.:,/*-]{0,24}",
        line in "[a-z-]{1,12} ?= ?(\\PC{0,16}|'[ -&(-~]{0,16}'|[0-9]{0,24})",
    ) {
        let file = File::new(&line);
        for (env, flags) in [
            (vec![(key.variable, value.as_str())], vec![]),
            (vec![], vec![("config", file.path())]),
        ] {
            if let Err(complaints) = load(&flags, &env) {
                for complaint in complaints.complaints {
                    proptest::prop_assert!(
                        complaint.starts_with(key.variable)
                            || complaint.contains(file.path())
                            || complaint.starts_with("--"),
                        "{complaint}"
                    );
                }
            }
        }
    }
}

#[test]
fn settings_without_effect_are_reported() {
    for (flags, named) in [
        (&[("jwt-leeway", "9s")][..], "--jwt-leeway: requires --auth jwt"),
        (&[("auth", "keys"), ("header-rights", "{}")], "--header-rights: requires"),
        (&[("ticket-key", SECRET)], "--ticket-key: requires"),
        (&[("auth", "jwt"), ("jwt-secret", SECRET)], "--jwt-secret: requires --jwt-issuer"),
    ] {
        let complaints = complaints(flags, &[]);
        let found = complaints.iter().filter(|it| it.starts_with(named)).count();
        assert_eq!(found, 1, "{flags:?}: {complaints:?}");
        assert!(!complaints.join("").contains(SECRET));
    }
    let unused = |flags: &[(&'static str, &str)]| load(flags, &[]).unwrap().unused;
    assert_eq!(unused(&[("writing", "off"), ("write-queue", "9")]).len(), 1);
    assert_eq!(unused(&[("database-url", "postgres://h/d"), ("postgres-port", "9")]).len(), 1);
    assert!(unused(&[("write-queue", "9"), ("postgres-port", "9")]).is_empty());
}

#[test]
fn open_anywhere_is_a_mode_of_its_own() {
    let flags = [("listen", "0.0.0.0:4000"), ("auth", "open-anywhere")];
    assert!(load(&flags, &[]).unwrap().access.modes.is_open());
    assert!(complaints(&[("auth", "open-anywhere,keys")], &[])[0].contains("--auth"));
    assert!(complaints(&[("auth", "jwts")], &[])[0].ends_with("did you mean jwt?"));
}

#[test]
fn misspelt_names_are_reported_with_a_suggestion() {
    let file = File::new("herdbeat = '1s'\n[[aggregator]]\nto = 'http://h'\nbach-path = 'x'\n");
    let env = [("EVENT_PIPER_HEARBEAT", "1s"), ("EVENT_PIPER_PUMP_TOO", "http://h")];
    let rights = r#"{"wriet": ["a"]}"#;
    let flags = [("config", file.path()), ("auth", "trusted-header"), ("header-rights", rights)];
    let complaints = complaints(&flags, &env).join("\n");
    for expected in [
        "herdbeat in ",
        "did you mean heartbeat?",
        "did you mean batch-path?",
        "EVENT_PIPER_HEARBEAT: unknown variable: did you mean EVENT_PIPER_HEARTBEAT?",
        "EVENT_PIPER_PUMP_TOO: unknown variable: did you mean EVENT_PIPER_PUMP_TO?",
        "`wriet`: did you mean write?",
    ] {
        assert!(complaints.contains(expected), "{expected} in:\n{complaints}");
    }
}

#[test]
fn a_byte_order_mark_before_a_secret_is_ignored() {
    let file = File::new("\u{feff}postgres://u:p@h/d\r\n");
    let config = load(&[], &[("DATABASE_URL_FILE", file.path())]).unwrap();
    let Database::Url { url, .. } = config.database else { panic!("not the URL") };
    assert_eq!(url.expose_secret(), "postgres://u:p@h/d");
}
