//! A log, roles with some rights and no others, and what an attacker leaves behind.

use event_piper::store::{
    doctor::{Severity, examine},
    error::ErrorChain,
    server::Server,
};
use tokio_postgres::Client;

use crate::{
    roles,
    support::postgres::{Database, connect},
};

pub(super) const PARTITION: &str = include_str!("../../../postgresql/partition.sql");

/// The schema of an attacker who wants to act as the owner. `mallory.note` records the role that runs it in
/// `mallory.calls`.
pub(super) const EVIL: &str = "
    create schema mallory; grant usage, create on schema mallory to public;
    create table mallory.calls (who name, what text);
    grant insert on mallory.calls to public;
    create function mallory.note(what text) returns bool language sql as
        'insert into mallory.calls values (current_user, what) returning true';";

/// A log with the partitioning procedures and all roles, and the schema of the attacker.
pub(super) async fn whole_log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    for sql in [PARTITION, EVIL] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
    }
    roles::create(&database).await;
    (database, client)
}

/// Creates a login role that has only these rights, and connects as it.
pub(super) async fn login(database: &Database, name: &str, rights: &str) -> Client {
    let name = format!("{name}_{}", database.name());
    let create = format!("create role {name} login; {}", rights.replace("ROLE", &name));
    database.connect().await.batch_execute(&create).await.unwrap();
    connect(&database.url().replace("user=postgres", &format!("user={name}"))).await
}

pub(super) async fn attackers(database: &Database) -> Vec<Client> {
    let name = database.name();
    let own =
        format!("create schema own authorization ROLE; grant temporary on database {name} to ROLE");
    vec![
        login(database, "bare", "").await,
        login(database, "owner_of_something", &own).await,
        login(database, "writer", "grant event_piper_writer to ROLE").await,
    ]
}

pub(super) async fn refusal(client: &Client, sql: &str) -> String {
    ErrorChain(&client.batch_execute(sql).await.expect_err(sql)).to_string()
}

pub(super) async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

pub(super) const CALLS: &str =
    "select string_agg(distinct who || ' ' || what, ', ') from mallory.calls";

pub(super) async fn owners_rights(server: &Server) -> (Severity, String, String) {
    finding(server, "owner's rights").await
}

pub(super) async fn finding(server: &Server, subject: &str) -> (Severity, String, String) {
    let findings = examine(server).await;
    let finding = findings.into_iter().find(|finding| finding.subject == subject).unwrap();
    (finding.severity, finding.found, finding.mend)
}

/// The operations on the log that call these functions, one transaction each.
pub(super) const WORK: [&str; 5] = [
    "insert into public.events (type, subscriber, payload, uid, stream, version)
     values ('a', 'toto', '{}', gen_random_uuid(), 's' || random(), 1)",
    "insert into public.events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1)",
    "set event_piper.prune = 'on'; update public.events set payload = '1' where id = 2",
    "set event_piper.prune = 'on'; delete from public.events where id = 2",
    "set event_piper.prune = 'on'; truncate public.events",
];

/// A partitioned log with two events, migrated by the superuser.
pub(super) async fn partitioned_log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    for sql in [
        PARTITION,
        EVIL,
        "call event_piper_prepare_partitions(100)",
        "call event_piper_partition()",
        "insert into events (type, subscriber, payload) values ('a', 'toto', '{}'), ('a', 'toto', '{}')",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
    }
    (database, client)
}
