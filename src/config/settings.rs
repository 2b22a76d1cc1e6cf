//! The settings of the program, a constant each, in the order of `--help`. A new one is a line here,
//! a line where its value is used (`config.rs`), and a case in `every.rs`, which fails without it.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    access::{
        issuer::{self, Written},
        value::{self as access, Chosen},
    },
    setting::{Optional, SecretFile, Setting, listed, optional, secret_file, setting},
    value,
};
use crate::{
    access::{hosts::Hosts, networks::Networks, rights::Rights},
    http::ListenAddress,
    order::Hold,
    store::server::Server,
    tail::safety::Checks,
    telemetry::{Filter, Format},
};

listed! { ALL:
    const CONFIG: Optional<PathBuf> = optional("config", "EVENT_PIPER_CONFIG", "FILE", value::path, "A TOML file of settings, by the same names");
    const DATABASE_URL: Optional<(Server, SecretString)> = optional("database-url", "DATABASE_URL", "URL", value::database, "The PostgreSQL database; without it, one is brought along").secret(&DATABASE_URL_FILE);
    const DATABASE_URL_FILE: SecretFile = secret_file("database-url-file", "DATABASE_URL_FILE", "A file that holds the database's URL, so that it shows nowhere else");
    const DATA_DIR: Optional<PathBuf> = optional("data-dir", "EVENT_PIPER_DATA_DIR", "FOLDER", value::path, "Where the embedded PostgreSQL keeps its data [default: the platform's data folder]");
    const POSTGRES_BIN: Optional<PathBuf> = optional("postgres-bin", "EVENT_PIPER_POSTGRES_BIN", "FOLDER", value::path, "Where PostgreSQL's server programs are [default: looked for]");
    const POSTGRES_PORT: Optional<u16> = optional("postgres-port", "EVENT_PIPER_POSTGRES_PORT", "PORT", value::port, "Serve the embedded PostgreSQL on 127.0.0.1 too; its password is in the data folder");
    const LISTEN: Setting<ListenAddress> = setting("listen", "EVENT_PIPER_LISTEN", "ADDRESS", "127.0.0.1:4000", value::place, "Where HTTP is served: an address and a port, or unix:/path");
    const ALLOWED_HOSTS: Setting<Hosts> = setting("allowed-hosts", "EVENT_PIPER_ALLOWED_HOSTS", "NAMES", "", access::hosts, "Names with a dot that requests may be for [default: in the open mode none, else any]");
    const AUTH: Optional<Chosen> = optional("auth", "EVENT_PIPER_AUTH", "MODES", access::modes, "Who is believed: open (loopback only), some of trusted-header,jwt,keys, or open-anywhere [default on loopback: open]");
    const TRUSTED_PROXIES: Setting<Networks> = setting("trusted-proxies", "EVENT_PIPER_TRUSTED_PROXIES", "NETWORKS", "127.0.0.0/8,::1", access::networks, "Whose X-Consumer-Id is believed: addresses and networks, separated by commas");
    const HEADER_RIGHTS: Setting<Rights> = setting("header-rights", "EVENT_PIPER_HEADER_RIGHTS", "JSON", "{}", access::rights, "What those may do whom X-Consumer-Id names, beside reading their own events");
    const JWT_ISSUER: Optional<String> = optional("jwt-issuer", "EVENT_PIPER_JWT_ISSUER", "ISSUER", access::name, "Whose tokens are believed: their claim iss");
    const JWT_AUDIENCE: Optional<Vec<String>> = optional("jwt-audience", "EVENT_PIPER_JWT_AUDIENCE", "NAMES", access::list, "Whom tokens must be for: one of these in their claim aud");
    const JWT_ALGORITHMS: Optional<Vec<String>> = optional("jwt-algorithms", "EVENT_PIPER_JWT_ALGORITHMS", "NAMES", access::list, "What the issuer signs with, such as RS256 [default: HS256 with a secret, else RS256,ES256,EdDSA]");
    const JWT_JWKS_URL: Optional<String> = optional("jwt-jwks-url", "EVENT_PIPER_JWT_JWKS_URL", "URL", access::name, "Where the issuer publishes its keys");
    const JWT_KEY_FILE: Optional<PathBuf> = optional("jwt-key-file", "EVENT_PIPER_JWT_KEY_FILE", "FILE", value::path, "The issuer's public key, as PEM, JWK or JWKS");
    const JWT_SECRET: Optional<SecretString> = optional("jwt-secret", "EVENT_PIPER_JWT_SECRET", "SECRET", access::secret, "What the issuer signs with HS256, better in a file").secret(&JWT_SECRET_FILE);
    const JWT_SECRET_FILE: SecretFile = secret_file("jwt-secret-file", "EVENT_PIPER_JWT_SECRET_FILE", "A file that holds this secret");
    const JWT_ISSUERS_FILE: Optional<Vec<Written>> = optional("jwt-issuers-file", "EVENT_PIPER_JWT_ISSUERS_FILE", "FILE", issuer::several, "A TOML file of issuers, where there are several");
    const JWT_CONSUMER_CLAIM: Setting<String> = setting("jwt-consumer-claim", "EVENT_PIPER_JWT_CONSUMER_CLAIM", "CLAIM", "sub", access::name, "The claim that names the consumer");
    const JWT_RIGHTS_CLAIM: Setting<String> = setting("jwt-rights-claim", "EVENT_PIPER_JWT_RIGHTS_CLAIM", "CLAIM", "event_piper", access::name, "The claim that says what else may be read and written");
    const JWT_LEEWAY: Setting<Duration> = setting("jwt-leeway", "EVENT_PIPER_JWT_LEEWAY", "DURATION", "5s", access::leeway, "How far the issuer's clock may differ");
    const JWT_REFRESH: Setting<Duration> = setting("jwt-refresh", "EVENT_PIPER_JWT_REFRESH", "DURATION", "5m", access::refresh, "How often an issuer's keys are read again, so that those it has withdrawn are believed no longer");
    const JWT_COOKIE: Optional<String> = optional("jwt-cookie", "EVENT_PIPER_JWT_COOKIE", "NAME", access::cookie, "A cookie in which browsers may bring a token");
    const TICKET_KEY: Optional<Vec<SecretString>> = optional("ticket-key", "EVENT_PIPER_TICKET_KEY", "SECRET", access::ticket_keys, "What signs tickets, the same on all instances, better in a file [default: made up at start]").secret(&TICKET_KEY_FILE);
    const TICKET_KEY_FILE: SecretFile = secret_file("ticket-key-file", "EVENT_PIPER_TICKET_KEY_FILE", "A file that holds this key, and in further lines older ones that still count");
    const METRICS_FROM: Setting<Networks> = setting("metrics-from", "EVENT_PIPER_METRICS_FROM", "NETWORKS", "127.0.0.0/8,::1", access::networks, "Who may read the metrics without a proof: addresses and networks");
    const TLS_CERT: Optional<PathBuf> = optional("tls-cert", "EVENT_PIPER_TLS_CERT", "FILE", value::path, "The certificate for clients, as PEM; read again when it changes");
    const TLS_KEY: Optional<PathBuf> = optional("tls-key", "EVENT_PIPER_TLS_KEY", "FILE", value::path, "Its private key, as PEM");
    const MAX_STREAMS_PER_PRINCIPAL: Setting<usize> = setting("max-streams-per-principal", "EVENT_PIPER_MAX_STREAMS_PER_PRINCIPAL", "NUMBER", "10000", value::limit, "Streams that one token's, key's or header's name has open at once");
    const MAX_REQUESTS_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-requests-per-principal", "EVENT_PIPER_MAX_REQUESTS_PER_PRINCIPAL", "NUMBER", "1000", access::rate, "Requests a second of one such name");
    const MAX_APPENDS_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-appends-per-principal", "EVENT_PIPER_MAX_APPENDS_PER_PRINCIPAL", "NUMBER", "10000", access::rate, "Events a second that one such name appends");
    const MAX_APPEND_BYTES_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-append-bytes-per-principal", "EVENT_PIPER_MAX_APPEND_BYTES_PER_PRINCIPAL", "SIZE", "32MiB", access::byte_rate, "Bytes of these a second, with numbers written out");
    const MAX_QUERIES_PER_PRINCIPAL: Optional<usize> = optional("max-queries-per-principal", "EVENT_PIPER_MAX_QUERIES_PER_PRINCIPAL", "NUMBER", value::count, "Queries of one such name that run at once [default: half of --pool-size]");
    const CORS_ORIGINS: Setting<Vec<String>> = setting("cors-origins", "EVENT_PIPER_CORS_ORIGINS", "ORIGINS", "", value::origins, "Web origins that may read, separated by commas");
    const CORS_HEADERS: Setting<Vec<String>> = setting("cors-headers", "EVENT_PIPER_CORS_HEADERS", "NAMES", "", value::header_names, "Headers that their pages may send beside the usual ones, separated by commas; * for any");
    const HOLD: Setting<Hold> = setting("hold", "EVENT_PIPER_HOLD", "DURATION", "20ms", value::hold, "How long an open transaction may hold back later events; unlimited for strict id order");
    const SAFETY_CHECKS: Setting<Checks> = setting("safety-checks", "EVENT_PIPER_SAFETY_CHECKS", "enforce|warn", "enforce", value::checks, "What to do where events could be lost, as with the doorbell's trigger disabled; enforce: do not start, do not be ready; warn, in an emergency: log it");
    const HEARTBEAT: Setting<Duration> = setting("heartbeat", "EVENT_PIPER_HEARTBEAT", "DURATION", "10s", value::interval, "How often a quiet stream says that it lives");
    const RECENT: Setting<usize> = setting("recent", "EVENT_PIPER_RECENT", "SIZE", "64MiB", value::size, "How much of the recent events is kept in memory for reconnects");
    const DRAIN: Setting<Duration> = setting("drain", "EVENT_PIPER_DRAIN", "DURATION", "10s", value::duration, "How long streams may take to leave at shutdown");
    const POOL_SIZE: Setting<usize> = setting("pool-size", "EVENT_PIPER_POOL_SIZE", "NUMBER", "8", value::count, "Database connections for replays, beside the listening one");
    const MAX_STREAMS: Setting<usize> = setting("max-streams", "EVENT_PIPER_MAX_STREAMS", "NUMBER", "100000", value::limit, "Streams in all; who comes beyond that is asked to try again in some seconds");
    const MAX_STREAMS_PER_CONSUMER: Setting<usize> = setting("max-streams-per-consumer", "EVENT_PIPER_MAX_STREAMS_PER_CONSUMER", "NUMBER", "100000", value::limit, "Streams that follow one consumer");
    const HEAD_TIMEOUT: Setting<Duration> = setting("head-timeout", "EVENT_PIPER_HEAD_TIMEOUT", "DURATION", "10s", value::interval, "How long a request's head may take to arrive, and a connection may wait for its next request");
    const MAX_HEAD: Setting<usize> = setting("max-head", "EVENT_PIPER_MAX_HEAD", "SIZE", "16KiB", value::head, "How large a request's head may be");
    const MAX_BODY: Setting<usize> = setting("max-body", "EVENT_PIPER_MAX_BODY", "SIZE", "8MiB", value::size, "How large a body may be that is written at once");
    const MAX_EVENT: Setting<usize> = setting("max-event", "EVENT_PIPER_MAX_EVENT", "SIZE", "1MiB", value::size, "How large one event may be that is written over HTTP");
    const MAX_PAGE: Setting<i64> = setting("max-page", "EVENT_PIPER_MAX_PAGE", "NUMBER", "1000", value::page, "How many events of a stream may be asked for at once");
    const WRITING: Setting<bool> = setting("writing", "EVENT_PIPER_WRITING", "on|off", "on", value::on_or_off, "Whether events can be written through this gateway; off: a role that may only SELECT is enough");
    const APPEND_PATH: Optional<String> = optional("append-path", "EVENT_PIPER_APPEND_PATH", "PATH", value::url_path, "Serve the predecessor's append service below this path, too; / for its own addresses");
    const WRITE_BUFFER_PER_PRINCIPAL: Setting<usize> = setting("write-buffer-per-principal", "EVENT_PIPER_WRITE_BUFFER_PER_PRINCIPAL", "SIZE", "32MiB", value::size, "How much of it one token's, key's or header's name may have");
    const BODY_TIMEOUT: Setting<Duration> = setting("body-timeout", "EVENT_PIPER_BODY_TIMEOUT", "DURATION", "10s", value::interval, "How long nothing may come of a body that is written at once");
    const WRITE_TIMEOUT: Setting<Duration> = setting("write-timeout", "EVENT_PIPER_WRITE_TIMEOUT", "DURATION", "1m", value::interval, "How long a client may take nothing of an answer or a stream before it is cut off");
    const ANSWER_BUFFER: Setting<usize> = setting("answer-buffer", "EVENT_PIPER_ANSWER_BUFFER", "SIZE", "256MiB", value::size, "Bytes of answers that are being made or sent, all in all");
    const ANSWER_BUFFER_PER_PRINCIPAL: Setting<usize> = setting("answer-buffer-per-principal", "EVENT_PIPER_ANSWER_BUFFER_PER_PRINCIPAL", "SIZE", "64MiB", value::size, "How much of that one such name may have");
    const WRITE_CONNECTIONS: Setting<usize> = setting("write-connections", "EVENT_PIPER_WRITE_CONNECTIONS", "NUMBER", "4", value::count, "Database connections that write, opened when they are needed");
    const WRITE_QUEUE: Setting<usize> = setting("write-queue", "EVENT_PIPER_WRITE_QUEUE", "NUMBER", "4096", value::limit, "Requests that may wait to be written; who comes beyond that is answered 429");
    const WRITE_BUFFER: Setting<usize> = setting("write-buffer", "EVENT_PIPER_WRITE_BUFFER", "SIZE", "64MiB", value::size, "How much of them is kept in memory, all in all");
    const MIGRATE: Setting<bool> = setting("migrate", "EVENT_PIPER_MIGRATE", "", "true", value::switch, "Bring the schema up to date at start (the default)").or_not("no-migrate", "Leave the schema as it is");
    const LOG: Setting<Filter> = setting("log", "EVENT_PIPER_LOG", "FILTER", "info,tokio_postgres=warn", value::filter, "What is logged, such as warn,event_piper=debug");
    const LOG_FORMAT: Setting<Format> = setting("log-format", "EVENT_PIPER_LOG_FORMAT", "FORMAT", "text", value::format, "How it is logged: text, or json");
}
