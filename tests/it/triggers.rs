//! Foreign triggers, rules and indexes on the table: each request succeeds or fails alone, is written at most
//! once, and its answer says what happened.

use event_piper::write;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    sse_client::{Answer, post},
};

const UID: &str = "e5a2c0de-0000-4000-8000-000000000001";

/// An event of the type `stall` keeps its transaction open until a lock is free. The trigger fires after the
/// insert, so it changes no row.
const STALL: &str = "
create function stall() returns trigger language plpgsql set lock_timeout = 0 as
$$ begin perform pg_advisory_xact_lock(4711); return null; end $$;
create trigger stall after insert on events for each row when (new.type = 'stall')
    execute function stall()";

struct World {
    app: App,
    client: Client,
    _database: Database,
}

impl World {
    /// A gateway with one connection that writes, and a table with these objects added.
    async fn with(sql: &str) -> Self {
        let database = Database::create().await;
        let client = database.connect().await;
        client.batch_execute(STALL).await.unwrap();
        client.batch_execute(sql).await.unwrap();
        let mut settings = Settings::default();
        let writer = write::Settings { connections: 1, ..write::Settings::default() };
        settings.gateway.writer = Some(writer);
        let app = App::start_with(&database.url(), settings).await;
        Self { app, client, _database: database }
    }

    /// Sends requests that share a transaction. Returns their answers in order.
    async fn together(&self, bodies: &[Value]) -> Vec<Answer> {
        self.client.batch_execute("select pg_advisory_lock(4711)").await.unwrap();
        let ask = |body: &Value| {
            let (address, body) = (self.app.address, body.to_string());
            tokio::spawn(async move { post(address, "/events", &[], &body).await })
        };
        let stalled = ask(&json!({ "type": "stall", "subscriber": "toto", "payload": 0 }));
        let stalls = "select from pg_locks where locktype = 'advisory' and not granted
            and objid = 4711 and database = (
                select oid from pg_database where datname = current_database())";
        eventually("a transaction is under way", async || {
            self.client.query_opt(stalls, &[]).await.unwrap()
        })
        .await;
        let mut asked = Vec::new();
        for (count, body) in (1..).zip(bodies) {
            asked.push(ask(body));
            eventually("it waits", async || {
                (self.app.metric("write_queue").await == count).then_some(())
            })
            .await;
        }
        self.client.batch_execute("select pg_advisory_unlock(4711)").await.unwrap();
        assert_eq!(stalled.await.unwrap().status, 201);
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.unwrap());
        }
        answers
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The number of events, without those that stalled.
    async fn count(&self) -> i64 {
        self.number("select count(*) from events where type <> 'stall'").await
    }
}

fn event(kind: &str, payload: usize) -> Value {
    json!({ "type": kind, "subscriber": "toto", "payload": payload })
}

fn refused(answer: &Answer, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(says), "{says} in {detail}");
    if status != 503 {
        assert!(!answer.headers.contains_key("retry-after"), "time does not mend it");
    }
}

/// A trigger before each row with this body, in which `new` is the row.
fn before(body: &str) -> String {
    format!(
        "create table elsewhere (type text);
         create function theirs() returns trigger language plpgsql as
         $theirs$ begin {body} return new; end $theirs$;
         create trigger theirs before insert on events for each row when (new.type <> 'stall')
             execute function theirs()"
    )
}

