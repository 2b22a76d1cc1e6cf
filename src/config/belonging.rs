//! Settings that mean something only together with another one. What decides who may do what is
//! refused where it would be ignored; of the rest the log says that it has no effect.

use super::{access, sources::Sources, value};

/// Settings of `--auth jwt`.
const OF_JWT: [&str; 11] = [
    "jwt-issuer",
    "jwt-audience",
    "jwt-algorithms",
    "jwt-jwks-url",
    "jwt-key-file",
    "jwt-secret",
    "jwt-issuers-file",
    "jwt-consumer-claim",
    "jwt-rights-claim",
    "jwt-leeway",
    "jwt-refresh",
];
/// Of these, those that describe the one issuer that `--jwt-issuer` names.
const OF_ONE_ISSUER: [&str; 5] =
    ["jwt-audience", "jwt-algorithms", "jwt-jwks-url", "jwt-key-file", "jwt-secret"];
const OF_WRITING: [&str; 4] = ["write-connections", "write-queue", "write-buffer", "append-path"];
const OF_EMBEDDED: [&str; 3] = ["data-dir", "postgres-bin", "postgres-port"];

/// Looks at what was given before it is taken apart.
pub(super) fn check(from: &mut Sources) {
    // An --auth that cannot be read is complained of elsewhere, once.
    if let Ok(modes) = from.peek("auth").map_or(Ok(access::OPEN), access::modes) {
        let modes = modes.modes;
        for name in OF_JWT {
            refuse_unless(modes.jwt, from, name, "--auth jwt");
        }
        refuse_unless(modes.trusted_header, from, "header-rights", "--auth trusted-header");
        for name in ["ticket-key", "jwt-cookie"] {
            refuse_unless(!modes.is_open(), from, name, "--auth trusted-header, jwt or keys");
        }
    }
    if from.peek("jwt-issuer").is_none() {
        for name in OF_ONE_ISSUER {
            refuse_unless(false, from, name, "--jwt-issuer");
        }
    }
    if from.peek("writing").is_some_and(|text| value::on_or_off(text) == Ok(false)) {
        for name in OF_WRITING {
            note(from, name, "with --writing off");
        }
    }
    if from.peek("database-url").is_some() {
        for name in OF_EMBEDDED {
            note(from, name, "beside --database-url");
        }
    }
}

fn refuse_unless(chosen: bool, from: &mut Sources, name: &str, needs: &str) {
    if !chosen && let Some(place) = from.place_of(name) {
        let complaint = format!("{place}: means something only with {needs}, which is not given");
        // Not twice: an issuer's keys without the mode and without the issuer.
        if !from.wrong.iter().any(|known| known.starts_with(&format!("{place}: means"))) {
            from.wrong(complaint);
        }
    }
}

fn note(from: &mut Sources, name: &str, when: &str) {
    if let Some(place) = from.place_of(name) {
        let sentence = format!("{place}: has no effect {when}");
        from.unused.push(sentence);
    }
}
