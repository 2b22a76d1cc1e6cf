//! The settings of one aggregator's pump, a constant each, in the order of `--help`.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;
use secrecy::SecretString;

use super::value::{
    base, catch_up, fields, file, list, on_refusal, path, signing_key, start, text, token,
};
use crate::{
    config::{
        setting::{Optional, SecretFile, Setting, listed, optional, secret_file, setting},
        value,
    },
    pump::{CatchUp, OnRefusal, fields::Fields, resume::Start, sign::SigningKey},
};

listed! { ALL:
    const TO: Optional<Url> = optional("to", "EVENT_PIPER_PUMP_TO", "URL", base, "The aggregator: what stands before events/latest").hidden();
    const NAME: Optional<String> = optional("name", "EVENT_PIPER_PUMP_NAME", "NAME", text, "The name of its lease and checkpoint [default: the URL]");
    const BATCH_PATH: Setting<String> = setting("batch-path", "EVENT_PIPER_PUMP_BATCH_PATH", "PATH", "events/batch", path, "Where batches go");
    const BATCH_EVENTS: Setting<usize> = setting("batch-events", "EVENT_PIPER_PUMP_BATCH_EVENTS", "NUMBER", "1000", value::limit, "Events in a batch");
    const BATCH_BYTES: Setting<usize> = setting("batch-bytes", "EVENT_PIPER_PUMP_BATCH_BYTES", "SIZE", "1MiB", value::size, "Bytes in a batch; one event alone may be larger");
    const ONLY_TYPES: Setting<Vec<String>> = setting("only-types", "EVENT_PIPER_PUMP_ONLY_TYPES", "TYPES", "", list, "Only events of these types, separated by commas");
    const ONLY_SUBSCRIBERS: Setting<Vec<String>> = setting("only-subscribers", "EVENT_PIPER_PUMP_ONLY_SUBSCRIBERS", "NAMES", "", list, "Only events for these consumers, separated by commas");
    const ONLY_STREAMS: Setting<Vec<String>> = setting("only-streams", "EVENT_PIPER_PUMP_ONLY_STREAMS", "PREFIXES", "", list, "Only events of streams that begin so, separated by commas");
    const FIELDS: Setting<Fields> = setting("fields", "EVENT_PIPER_PUMP_FIELDS", "FIELDS", "default", fields, "The fields of an event's JSON: default, predecessor, or name=source pairs");
    const START: Setting<Start> = setting("start", "EVENT_PIPER_PUMP_START", "WHERE", "beginning", start, "Where to begin if nobody knows: beginning, or now");
    const TIMEOUT: Setting<Duration> = setting("timeout", "EVENT_PIPER_PUMP_TIMEOUT", "DURATION", "30s", value::interval, "How long a request may take");
    const LONGEST_PAUSE: Setting<Duration> = setting("longest-pause", "EVENT_PIPER_PUMP_LONGEST_PAUSE", "DURATION", "30s", value::interval, "The longest pause between attempts");
    const REFUSALS: Setting<usize> = setting("refusals", "EVENT_PIPER_PUMP_REFUSALS", "NUMBER", "3", value::limit, "How often an event may be refused before that counts");
    const ON_REFUSAL: Setting<OnRefusal> = setting("on-refusal", "EVENT_PIPER_PUMP_ON_REFUSAL", "WHAT", "stop", on_refusal, "What happens then: stop, or set-aside");
    const CATCH_UP: Setting<CatchUp> = setting("catch-up", "EVENT_PIPER_PUMP_CATCH_UP", "HOW", "events", catch_up, "How a booted aggregator gets events that wait: events, or batches");
    const TOKEN: Optional<SecretString> = optional("token", "EVENT_PIPER_PUMP_TOKEN", "TOKEN", token, "Sent as Authorization: Bearer; a file is better").secret(&TOKEN_FILE);
    const TOKEN_FILE: SecretFile = secret_file("token-file", "EVENT_PIPER_PUMP_TOKEN_FILE", "A file that holds the token");
    const SIGNING_KEY: Optional<SigningKey> = optional("signing-key", "EVENT_PIPER_PUMP_SIGNING_KEY", "KEY", signing_key, "whsec_ and Base64, to sign requests with; a file is better").secret(&SIGNING_KEY_FILE);
    const SIGNING_KEY_FILE: SecretFile = secret_file("signing-key-file", "EVENT_PIPER_PUMP_SIGNING_KEY_FILE", "A file that holds the signing key");
    const CA_FILE: Optional<PathBuf> = optional("ca-file", "EVENT_PIPER_PUMP_CA_FILE", "FILE", file, "Who vouches for the aggregator, PEM [default: the system's roots]");
    const CERTIFICATE_FILE: Optional<PathBuf> = optional("certificate-file", "EVENT_PIPER_PUMP_CERTIFICATE_FILE", "FILE", file, "The pump's own certificate, PEM");
    const KEY_FILE: Optional<PathBuf> = optional("key-file", "EVENT_PIPER_PUMP_KEY_FILE", "FILE", file, "The key of that certificate, PEM");
}