#[tokio::test]
async fn a_trigger_that_fills_a_column_causes_no_duplicates() {
    for body in [
        "new.uid := coalesce(new.uid, gen_random_uuid());",
        "if new.stream is null then new.stream := 'all'; new.version := new.id; end if;",
        "new.subscriber := coalesce(new.subscriber, 'somebody');",
        "new.payload := jsonb_build_object('was', new.payload);",
        "new.type := 'x' || new.type; new.timestamp := '2001-01-01';",
        "new.metadata := jsonb_build_object('by', current_user);",
    ] {
        let world = World::with(&before(body)).await;
        let known = json!({ "type": "t", "subscriber": "toto", "payload": 0, "uid": UID });
        let first = world.app.post("/events", &known.to_string()).await;
        assert_eq!(first.status, 201, "{body}: {}", first.body);
        let bodies = [event("t", 1), known.clone(), event("t", 2), event("t", 3)];
        let answers = world.together(&bodies).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [201; 4], "{body}: {}", answers[1].body);
        assert_eq!(answers[1].json(), first.json(), "{body}");
        assert_eq!(world.count().await, 4, "{body}");
        let ids: Vec<i64> =
            answers.iter().map(|answer| answer.json()["id"].as_i64().unwrap()).collect();
        for (at, id) in [(0, 1), (2, 2), (3, 3)] {
            let payload = format!(
                "select payload = '{id}' or payload = '{{\"was\": {id}}}' from events where id = {}",
                ids[at]
            );
            let right: bool = world.client.query_one(&payload, &[]).await.unwrap().get(0);
            assert!(right, "{body}: event {at} was answered with the id of another");
        }
    }
}

#[tokio::test]
async fn a_row_that_a_trigger_drops_is_refused_alone() {
    let swallow = "if new.type = 'gone' then
        insert into elsewhere values (new.type); perform nextval('tries'); return null; end if;";
    let world = World::with(&format!("create sequence tries; {}", before(swallow))).await;
    let gone = event("gone", 1);
    let uid = json!({ "type": "gone", "subscriber": "toto", "payload": 1, "uid": UID });
    let stream = json!({ "type": "gone", "stream": "s", "payload": 1 });
    for body in [&gone, &uid, &stream, &json!([event("t", 1), gone])] {
        let before = world.number("select nextval('tries')").await;
        let answer = world.app.post("/events", &body.to_string()).await;
        refused(&answer, 422, "a trigger of the table");
        let tries = world.number("select nextval('tries')").await - before - 1;
        assert!(tries <= 2, "{body}: {tries}");
    }
    for path in ["/streams/s", "/streams/s/1"] {
        let answer = world.app.post(path, r#"{"type":"gone","data":{}}"#).await;
        refused(&answer, 422, "a trigger of the table");
    }
    assert_eq!(world.count().await, 0);
    assert_eq!(world.number("select count(*) from elsewhere").await, 0, "all of it or nothing");

    let answers = world.together(&[event("t", 1), uid, gone, stream, event("t", 2)]).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [201, 422, 422, 422, 201]);
    assert_eq!(world.count().await, 2);
    assert_eq!(world.number("select count(*) from elsewhere").await, 0);
    assert_eq!(world.app.metric("writes_total{outcome=\"refused\"}").await, 9);
}

/// If the row were written, the answer would not be true.
#[tokio::test]
async fn a_row_that_a_trigger_moves_is_refused() {
    for (body, what) in [
        ("if new.stream = 's' then new.stream := 'other'; end if;", "stream"),
        ("new.version := new.version + 7;", "version"),
        ("new.stream := null; new.version := null; new.subscriber := 'toto';", "stream"),
        ("if new.uid is not null then new.uid := gen_random_uuid(); end if;", "uid"),
        ("new.uid := null;", "uid"),
    ] {
        let world = World::with(&before(body)).await;
        let sent = json!({ "type": "t", "stream": "s", "payload": 1, "uid": UID,
            "expected": "no-stream" });
        refused(&world.app.post("/events", &sent.to_string()).await, 422, what);
        let answers = world.together(&[event("t", 1), sent, event("t", 2)]).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [201, 422, 201], "{body}");
        assert_eq!(world.count().await, 2, "{body}");
    }
}

