//! Migrations: from an empty database, from the predecessor's, by hand, and several at once.

use event_piper::store::{
    doctor::{Severity, examine},
    error::ErrorChain,
    migrate::{MigrateError, Status, check, migrate},
    restored::Restored,
    server::Server,
};
use tokio_postgres::Client;

use crate::support::{postgres::Database, program::run};

/// The predecessor's schema, as its own migration creates it.
const PREDECESSOR: &str = r#"
create table events (id bigserial primary key, type varchar(255) not null,
    "timestamp" timestamp(0) without time zone not null, subscriber varchar(255) not null,
    payload jsonb not null);
create index events_subscriber_index on events (subscriber);
create function notify_new_events() returns trigger language plpgsql as
    $$ begin perform pg_notify('new_events', row_to_json(new)::text); return new; end $$;
create trigger new_events after insert on events for each row execute function notify_new_events();
insert into events (type, "timestamp", subscriber, payload) values
    ('plain', '2020-02-29 12:00:00', 'toto', '{"a": 1}'),
    (E'two\nlines', '2020-03-01 00:00:00', 'toto', '2'),
    ('$closing', '2020-03-02 00:00:00', '', 'null'),
    ('deleted', '2020-03-02 00:00:00', 'toto', 'null');
delete from events where id = 4;
"#;

/// Everything that defines the schema, one line each.
const FINGERPRINT: &str = r"
select string_agg(line, e'\n' order by line) from (
    select format('column %s.%s %s %s %s', c.relname, a.attname,
                  format_type(a.atttypid, a.atttypmod), a.attnotnull,
                  concat(a.attidentity, pg_get_expr(d.adbin, d.adrelid),
                         col_description(c.oid, a.attnum))) as line
      from pg_attribute a join pg_class c on c.oid = a.attrelid
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
       and a.attnum > 0 and not a.attisdropped
    union all
    select pg_get_indexdef(indexrelid) from pg_index where indrelid in ('events'::regclass,
           'events_pruned'::regclass, 'events_keep'::regclass, 'events_erased'::regclass,
           'event_piper_migrations'::regclass)
    union all
    select format('%s %s %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
      from pg_constraint where connamespace = 'public'::regnamespace and contype <> 'n'
    union all
    select format('%s %s', pg_get_triggerdef(oid), tgenabled) from pg_trigger where not tgisinternal
    union all
    select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace
    union all
    select format('sequence %s %s %s', seqrelid::regclass, seqcache, seqincrement) from pg_sequence
    union all
    select format('migration %s %s %s', number, name, checksum) from event_piper_migrations
) as lines";

async fn fingerprint(client: &Client) -> String {
    client.query_one(FINGERPRINT, &[]).await.unwrap().get(0)
}

async fn predecessor() -> (Database, Client, Server) {
    let database = Database::create_empty().await;
    let client = database.connect().await;
    client.batch_execute(PREDECESSOR).await.unwrap();
    let server = Server::parse(&database.url()).unwrap();
    (database, client, server)
}

/// The number of migrations. Each is a file, and they are numbered from 1.
fn there_are() -> usize {
    std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count()
}

#[tokio::test]
async fn migrates_an_empty_database_once() {
    let database = Database::create_empty().await;
    let server = Server::parse(&database.url()).unwrap();
    let client = database.connect().await;
    let before = check(&client).await.unwrap();
    assert!(matches!(before, Status::Behind { missing } if missing.len() == there_are()));
    assert_eq!(migrate(&server).await.unwrap().applied.len(), there_are());
    assert_eq!(check(&client).await.unwrap(), Status::Current);
    assert_eq!(migrate(&server).await.unwrap().applied.len(), 0);
}

#[tokio::test]
async fn eight_concurrent_migrations_apply_each_file_once() {
    let database = Database::create_empty().await;
    let server = Server::parse(&database.url()).unwrap();
    let starters = (0..8).map(|_| migrate(&server));
    let outcomes = futures::future::try_join_all(starters).await.unwrap();
    let mut applied: Vec<_> = outcomes.into_iter().flat_map(|outcome| outcome.applied).collect();
    applied.sort_unstable();
    assert_eq!(applied.len(), there_are());
    applied.dedup();
    assert_eq!(applied.len(), there_are());
}

#[tokio::test]
async fn schema_sql_equals_the_migrations() {
    let (migrated, by_hand) = (Database::create().await, Database::create_empty().await);
    let client = by_hand.connect().await;
    client.batch_execute(include_str!("../../postgresql/schema.sql")).await.unwrap();
    pretty_eq(&fingerprint(&client).await, &fingerprint(&migrated.connect().await).await);
    assert_eq!(check(&client).await.unwrap(), Status::Current);
}

#[tokio::test]
async fn a_migrated_predecessor_has_the_same_schema() {
    let (_database, client, server) = predecessor().await;
    migrate(&server).await.unwrap();
    let fresh = Database::create().await;
    pretty_eq(&fingerprint(&client).await, &fingerprint(&fresh.connect().await).await);
}

/// Panics with the lines that differ.
fn pretty_eq(left: &str, right: &str) {
    let only = |here: &str, there: &str| {
        let lines = here.lines().filter(|line| !there.lines().any(|other| other == *line));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(only(left, right), only(right, left));
}

#[tokio::test]
async fn rows_of_the_predecessor_keep_ids_and_contents() {
    let (_database, client, server) = predecessor().await;
    let file = "select pg_relation_filenode('events')";
    let before: u32 = client.query_one(file, &[]).await.unwrap().get(0);
    migrate(&server).await.unwrap();
    let after: u32 = client.query_one(file, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "the rows were rewritten");
    let rows = "select string_agg(format('%s|%s|%s|%s|%s|%s', id, type, subscriber, payload,
        timestamp at time zone 'UTC', pg_xact_status(xid)), ';' order by id) from events";
    let rows: String = client.query_one(rows, &[]).await.unwrap().get(0);
    assert_eq!(
        rows,
        "1|plain|toto|{\"a\": 1}|2020-02-29 12:00:00|committed;\
         2|two\nlines|toto|2|2020-03-01 00:00:00|committed;\
         3|$closing||null|2020-03-02 00:00:00|committed"
    );
}

