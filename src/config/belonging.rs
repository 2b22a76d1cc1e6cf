//! Settings that have an effect only together with another one. Without it, settings of access control
//! are errors, and others lead to a warning in the log.

use super::{access::value as access, setting::Key, settings, value, values::Values};

/// Settings that need `--auth jwt`.
const OF_JWT: [&Key; 11] = [
    &settings::JWT_ISSUER.key,
    &settings::JWT_AUDIENCE.key,
    &settings::JWT_ALGORITHMS.key,
    &settings::JWT_JWKS_URL.key,
    &settings::JWT_KEY_FILE.key,
    &settings::JWT_SECRET.key,
    &settings::JWT_ISSUERS_FILE.key,
    &settings::JWT_CONSUMER_CLAIM.key,
    &settings::JWT_RIGHTS_CLAIM.key,
    &settings::JWT_LEEWAY.key,
    &settings::JWT_REFRESH.key,
];
/// Those of them that describe the issuer of `--jwt-issuer`.
const OF_ONE_ISSUER: [&Key; 5] = [
    &settings::JWT_AUDIENCE.key,
    &settings::JWT_ALGORITHMS.key,
    &settings::JWT_JWKS_URL.key,
    &settings::JWT_KEY_FILE.key,
    &settings::JWT_SECRET.key,
];
const OF_WRITING: [&Key; 4] = [
    &settings::WRITE_CONNECTIONS.key,
    &settings::WRITE_QUEUE.key,
    &settings::WRITE_BUFFER.key,
    &settings::APPEND_PATH.key,
];
const OF_EMBEDDED: [&Key; 3] =
    [&settings::DATA_DIR.key, &settings::POSTGRES_BIN.key, &settings::POSTGRES_PORT.key];

/// Checks the given values before they are parsed.
pub(super) fn check(from: &mut Values) {
    // An invalid --auth is reported when it is parsed.
    if let Ok(modes) = from.peek(&settings::AUTH.key).map_or(Ok(access::OPEN), access::modes) {
        let modes = modes.modes;
        for key in OF_JWT {
            refuse_unless(modes.jwt, from, key, "--auth jwt");
        }
        refuse_unless(
            modes.trusted_header,
            from,
            &settings::HEADER_RIGHTS.key,
            "--auth trusted-header",
        );
        for key in [&settings::TICKET_KEY.key, &settings::JWT_COOKIE.key] {
            refuse_unless(!modes.is_open(), from, key, "--auth trusted-header, jwt or keys");
        }
    }
    if from.peek(&settings::JWT_ISSUER.key).is_none() {
        for key in OF_ONE_ISSUER {
            refuse_unless(false, from, key, "--jwt-issuer");
        }
    }
    if from.peek(&settings::WRITING.key).is_some_and(|text| value::on_or_off(text) == Ok(false)) {
        for key in OF_WRITING {
            note(from, key, "with --writing off");
        }
    }
    if from.peek(&settings::DATABASE_URL.key).is_some() {
        for key in OF_EMBEDDED {
            note(from, key, "beside --database-url");
        }
    }
}

fn refuse_unless(chosen: bool, from: &mut Values, key: &Key, needs: &str) {
    if !chosen && let Some(place) = from.place_of(key) {
        let complaint = format!("{place}: requires {needs}, which is not set");
        // One error is enough for the keys of an issuer without the mode and without the issuer.
        if !from.wrong.iter().any(|known| known.starts_with(&format!("{place}: requires"))) {
            from.wrong(complaint);
        }
    }
}

fn note(from: &mut Values, key: &Key, when: &str) {
    if let Some(place) = from.place_of(key) {
        let sentence = format!("{place} has no effect {when}");
        from.unused.push(sentence);
    }
}