#[tokio::test]
async fn a_foreign_index_refuses_a_row_at_once() {
    for index in [
        "create unique index theirs on events ((payload ->> 'order')) where type = 'order'",
        "create extension btree_gist;
         alter table events add constraint theirs exclude using gist (type with =)
         where (type = 'order')",
        "alter table events add column order_number bigint
             generated always as ((payload ->> 'order')::bigint) stored;
         alter table events add constraint theirs unique (order_number)
             deferrable initially deferred",
    ] {
        let world = World::with("").await;
        if world.client.batch_execute(index).await.is_err() {
            // Extensions may be missing if only the server was installed.
            assert!(index.contains("extension"), "{index}");
            continue;
        }
        let order = |stream: Option<&str>, uid: Option<&str>| {
            let mut order =
                json!({ "type": "order", "subscriber": "toto", "payload": { "order": 7 } });
            stream.inspect(|stream| order["stream"] = (*stream).into());
            uid.inspect(|uid| order["uid"] = (*uid).into());
            order
        };
        assert_eq!(world.app.post("/events", &order(None, None).to_string()).await.status, 201);
        for again in [order(None, None), order(Some("s"), None), order(None, Some(UID))] {
            refused(&world.app.post("/events", &again.to_string()).await, 409, "theirs");
        }
        let bodies = [event("t", 1), order(None, None), order(Some("s"), Some(UID)), event("t", 2)];
        let answers = world.together(&bodies).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [201, 409, 409, 201], "{index}");
        assert_eq!(world.count().await, 3, "{index}");
    }
}

/// Whatever SQLSTATE a trigger raises, the other events are written, and the answer says that PostgreSQL is
/// away only if it is.
#[tokio::test]
async fn any_sqlstate_fails_one_request_only() {
    let raise = "if new.type = 'bad' then
        raise exception 'theirs says no' using errcode = new.payload ->> 'state'; end if;";
    let world = World::with(&before(raise)).await;
    for (state, status, says) in [
        ("45000", 422, "theirs says no"),
        ("P0001", 422, "theirs says no"),
        ("P0004", 422, "theirs says no"),
        ("ABCDE", 422, "theirs says no"),
        ("00001", 422, "theirs says no"),
        ("22023", 422, "theirs says no"),
        ("22012", 422, "theirs says no"),
        ("23514", 422, "theirs says no"),
        ("23503", 422, "theirs says no"),
        ("23505", 409, "theirs says no"),
        ("23P01", 409, "theirs says no"),
        ("2F005", 422, "theirs says no"),
        ("38000", 422, "theirs says no"),
        ("0A000", 422, "theirs says no"),
        ("25006", 503, "SQLSTATE 25006"),
        ("26000", 422, "theirs says no"),
        ("40002", 422, "theirs says no"),
        ("42P01", 422, "theirs says no"),
        ("42501", 403, "theirs says no"),
        ("54000", 422, "theirs says no"),
        ("55000", 422, "theirs says no"),
        ("08001", 503, "SQLSTATE 08001"),
        ("53100", 503, "SQLSTATE 53100"),
        ("53200", 503, "SQLSTATE 53200"),
        ("57014", 503, "SQLSTATE 57014"),
        ("57P01", 503, "SQLSTATE 57P01"),
        ("58030", 503, "SQLSTATE 58030"),
        ("HV000", 503, "SQLSTATE HV000"),
        ("XX000", 503, "SQLSTATE XX000"),
    ] {
        let before = world.count().await;
        let bad = json!({ "type": "bad", "subscriber": "toto", "payload": { "state": state } });
        let answers = world.together(&[event("t", 1), bad, event("t", 2), event("t", 3)]).await;
        for good in [0, 2, 3] {
            assert_eq!(answers[good].status, 201, "{state}: {}", answers[good].body);
        }
        refused(&answers[1], status, says);
        assert!(!answers[1].body.contains("not known"), "{state}: {}", answers[1].body);
        assert!(!answers[1].body.contains("is not available"), "{state}: {}", answers[1].body);
        assert_eq!(world.count().await, before + 3, "{state}");
    }
}

/// An obstacle that may pass is waited for, with pauses, and not for ever.
#[tokio::test]
async fn transient_errors_are_retried_with_pauses() {
    let raise = "if new.type = 'bad' and nextval('tries') < 4 then
        raise exception 'not now' using errcode = new.payload #>> '{}'; end if;";
    let world = World::with(&format!("create sequence tries; {}", before(raise))).await;
    for state in ["40001", "40P01", "55P03"] {
        world.client.batch_execute("alter sequence tries restart").await.unwrap();
        let bad = json!({ "type": "bad", "subscriber": "toto", "payload": state });
        let answers = world.together(&[event("t", 1), bad, event("t", 2)]).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [201; 3], "{state}: {}", answers[1].body);
    }
    let never = "create or replace function theirs() returns trigger language plpgsql as
        $$ begin perform nextval('tries');
           raise exception 'never' using errcode = '40001'; end $$";
    world.client.batch_execute("alter sequence tries restart").await.unwrap();
    world.client.batch_execute(never).await.unwrap();
    refused(&world.app.post("/events", &event("t", 1).to_string()).await, 503, "blocked the write");
    let tries = world.number("select nextval('tries')").await;
    assert!(tries < 200, "{tries} tries: there are pauses between them");
}