#[tokio::test]
async fn ids_continue_and_new_rows_are_checked() {
    let (_database, client, server) = predecessor().await;
    migrate(&server).await.unwrap();
    let insert = "insert into events (type, timestamp, subscriber, payload)
        values ($1, now(), 'toto', '1') returning id";
    let id: i64 = client.query_one(insert, &[&"new"]).await.unwrap().get(0);
    assert_eq!(id, 5, "4 was given out, and may have been seen");
    let refused = client.query_one(insert, &[&"$new"]).await.unwrap_err();
    assert!(
        ErrorChain(&refused).to_string().contains("type begins with $"),
        "{}",
        ErrorChain(&refused)
    );
}

#[tokio::test]
async fn drops_the_predecessors_trigger_function_and_index() {
    let (_database, client, server) = predecessor().await;
    migrate(&server).await.unwrap();
    let left = "select (select count(*) from pg_proc where proname = 'notify_new_events')
        + (select count(*) from pg_trigger where tgname = 'new_events')
        + (select count(*) from pg_class where relname = 'events_subscriber_index')";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn rejects_a_foreign_table_and_leaves_it_alone() {
    for foreign in [
        "create table events (id bigint primary key, name text)",
        "create table events (what text)",
        "create view events as select 1 as id",
    ] {
        let database = Database::create_empty().await;
        let client = database.connect().await;
        client.batch_execute(foreign).await.unwrap();
        let error = migrate(&Server::parse(&database.url()).unwrap()).await.unwrap_err();
        let MigrateError::ForeignTable { found, mend } = &error else { panic!("{error:?}") };
        assert!(found.contains("it is not EventPiper's: "), "{found}");
        assert!(mend.contains("search_path"), "{mend}");
        let record = "select to_regclass('event_piper_migrations') is null";
        assert!(client.query_one(record, &[]).await.unwrap().get::<_, bool>(0));
    }
}

#[tokio::test]
async fn rejects_a_database_newer_than_the_program() {
    let database = Database::create().await;
    let client = database.connect().await;
    let newer = "insert into event_piper_migrations values (999, '0999_wings', 'x')";
    client.batch_execute(newer).await.unwrap();
    let error = migrate(&Server::parse(&database.url()).unwrap()).await.unwrap_err();
    let last = i32::try_from(there_are()).unwrap();
    assert!(
        matches!(error, MigrateError::Newer { found: 999, known } if known == last),
        "{error:?}"
    );
}

