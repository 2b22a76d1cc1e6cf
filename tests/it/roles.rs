//! The roles of `postgresql/roles.sql`: each can do its work, and nothing else.

use std::{num::NonZeroU32, time::Duration};

use event_piper::store::{
    doctor::{Severity, examine},
    erase::{Erase, EraseTarget},
    error::ErrorChain,
    migrate::migrate,
    prune::{Prune, PrunePolicy},
    server::Server,
};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::support::{app::App, postgres::Database};

const ROLES: &str = include_str!("../../postgresql/roles.sql");

/// Roles belong to the whole server, and two sessions cannot create the same role at once.
static CREATING: Mutex<()> = Mutex::const_new(());

async fn granted() -> Database {
    let database = Database::create().await;
    create(&database).await;
    database
}

/// The roles, with their rights in this database.
pub(crate) async fn create(database: &Database) {
    let client = database.connect().await;
    let _one_at_a_time = CREATING.lock().await;
    client.batch_execute(ROLES).await.unwrap();
    client.batch_execute(ROLES).await.unwrap();
}

async fn connect_as(database: &Database, role: &str) -> Client {
    let client = database.connect().await;
    client.batch_execute(&format!("set session authorization {role}")).await.unwrap();
    client
}

async fn assert_refused(client: &Client, statements: &[&str]) {
    for sql in statements {
        let refused = client.batch_execute(sql).await.expect_err(sql);
        assert!(
            ErrorChain(&refused).to_string().contains("permission denied"),
            "{sql}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_writer_needs_only_insert() {
    let database = granted().await;
    let sleeper = database.connect().await;
    sleeper.batch_execute("select pg_advisory_lock(17744, 1)").await.unwrap();
    let writer = connect_as(&database, "event_piper_writer").await;
    for sql in [
        r#"insert into events (type, timestamp, subscriber, payload) values ('insert', now(), 'toto', '{"foo": "bar"}')"#,
        "insert into events (type, payload, stream, version, uid, metadata)
         values ('a', '1', 's', 1, 'e5a2c0de-0000-4000-8000-000000000001', '{}')",
        "insert into events (type, subscriber, payload) values ('a', 'b', '1') on conflict do nothing",
        "insert into events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1)",
    ] {
        writer.batch_execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_can_neither_read_nor_forge() {
    let database = granted().await;
    let writer = connect_as(&database, "event_piper_writer").await;
    assert_refused(
        &writer,
        &[
            "select * from events",
            "select * from events_pruned",
            "insert into events (id, type, subscriber, payload) overriding system value
             values (7, 'a', 'b', '1')",
            "copy events from stdin",
            "copy events (id, type, subscriber, payload) from stdin",
            "insert into events (type, subscriber, payload, xid) values ('a', 'b', '1', '7')",
            "begin; set local event_piper.prune = 'on'; delete from events",
            "rollback; update events set payload = '1'",
            "truncate events",
            "select nextval('events_id_seq')",
            "insert into events_pruned values ('toto', 7)",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_gateway_can_only_read_what_it_needs() {
    let database = granted().await;
    let gateway = connect_as(&database, "event_piper_gateway").await;
    for sql in [
        "select * from events",
        "select * from events_pruned",
        "select last_value from events_id_seq",
        "listen new_events",
        "notify new_events",
        "select pg_try_advisory_lock(17744, 1)",
    ] {
        gateway.batch_execute(sql).await.unwrap();
    }
    assert_refused(
        &gateway,
        &[
            "insert into events (type, subscriber, payload) values ('a', 'b', '1')",
            "delete from events",
            "truncate events",
            "select nextval('events_id_seq')",
            "update event_piper_migrations set name = ''",
            "insert into event_piper_keys values ('0123456789abcdef', 'a', sha256(''), '{}')",
            "update event_piper_keys set revoked_at = null",
            "insert into event_piper_pumps (name) values ('p')",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_pump_can_only_change_its_own_tables() {
    let database = granted().await;
    let pump = connect_as(&database, "event_piper_pump").await;
    for sql in [
        "select * from events",
        "insert into event_piper_pumps (name) values ('p')",
        "update event_piper_pumps set position = 1",
        "insert into event_piper_dead_letters values ('p', 1, 'retry', '')",
        "delete from event_piper_dead_letters",
    ] {
        pump.batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {}", ErrorChain(&error)));
    }
    assert_refused(
        &pump,
        &[
            "insert into events (type, subscriber, payload) values ('a', 'b', '1')",
            "delete from events",
            "delete from event_piper_pumps",
            "delete from event_piper_keys",
        ],
    )
    .await;
}

#[tokio::test]
async fn the_owner_owns_everything_and_no_role_can_log_in() {
    let database = granted().await;
    let client = database.connect().await;
    let others = "select coalesce(string_agg(name, ', '), '') from (
            select relname::text, relowner from pg_class where relkind in ('r', 'p')
                and relnamespace = current_schema()::regnamespace
            union all
            select proname::text, proowner from pg_proc
             where pronamespace = current_schema()::regnamespace
        ) made (name, owner) where owner <> 'event_piper_owner'::regrole";
    let others: String = client.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(others, "");
    let logins = "select count(*) from pg_roles where rolname in ('event_piper_owner',
        'event_piper_writer', 'event_piper_gateway', 'event_piper_pump', 'event_piper_pruner',
        'event_piper_eraser') and (rolcanlogin or rolsuper)";
    let logins: i64 = client.query_one(logins, &[]).await.unwrap().get(0);
    assert_eq!(logins, 0);
}

#[tokio::test]
async fn an_owner_can_prune_and_pruning_is_recorded() {
    let database = granted().await;
    let owner = connect_as(&database, "event_piper_owner").await;
    let prune = "insert into events (type, subscriber, payload) values ('a', 'b', '1');
        begin; set local event_piper.prune = 'on'; delete from events; commit";
    owner.batch_execute(prune).await.unwrap();
    let upto: i64 = owner.query_one("select upto from events_pruned", &[]).await.unwrap().get(0);
    assert_eq!(upto, 1);
}

#[tokio::test]
async fn deletes_of_a_role_with_delete_only_are_recorded() {
    let database = granted().await;
    let pruner = format!("pruner_{}", database.name());
    let client = database.connect().await;
    let create = format!(
        "create role {pruner}; grant select, delete, truncate on events to {pruner};
         insert into events (type, subscriber, payload) values ('a', 'b', '1'), ('a', 'b', '1')"
    );
    client.batch_execute(&create).await.unwrap();
    let prune = "begin; set local event_piper.prune = 'on'; delete from events where id = 1;
        truncate events; commit";
    connect_as(&database, &pruner).await.batch_execute(prune).await.unwrap();
    let known = "select string_agg(upto::text, ' ' order by upto) from events_pruned";
    let known: String = client.query_one(known, &[]).await.unwrap().get(0);
    assert_eq!(known, "1 2");
}

#[tokio::test]
async fn updates_of_a_role_with_update_only_are_recorded() {
    let database = granted().await;
    let mender = format!("mender_{}", database.name());
    let client = database.connect().await;
    let create = format!(
        "create role {mender}; grant select, update on events to {mender};
         insert into events (type, subscriber, payload) values ('a', 'b', '1')"
    );
    client.batch_execute(&create).await.unwrap();
    let mend = "begin; set local event_piper.prune = 'on'; update events set payload = '2'; commit";
    connect_as(&database, &mender).await.batch_execute(mend).await.unwrap();
    let known = "select subscriber || ' ' || upto from events_erased";
    let known: String = client.query_one(known, &[]).await.unwrap().get(0);
    assert_eq!(known, "b 1");
}

/// A login with this role, and the arguments with which the program uses it.
async fn url_of(database: &Database, role: &str) -> String {
    let login = format!("{role}_of_{}", database.name());
    let create = format!("create role {login} login; grant {role} to {login}");
    database.connect().await.batch_execute(&create).await.unwrap();
    database.url().replace("user=postgres", &format!("user={login}"))
}

const FILL: &str = "insert into events (type, timestamp, subscriber, stream, version, payload)
    select 't', now() - interval '1 year', 'toto', 's', n, '1' from generate_series(1, 9) n";

#[tokio::test]
async fn a_pruner_can_only_prune() {
    let database = granted().await;
    let client = database.connect().await;
    client.batch_execute(FILL).await.unwrap();
    let url = url_of(&database, "event_piper_pruner").await;
    let server = Server::parse(&url).unwrap();
    let older_than = Some(Duration::from_hours(24));
    let what =
        PrunePolicy { older_than, keep: NonZeroU32::MIN, except: Vec::new(), whole_log: false };
    let step = Prune::begin(&server, what, false).await.unwrap().step().await.unwrap();
    assert_eq!(step.changed, 8);
    let pruner = connect_as(&database, "event_piper_pruner").await;
    assert_refused(
        &pruner,
        &[
            "insert into events (type, subscriber, payload) values ('a', 'b', '1')",
            "update events set payload = '1'",
            "truncate events",
            "delete from events_pruned",
            "delete from events_keep",
        ],
    )
    .await;
}

#[tokio::test]
async fn an_eraser_can_only_erase() {
    let database = granted().await;
    let client = database.connect().await;
    client.batch_execute(FILL).await.unwrap();
    let url = url_of(&database, "event_piper_eraser").await;
    let server = Server::parse(&url).unwrap();
    let whose = EraseTarget::Stream("s".into());
    let step = Erase::begin(&server, whose).await.unwrap().step().await.unwrap();
    assert_eq!(step.changed, 9);
    let eraser = connect_as(&database, "event_piper_eraser").await;
    assert_refused(
        &eraser,
        &[
            "insert into events (type, subscriber, payload) values ('a', 'b', '1')",
            "update events set type = 'b'",
            "delete from events",
            "delete from events_erased",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_gateway_delivers_without_select_on_events_erased() {
    let database = granted().await;
    let revoke = "revoke select on events_erased from event_piper_gateway";
    let client = database.connect().await;
    client.batch_execute(revoke).await.unwrap();
    let app = App::start(&url_of(&database, "event_piper_gateway").await).await;
    let mut toto = app.follow("toto").await.joined().await;
    client.batch_execute(FILL).await.unwrap();
    assert_eq!(toto.rows(9).await, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn migrate_and_doctor_succeed_with_the_gateways_role() {
    let database = granted().await;
    let login = format!("gateway_{}", database.name());
    // Up to PostgreSQL 14, everybody may create objects in `public` by default.
    let create = format!(
        "create role {login} login; grant event_piper_gateway to {login};
         revoke create on schema public from public"
    );
    database.connect().await.batch_execute(&create).await.unwrap();
    let url = database.url().replace("user=postgres", &format!("user={login}"));
    let server = Server::parse(&url).unwrap();
    assert_eq!(migrate(&server).await.unwrap().applied.len(), 0);
    let findings = examine(&server).await;
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
}

#[tokio::test]
async fn these_rights_suffice_for_streams_keys_and_writes() {
    use event_piper::access::{Modes, keys::NewKey};

    use crate::support::{
        app::{App, Settings},
        sse_client::{Stream, post},
    };

    let database = granted().await;
    let login = format!("gateway_{}", database.name());
    let owner = database.connect().await;
    let create = format!(
        "create role {login} login; grant event_piper_gateway, event_piper_writer to {login}"
    );
    owner.batch_execute(&create).await.unwrap();
    let key = NewKey::generate();
    let rights =
        r#"{"read": ["toto"], "write": ["toto"], "write_streams": ["s"], "read_streams": ["s"]}"#;
    let stored = (&*key.id.to_string(), &key.hash[..]);
    event_piper::store::keys::create(&owner, stored, "toto", rights, None).await.unwrap();

    let url = database.url().replace("user=postgres", &format!("user={login}"));
    let mut settings = Settings::default();
    settings.access.modes = Modes { keys: true, ..Modes::OPEN };
    let app = App::start_with(&url, settings).await;
    let bearer = format!("Bearer {}", key.text);
    let headers = [("Authorization", &*bearer)];
    let mut stream = Stream::open(app.address, "/events", &headers).await.joined().await;
    let event = r#"{"type": "t", "subscriber": "toto", "payload": 1}"#;
    assert_eq!(post(app.address, "/events", &headers, event).await.status, 201);
    assert_eq!(stream.event().await.row(), 1);
    let data = r#"{"type": "t", "data": {}}"#;
    assert_eq!(post(app.address, "/streams/s", &headers, data).await.status, 200);
    assert_eq!(app.get("/streams/s", &headers).await.json()["version"], 1);
    let mut replay = Stream::open(app.address, "/events?lastEventId=0", &headers).await;
    assert_eq!(replay.event().await.row(), 1);
}

/// An erased event was valid when it was written, so erasing needs no right to write.
#[tokio::test]
async fn an_eraser_can_erase_amendments() {
    let database = granted().await;
    let client = database.connect().await;
    let amended = "insert into events (type, subscriber, payload) values ('a', 'toto', '{}');
        insert into events (type, subscriber, payload, amends)
        select 'a', 'toto', '{\"secret\": 1}', max(id) from events";
    client.batch_execute(amended).await.unwrap();
    let eraser = connect_as(&database, "event_piper_eraser").await;
    let erase = "begin; set local event_piper.prune = 'on';
        update events set payload = '{\"erased\": true}' where subscriber = 'toto'; commit";
    eraser.batch_execute(erase).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
}

/// Everybody can set `event_piper.prune`.
#[tokio::test]
async fn a_writer_cannot_avoid_the_check_of_amendments() {
    let database = granted().await;
    let client = database.connect().await;
    let event = "insert into events (type, subscriber, payload) values ('a', 'toto', '{}')";
    client.batch_execute(event).await.unwrap();
    let amend =
        "insert into events (type, subscriber, payload, amends) values ('a', 'titi', '{}', 1)";
    let writer = connect_as(&database, "event_piper_writer").await;
    writer.batch_execute("set event_piper.prune = 'on'").await.unwrap();
    let refused = writer.batch_execute(amend).await.unwrap_err();
    assert!(ErrorChain(&refused).to_string().contains("another subscriber"), "{refused:?}");
    // A restore of a backup, in any order, sets it.
    client.batch_execute("set event_piper.prune = 'on'").await.unwrap();
    client.batch_execute(amend).await.unwrap();
}

/// A login whose roles are not inherited restores a backup after SET ROLE.
#[tokio::test]
async fn a_backup_with_amendments_is_restored_by_set_role() {
    let database = granted().await;
    let client = database.connect().await;
    let name = format!("restorer_{}", database.name());
    let create = format!(
        "create role {name} login noinherit; grant event_piper_owner to {name};
         insert into events (type, subscriber, payload) values ('a', 'toto', '{{}}')"
    );
    client.batch_execute(&create).await.unwrap();
    let restorer = connect_as(&database, &name).await;
    let restore = "set role event_piper_owner;
        insert into events (id, type, subscriber, payload, amends) overriding system value
        values (2, 'a', 'toto', '{}', 1)";
    restorer.batch_execute(restore).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
}
