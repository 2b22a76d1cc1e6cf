//! The connection to PostgreSQL is lost between COMMIT and its answer. The outcome is unknown, and the
//! gateway reports it as unknown.

use std::net::SocketAddr;

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{
    app::App,
    chaos_proxy::{ChaosProxy, Strike, Weather},
    eventually,
    postgres::Database,
    sse_client::{Answer, post},
};

const UID: &str = "e5a2c0de-0000-4000-8000-000000000001";

/// Makes each transaction that writes events wait in its COMMIT until a lock is free.
const STALL: &str = "
create function stall() returns trigger language plpgsql set lock_timeout = 0 as
$$ begin perform pg_advisory_xact_lock(4711); return null; end $$;
create constraint trigger stall after insert on events deferrable initially deferred
    for each row execute function stall()";

const STALLED: &str = "select from pg_locks where locktype = 'advisory' and not granted
    and objid = 4711 and database = (
        select oid from pg_database where datname = current_database())";

struct World {
    app: App,
    client: Client,
    proxy: ChaosProxy,
    _database: Database,
}

impl World {
    /// A gateway that connects to PostgreSQL through a proxy, and a database where commits can be stalled.
    async fn create() -> Self {
        let database = Database::create().await;
        let client = database.connect().await;
        client.batch_execute(STALL).await.unwrap();
        let direct = database.tcp_url();
        let place = direct.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap();
        let proxy = ChaosProxy::start(place.parse().unwrap()).await;
        let app = App::start(&direct.replace(place, &proxy.address().to_string())).await;
        Self { app, client, proxy, _database: database }
    }

    /// Cuts the connection while PostgreSQL commits. The transaction commits nevertheless.
    async fn lost_during_commit(&self, path: &str, body: &str) -> Answer {
        let before = self.count().await;
        self.client.batch_execute("select pg_advisory_lock(4711)").await.unwrap();
        let asked = tokio::spawn(sent(self.app.address, path.to_owned(), body.to_owned()));
        eventually("the COMMIT is under way", async || {
            (!self.client.query(STALLED, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        self.proxy.set(Weather { refuse: true, ..Weather::default() });
        self.proxy.strike(Strike::Cut);
        let answer = asked.await.unwrap();
        self.client.batch_execute("select pg_advisory_unlock(4711)").await.unwrap();
        eventually("the transaction is committed", async || {
            (self.count().await > before).then_some(())
        })
        .await;
        self.proxy.clear();
        answer
    }

    async fn count(&self) -> i64 {
        self.client.query_one("select count(*) from events", &[]).await.unwrap().get(0)
    }

    /// The ids of all events, in ascending order.
    async fn ids(&self) -> Vec<i64> {
        let rows = self.client.query("select id from events order by id", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn sent(address: SocketAddr, path: String, body: String) -> Answer {
    post(address, &path, &[], &body).await
}

fn assert_unknown(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.headers["retry-after"], "1");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("it is not known what was written"), "{detail}");
    assert!(detail.contains("again with the same uid"), "{detail}");
    assert!(!detail.contains("nothing was written"), "{detail}");
}

#[tokio::test]
async fn a_retry_with_the_same_uid_returns_the_first_result() {
    let world = World::create().await;
    let event = json!({ "type": "t", "subscriber": "toto", "payload": 1, "uid": UID }).to_string();
    assert_unknown(&world.lost_during_commit("/events", &event).await);
    let ids = world.ids().await;
    assert_eq!(ids.len(), 1);
    let again = world.app.post("/events", &event).await;
    assert_eq!((again.status, again.json()), (201, json!({ "id": ids[0] })));
    assert_eq!(world.ids().await, ids);
    assert_eq!(world.app.metric("writes_total{outcome=\"unknown\"}").await, 1);
}

#[tokio::test]
async fn a_retried_batch_of_a_stream_returns_its_ids() {
    let world = World::create().await;
    let event =
        |n: u8| json!({ "type": "t", "data": { "n": n }, "uid": UID.replace('1', &n.to_string()) });
    let three = json!([event(1), event(2), event(3)]).to_string();
    assert_unknown(&world.lost_during_commit("/streams/s/1", &three).await);
    let ids = world.ids().await;
    assert_eq!(ids.len(), 3);
    let again = world.app.post("/streams/s/1", &three).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(again.json(), json!({ "stream": "s", "version": 3, "ids": ids }));
    assert_eq!(world.ids().await, ids);
}

#[tokio::test]
async fn the_gateway_does_not_retry_an_event_without_uid() {
    let world = World::create().await;
    let event = json!({ "type": "t", "subscriber": "toto", "payload": 1 }).to_string();
    assert_unknown(&world.lost_during_commit("/events", &event).await);
    assert_eq!(world.ids().await.len(), 1);
    let other = json!({ "type": "t", "subscriber": "toto", "payload": 2 }).to_string();
    assert_eq!(world.app.post("/events", &other).await.status, 201);
    assert_eq!(world.ids().await.len(), 2, "the first event was not written again");
}