#[tokio::test]
async fn statement_and_deferred_triggers_refuse_one_request() {
    let body = "begin if exists (select from {rows} where type = 'bad') then
        raise exception 'no bad ones' using errcode = '45000'; end if; return null; end";
    let of_statement = format!(
        "create function theirs() returns trigger language plpgsql as $${}$$;
         create trigger theirs after insert on events referencing new table as written
         for each statement execute function theirs()",
        body.replace("{rows}", "written")
    );
    let at_commit = format!(
        "create function theirs() returns trigger language plpgsql as $${}$$;
         create constraint trigger theirs after insert on events
         deferrable initially deferred for each row execute function theirs()",
        body.replace("{rows}", "events")
    );
    for sql in [of_statement, at_commit] {
        let world = World::with(&sql).await;
        let in_stream = json!({ "type": "bad", "stream": "s", "payload": 1, "uid": UID });
        let bodies = [event("t", 1), event("bad", 1), event("t", 2), in_stream, event("t", 3)];
        let answers = world.together(&bodies).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [201, 422, 201, 422, 201], "{sql}");
        refused(&answers[1], 422, "no bad ones");
        let array = json!([event("t", 4), event("bad", 1)]).to_string();
        refused(&world.app.post("/events", &array).await, 422, "no bad ones");
        assert_eq!(world.count().await, 3);
    }
}

/// The events are refused together, although each of them alone is valid.
#[tokio::test]
async fn events_refused_only_together_are_written_one_by_one() {
    let sql = "create function theirs() returns trigger language plpgsql as
        $$ begin if (select count(*) > 1 from written where type = 'single') then
            raise exception 'one at a time' using errcode = '45000'; end if; return null; end $$;
        create trigger theirs after insert on events referencing new table as written
        for each statement execute function theirs()";
    let world = World::with(sql).await;
    let bodies = [1, 2, 3, 4].map(|n| event("single", n));
    for answer in world.together(&bodies).await {
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    assert_eq!(world.count().await, 4);
    refused(&world.app.post("/events", &json!(bodies).to_string()).await, 422, "one at a time");
    assert_eq!(world.count().await, 4);
}

#[tokio::test]
async fn a_trigger_may_insert_rows_and_choose_the_id() {
    let more = "if new.type = 't' then
        insert into events (type, subscriber, payload) values ('audit', 'auditor', new.payload);
        new.id := new.id + 1000000; end if;";
    let world = World::with(&before(more)).await;
    let bodies = [event("t", 1), event("t", 2), event("t", 3)];
    for (at, answer) in world.together(&bodies).await.into_iter().enumerate() {
        assert_eq!(answer.status, 201, "{}", answer.body);
        let id = answer.json()["id"].as_i64().unwrap();
        let payload = format!("select payload::int8 from events where id = {id}");
        assert_eq!(world.number(&payload).await, i64::try_from(at).unwrap() + 1);
    }
    assert_eq!(world.count().await, 6);
}

/// PostgreSQL refuses `on conflict` for a table with a rule.
#[tokio::test]
async fn a_rule_on_the_table_is_named_at_once() {
    for rule in [
        "create rule theirs as on insert to events do instead nothing",
        "create rule theirs as on insert to events do also select 1",
    ] {
        let world = World::with("").await;
        world.client.batch_execute(rule).await.unwrap();
        for body in [event("t", 1), json!({ "type": "t", "stream": "s", "payload": 1 })] {
            refused(&world.app.post("/events", &body.to_string()).await, 422, "rule");
        }
    }
}
