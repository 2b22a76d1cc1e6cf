//! The settings of the pump of one aggregator, one constant each, in the order of `--help`.

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
    const TO: Optional<Url> = optional("to", "EVENT_PIPER_PUMP_TO", "URL", base, "The base URL of the aggregator, to which events/latest is appended").hidden();
    const NAME: Optional<String> = optional("name", "EVENT_PIPER_PUMP_NAME", "NAME", text, "The name of the aggregator's lease and checkpoint [default: the URL]");
    const BATCH_PATH: Setting<String> = setting("batch-path", "EVENT_PIPER_PUMP_BATCH_PATH", "PATH", "events/batch", path, "The path to which batches are sent");
    const BATCH_EVENTS: Setting<usize> = setting("batch-events", "EVENT_PIPER_PUMP_BATCH_EVENTS", "NUMBER", "1000", value::limit, "The maximum number of events in a batch");
    const BATCH_BYTES: Setting<usize> = setting("batch-bytes", "EVENT_PIPER_PUMP_BATCH_BYTES", "SIZE", "1MiB", value::size, "The maximum size of a batch; a single event may be larger");
    const ONLY_TYPES: Setting<Vec<String>> = setting("only-types", "EVENT_PIPER_PUMP_ONLY_TYPES", "TYPES", "", list, "Only events of these types, separated by commas");
    const ONLY_SUBSCRIBERS: Setting<Vec<String>> = setting("only-subscribers", "EVENT_PIPER_PUMP_ONLY_SUBSCRIBERS", "NAMES", "", list, "Only events for these consumers, separated by commas");
    const ONLY_STREAMS: Setting<Vec<String>> = setting("only-streams", "EVENT_PIPER_PUMP_ONLY_STREAMS", "PREFIXES", "", list, "Only events of streams with these prefixes, separated by commas");
    const FIELDS: Setting<Fields> = setting("fields", "EVENT_PIPER_PUMP_FIELDS", "FIELDS", "default", fields, "The fields of an event's JSON: default, predecessor, or name=source pairs");
    const START: Setting<Start> = setting("start", "EVENT_PIPER_PUMP_START", "WHERE", "beginning", start, "Where to start if neither the aggregator nor a checkpoint tells: beginning, or now");
    const TIMEOUT: Setting<Duration> = setting("timeout", "EVENT_PIPER_PUMP_TIMEOUT", "DURATION", "30s", value::interval, "How long a request may take");
    const LONGEST_PAUSE: Setting<Duration> = setting("longest-pause", "EVENT_PIPER_PUMP_LONGEST_PAUSE", "DURATION", "30s", value::interval, "The longest pause between attempts");
    const REFUSALS: Setting<usize> = setting("refusals", "EVENT_PIPER_PUMP_REFUSALS", "NUMBER", "3", value::limit, "How often an event is retried before it counts as refused");
    const ON_REFUSAL: Setting<OnRefusal> = setting("on-refusal", "EVENT_PIPER_PUMP_ON_REFUSAL", "WHAT", "stop", on_refusal, "What to do with a refused event: stop before it, or set-aside");
    const CATCH_UP: Setting<CatchUp> = setting("catch-up", "EVENT_PIPER_PUMP_CATCH_UP", "HOW", "events", catch_up, "How waiting events are sent after the bootstrap: events (one by one), or batches");
    const TOKEN: Optional<SecretString> = optional("token", "EVENT_PIPER_PUMP_TOKEN", "TOKEN", token, "The token to send as Authorization: Bearer; prefer a file").secret(&TOKEN_FILE);
    const TOKEN_FILE: SecretFile = secret_file("token-file", "EVENT_PIPER_PUMP_TOKEN_FILE", "A file with the token");
    const SIGNING_KEY: Optional<SigningKey> = optional("signing-key", "EVENT_PIPER_PUMP_SIGNING_KEY", "KEY", signing_key, "The key to sign requests with, whsec_ and Base64; prefer a file").secret(&SIGNING_KEY_FILE);
    const SIGNING_KEY_FILE: SecretFile = secret_file("signing-key-file", "EVENT_PIPER_PUMP_SIGNING_KEY_FILE", "A file with the signing key");
    const CA_FILE: Optional<PathBuf> = optional("ca-file", "EVENT_PIPER_PUMP_CA_FILE", "FILE", file, "Certificate authorities for the aggregator's certificate, as PEM [default: those of the system]");
    const CERTIFICATE_FILE: Optional<PathBuf> = optional("certificate-file", "EVENT_PIPER_PUMP_CERTIFICATE_FILE", "FILE", file, "The client certificate of the pump, as PEM");
    const KEY_FILE: Optional<PathBuf> = optional("key-file", "EVENT_PIPER_PUMP_KEY_FILE", "FILE", file, "The private key of that certificate, as PEM");
}