#[tokio::test]
async fn rejects_a_migration_with_another_text() {
    let database = Database::create().await;
    let client = database.connect().await;
    let other = "update event_piper_migrations set checksum = 'x' where number = 3";
    client.batch_execute(other).await.unwrap();
    let error = check(&client).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Changed { name } if name == "0003_doorbell"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_failed_migration_is_rolled_back_and_can_be_repeated() {
    let database = Database::create_empty().await;
    let server = Server::parse(&database.url()).unwrap();
    let client = database.connect().await;
    client.batch_execute("create table events_pruned (mine int)").await.unwrap();
    let error = migrate(&server).await.unwrap_err();
    let MigrateError::Apply { name, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*name, "0005_events_pruned");
    assert!(ErrorChain(&error).to_string().contains("already exists"), "{}", ErrorChain(&error));
    client.batch_execute("drop table events_pruned").await.unwrap();
    assert_eq!(migrate(&server).await.unwrap().applied[0], "0005_events_pruned");
}

#[tokio::test]
async fn rejects_a_database_without_unicode() {
    let database = Database::create_empty().await;
    let name = format!("{}_ascii", database.name());
    let create =
        format!("create database {name} encoding 'SQL_ASCII' locale 'C' template template0");
    database.connect().await.batch_execute(&create).await.unwrap();
    let url = database.url().replace(database.name(), &name);
    let error = migrate(&Server::parse(&url).unwrap()).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Encoding { found } if found == "SQL_ASCII"),
        "{error:?}"
    );
}

#[tokio::test]
async fn marks_rows_of_another_cluster_as_old() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = "begin; set local event_piper.prune = 'on';
        insert into events (type, timestamp, subscriber, payload, xid) values
            ('a', now() - interval '100 days', 'toto', '1', '99999999998'),
            ('a', now() - interval '100 days', 'toto', '2', '99999999999'),
            ('a', now(), 'toto', '3', '99999999999');
        commit;
        insert into events (type, subscriber, payload) values ('b', 'toto', '4')";
    client.batch_execute(fill).await.unwrap();
    let server = Server::parse(&database.url()).unwrap();
    let origin = async || {
        let findings = examine(&server).await;
        findings.into_iter().find(|it| it.subject == "origin of rows").unwrap()
    };
    let found = origin().await;
    assert_eq!(found.severity, Severity::Warning, "the newest row is of this cluster: {found:?}");
    assert!(found.mend.contains("event-piper migrate"), "{found:?}");

    let pruned = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(pruned.out, "2 events pruned, 4 examined\n", "{pruned:?}");

    let reader = format!("reader_{}", database.name());
    let role = format!(
        "create role {reader} login; grant select on all tables in schema public to {reader}"
    );
    client.batch_execute(&role).await.unwrap();
    let url = database.url().replace("user=postgres", &format!("user={reader}"));
    let not_allowed = migrate(&Server::parse(&url).unwrap()).await.unwrap();
    assert_eq!(not_allowed.restored, Restored::NotAllowed);

    assert_eq!(migrate(&server).await.unwrap().restored, Restored::Marked(1));
    let left = "select count(*) from events where xid > pg_current_xact_id()";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(origin().await.severity, Severity::Ok);
    assert_eq!(migrate(&server).await.unwrap().restored, Restored::None, "once is enough");
}

/// A restored row may have the id of a transaction in progress. A gateway that starts then would take the row
/// for one that is still to come.
#[tokio::test]
async fn marks_restored_rows_with_ids_of_open_transactions() {
    let database = Database::create().await;
    let (open, client) = (database.connect().await, database.connect().await);
    let insert = "insert into events (type, subscriber, payload) values ('new', 'toto', '2')";
    open.batch_execute(&format!("begin; {insert}")).await.unwrap();
    let number = open.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
    let restore = format!(
        "begin; set local event_piper.prune = 'on';
         insert into events (type, subscriber, payload, xid) values ('old', 'toto', '1', '{}');
         commit",
        number.get::<_, &str>(0)
    );
    client.batch_execute(&restore).await.unwrap();
    let server = Server::parse(&database.url()).unwrap();
    assert_eq!(migrate(&server).await.unwrap().restored, Restored::Marked(1));
    open.batch_execute("commit").await.unwrap();
    let own = "select type from events where xid::text = $1";
    let own = client.query_one(own, &[&number.get::<_, &str>(0)]).await.unwrap();
    assert_eq!(
        own.get::<_, &str>(0),
        "new",
        "what a transaction of this cluster wrote stays its own"
    );
}
