//! The settings of the program, one constant each, in the order of `--help`. A new setting needs a line
//! here, a line where its value is used (`config.rs`), and a case in `every.rs`, whose test fails
//! without one.

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
    const CONFIG: Optional<PathBuf> = optional("config", "EVENT_PIPER_CONFIG", "FILE", value::path, "A TOML file with settings under the same names");
    const DATABASE_URL: Optional<(Server, SecretString)> = optional("database-url", "DATABASE_URL", "URL", value::database, "The PostgreSQL database [default: a private embedded PostgreSQL]").secret(&DATABASE_URL_FILE);
    const DATABASE_URL_FILE: SecretFile = secret_file("database-url-file", "DATABASE_URL_FILE", "A file with the database URL, which keeps it out of process listings");
    const DATA_DIR: Optional<PathBuf> = optional("data-dir", "EVENT_PIPER_DATA_DIR", "FOLDER", value::path, "The data directory of the embedded PostgreSQL [default: in the platform's data folder]");
    const POSTGRES_BIN: Optional<PathBuf> = optional("postgres-bin", "EVENT_PIPER_POSTGRES_BIN", "FOLDER", value::path, "The folder with PostgreSQL's server programs [default: searched for]");
    const POSTGRES_PORT: Optional<u16> = optional("postgres-port", "EVENT_PIPER_POSTGRES_PORT", "PORT", value::port, "Also serve the embedded PostgreSQL on this port of 127.0.0.1; its password is in the data directory");
    const LISTEN: Setting<ListenAddress> = setting("listen", "EVENT_PIPER_LISTEN", "ADDRESS", "127.0.0.1:4000", value::place, "The address to serve HTTP on: an IP address and a port, or unix:/path");
    const ALLOWED_HOSTS: Setting<Hosts> = setting("allowed-hosts", "EVENT_PIPER_ALLOWED_HOSTS", "NAMES", "", access::hosts, "Host names with a dot that requests may use [default: none in the open mode, otherwise any]");
    const AUTH: Optional<Chosen> = optional("auth", "EVENT_PIPER_AUTH", "MODES", access::modes, "How callers are authenticated: open (loopback only), open-anywhere, or one or several of trusted-header,jwt,keys [default on loopback: open]");
    const TRUSTED_PROXIES: Setting<Networks> = setting("trusted-proxies", "EVENT_PIPER_TRUSTED_PROXIES", "NETWORKS", "127.0.0.0/8,::1", access::networks, "Addresses and networks from which X-Consumer-Id is accepted, separated by commas");
    const HEADER_RIGHTS: Setting<Rights> = setting("header-rights", "EVENT_PIPER_HEADER_RIGHTS", "JSON", "{}", access::rights, "Rights of the consumers that X-Consumer-Id names, in addition to reading their own events");
    const JWT_ISSUER: Optional<String> = optional("jwt-issuer", "EVENT_PIPER_JWT_ISSUER", "ISSUER", access::name, "The issuer whose tokens are accepted (claim iss)");
    const JWT_AUDIENCE: Optional<Vec<String>> = optional("jwt-audience", "EVENT_PIPER_JWT_AUDIENCE", "NAMES", access::list, "The accepted audiences; tokens must have one of them (claim aud)");
    const JWT_ALGORITHMS: Optional<Vec<String>> = optional("jwt-algorithms", "EVENT_PIPER_JWT_ALGORITHMS", "NAMES", access::list, "The accepted signature algorithms, such as RS256 [default: HS256 with a secret, otherwise RS256,ES256,EdDSA]");
    const JWT_JWKS_URL: Optional<String> = optional("jwt-jwks-url", "EVENT_PIPER_JWT_JWKS_URL", "URL", access::name, "The URL at which the issuer publishes its keys");
    const JWT_KEY_FILE: Optional<PathBuf> = optional("jwt-key-file", "EVENT_PIPER_JWT_KEY_FILE", "FILE", value::path, "The issuer's public key, as PEM, JWK or JWKS");
    const JWT_SECRET: Optional<SecretString> = optional("jwt-secret", "EVENT_PIPER_JWT_SECRET", "SECRET", access::secret, "The secret with which the issuer signs (HS256); prefer a file").secret(&JWT_SECRET_FILE);
    const JWT_SECRET_FILE: SecretFile = secret_file("jwt-secret-file", "EVENT_PIPER_JWT_SECRET_FILE", "A file with this secret");
    const JWT_ISSUERS_FILE: Optional<Vec<Written>> = optional("jwt-issuers-file", "EVENT_PIPER_JWT_ISSUERS_FILE", "FILE", issuer::several, "A TOML file with several issuers");
    const JWT_CONSUMER_CLAIM: Setting<String> = setting("jwt-consumer-claim", "EVENT_PIPER_JWT_CONSUMER_CLAIM", "CLAIM", "sub", access::name, "The claim that names the consumer");
    const JWT_RIGHTS_CLAIM: Setting<String> = setting("jwt-rights-claim", "EVENT_PIPER_JWT_RIGHTS_CLAIM", "CLAIM", "event_piper", access::name, "The claim that grants further rights");
    const JWT_LEEWAY: Setting<Duration> = setting("jwt-leeway", "EVENT_PIPER_JWT_LEEWAY", "DURATION", "5s", access::leeway, "The allowed difference between the clocks of issuer and gateway");
    const JWT_REFRESH: Setting<Duration> = setting("jwt-refresh", "EVENT_PIPER_JWT_REFRESH", "DURATION", "5m", access::refresh, "How often an issuer's keys are read again, so that withdrawn keys are no longer accepted");
    const JWT_COOKIE: Optional<String> = optional("jwt-cookie", "EVENT_PIPER_JWT_COOKIE", "NAME", access::cookie, "A cookie in which browsers may send a token");
    const TICKET_KEY: Optional<Vec<SecretString>> = optional("ticket-key", "EVENT_PIPER_TICKET_KEY", "SECRET", access::ticket_keys, "The key that signs tickets, the same on all instances; prefer a file [default: generated at start]").secret(&TICKET_KEY_FILE);
    const TICKET_KEY_FILE: SecretFile = secret_file("ticket-key-file", "EVENT_PIPER_TICKET_KEY_FILE", "A file with this key in the first line, and older keys that are still accepted in further lines");
    const METRICS_FROM: Setting<Networks> = setting("metrics-from", "EVENT_PIPER_METRICS_FROM", "NETWORKS", "127.0.0.0/8,::1", access::networks, "Addresses and networks that may read the metrics without credentials");
    const TLS_CERT: Optional<PathBuf> = optional("tls-cert", "EVENT_PIPER_TLS_CERT", "FILE", value::path, "The server certificate, as PEM; reloaded when it changes");
    const TLS_KEY: Optional<PathBuf> = optional("tls-key", "EVENT_PIPER_TLS_KEY", "FILE", value::path, "The private key of the certificate, as PEM");
    const MAX_STREAMS_PER_PRINCIPAL: Setting<usize> = setting("max-streams-per-principal", "EVENT_PIPER_MAX_STREAMS_PER_PRINCIPAL", "NUMBER", "10000", value::limit, "Concurrent streams of one principal (the name of a token, a key or a header)");
    const MAX_REQUESTS_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-requests-per-principal", "EVENT_PIPER_MAX_REQUESTS_PER_PRINCIPAL", "NUMBER", "1000", access::rate, "Requests per second of one principal");
    const MAX_APPENDS_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-appends-per-principal", "EVENT_PIPER_MAX_APPENDS_PER_PRINCIPAL", "NUMBER", "10000", access::rate, "Events per second that one principal may write");
    const MAX_APPEND_BYTES_PER_PRINCIPAL: Setting<NonZeroU32> = setting("max-append-bytes-per-principal", "EVENT_PIPER_MAX_APPEND_BYTES_PER_PRINCIPAL", "SIZE", "32MiB", access::byte_rate, "Bytes of events per second that one principal may write, with numbers written out");
    const MAX_QUERIES_PER_PRINCIPAL: Optional<usize> = optional("max-queries-per-principal", "EVENT_PIPER_MAX_QUERIES_PER_PRINCIPAL", "NUMBER", value::count, "Concurrent queries of one principal [default: half of --pool-size]");
    const CORS_ORIGINS: Setting<Vec<String>> = setting("cors-origins", "EVENT_PIPER_CORS_ORIGINS", "ORIGINS", "", value::origins, "Web origins that may use the API, separated by commas");
    const CORS_HEADERS: Setting<Vec<String>> = setting("cors-headers", "EVENT_PIPER_CORS_HEADERS", "NAMES", "", value::header_names, "Headers that pages of these origins may send in addition to the usual ones, separated by commas; * allows any");
    const HOLD: Setting<Hold> = setting("hold", "EVENT_PIPER_HOLD", "DURATION", "20ms", value::hold, "How long an open transaction may delay later events; unlimited for strict id order");
    const SAFETY_CHECKS: Setting<Checks> = setting("safety-checks", "EVENT_PIPER_SAFETY_CHECKS", "enforce|warn", "enforce", value::checks, "What to do if events could be lost, for instance because the doorbell's trigger is disabled: enforce (do not start, report not ready), or warn (only log it, for emergencies)");
    const HEARTBEAT: Setting<Duration> = setting("heartbeat", "EVENT_PIPER_HEARTBEAT", "DURATION", "10s", value::interval, "How often an idle stream sends a heartbeat");
    const RECENT: Setting<usize> = setting("recent", "EVENT_PIPER_RECENT", "SIZE", "64MiB", value::size, "Memory for recent events, from which reconnecting clients are served");
    const DRAIN: Setting<Duration> = setting("drain", "EVENT_PIPER_DRAIN", "DURATION", "10s", value::duration, "The time over which streams are ended at shutdown");
    const POOL_SIZE: Setting<usize> = setting("pool-size", "EVENT_PIPER_POOL_SIZE", "NUMBER", "8", value::count, "Database connections for replays, in addition to the listening connection");
    const MAX_STREAMS: Setting<usize> = setting("max-streams", "EVENT_PIPER_MAX_STREAMS", "NUMBER", "100000", value::limit, "Concurrent streams in total; further clients are asked to reconnect some seconds later");
    const MAX_STREAMS_PER_CONSUMER: Setting<usize> = setting("max-streams-per-consumer", "EVENT_PIPER_MAX_STREAMS_PER_CONSUMER", "NUMBER", "100000", value::limit, "Concurrent streams that follow one consumer");
    const HEAD_TIMEOUT: Setting<Duration> = setting("head-timeout", "EVENT_PIPER_HEAD_TIMEOUT", "DURATION", "10s", value::interval, "How long a request head may take to arrive, and how long a connection may stay idle");
    const MAX_HEAD: Setting<usize> = setting("max-head", "EVENT_PIPER_MAX_HEAD", "SIZE", "16KiB", value::head, "The maximum size of a request head");
    const MAX_BODY: Setting<usize> = setting("max-body", "EVENT_PIPER_MAX_BODY", "SIZE", "8MiB", value::size, "The maximum size of a request body, except for bodies of lines");
    const MAX_EVENT: Setting<usize> = setting("max-event", "EVENT_PIPER_MAX_EVENT", "SIZE", "1MiB", value::size, "The maximum size of one event that is written over HTTP");
    const MAX_PAGE: Setting<i64> = setting("max-page", "EVENT_PIPER_MAX_PAGE", "NUMBER", "1000", value::page, "The maximum number of events in a page of a stream");
    const WRITING: Setting<bool> = setting("writing", "EVENT_PIPER_WRITING", "on|off", "on", value::on_or_off, "Whether events can be written through this gateway; with off, a role with SELECT is sufficient");
    const APPEND_PATH: Optional<String> = optional("append-path", "EVENT_PIPER_APPEND_PATH", "PATH", value::url_path, "Also serve the predecessor's append service below this path; / for its original paths");
    const WRITE_BUFFER_PER_PRINCIPAL: Setting<usize> = setting("write-buffer-per-principal", "EVENT_PIPER_WRITE_BUFFER_PER_PRINCIPAL", "SIZE", "32MiB", value::size, "The part of --write-buffer that one principal may use");
    const BODY_TIMEOUT: Setting<Duration> = setting("body-timeout", "EVENT_PIPER_BODY_TIMEOUT", "DURATION", "10s", value::interval, "How long a request body may stall before the request fails");
    const WRITE_TIMEOUT: Setting<Duration> = setting("write-timeout", "EVENT_PIPER_WRITE_TIMEOUT", "DURATION", "1m", value::interval, "How long a client may read nothing of a response or a stream before it is disconnected");
    const ANSWER_BUFFER: Setting<usize> = setting("answer-buffer", "EVENT_PIPER_ANSWER_BUFFER", "SIZE", "256MiB", value::size, "Memory for responses in preparation or in transit, in total");
    const ANSWER_BUFFER_PER_PRINCIPAL: Setting<usize> = setting("answer-buffer-per-principal", "EVENT_PIPER_ANSWER_BUFFER_PER_PRINCIPAL", "SIZE", "64MiB", value::size, "The part of --answer-buffer that one principal may use");
    const WRITE_CONNECTIONS: Setting<usize> = setting("write-connections", "EVENT_PIPER_WRITE_CONNECTIONS", "NUMBER", "4", value::count, "Database connections that write, opened on demand");
    const WRITE_QUEUE: Setting<usize> = setting("write-queue", "EVENT_PIPER_WRITE_QUEUE", "NUMBER", "4096", value::limit, "Requests that may wait to be written; further requests get 429");
    const WRITE_BUFFER: Setting<usize> = setting("write-buffer", "EVENT_PIPER_WRITE_BUFFER", "SIZE", "64MiB", value::size, "Memory for request bodies that were received and not yet answered, in total");
    const MIGRATE: Setting<bool> = setting("migrate", "EVENT_PIPER_MIGRATE", "", "true", value::switch, "Update the database schema at start (the default)").or_not("no-migrate", "Do not change the database schema");
    const LOG: Setting<Filter> = setting("log", "EVENT_PIPER_LOG", "FILTER", "info,tokio_postgres=warn", value::filter, "The log filter, such as warn,event_piper=debug");
    const LOG_FORMAT: Setting<Format> = setting("log-format", "EVENT_PIPER_LOG_FORMAT", "FORMAT", "text", value::format, "The log format: text, or json");
}
