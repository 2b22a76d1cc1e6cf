//! A short test of all features of a log: written by SQL and over HTTP, delivered, replayed, read as a
//! stream and through `/all`, amended, delivered to an aggregator, erased and pruned.

use std::{num::NonZeroU32, time::Duration};

use event_piper::store::{
    erase::{Erase, EraseTarget},
    prune::{Prune, PrunePolicy},
    server::Server,
};
use tokio_postgres::Client;

use super::{app::App, eventually, sse_client::Stream};
use crate::pump::{aggregator::Aggregator, process::PumpProcess};

/// The log under test.
pub(crate) struct Life {
    /// The database URL for the gateway, the pump and the commands.
    pub(crate) url: String,
    /// A connection that writes in SQL, and queries the log.
    pub(crate) client: Client,
}

impl Life {
    /// Runs all steps. Panics at the first that fails.
    pub(crate) async fn lives(&self) {
        let app = App::start(&self.url).await;
        let live = self.is_delivered(&app).await;
        self.is_read(&app).await;
        self.feeds_a_pump().await;
        self.is_erased(&app).await;
        self.is_pruned().await;
        drop(live);
        app.stop().await;
    }

    /// Writes events in each way, and checks that they arrive live, in order, once each.
    async fn is_delivered(&self, app: &App) -> Stream {
        let mut live = app.follow("toto").await.joined().await;
        let old = "insert into events (type, timestamp, subscriber, payload)
            values ('old', now() - interval '100 days', 'toto', '1')";
        self.client.batch_execute(old).await.unwrap();
        let one = r#"{"type": "http", "subscriber": "toto", "payload": {"n": 1}}"#;
        created(&app.post("/events", one).await);
        let two = r#"[{"type": "http", "subscriber": "toto", "payload": {"n": 2}},
                      {"type": "http", "subscriber": "toto", "payload": {"n": 3}}]"#;
        created(&app.post("/events", two).await);
        let stream = r#"{"type": "http", "subscriber": "toto", "data": {"n": 4}}"#;
        created(&app.post("/streams/s", stream).await);
        let sql = "insert into events (type, subscriber, payload, stream, version)
            values ('sql', 'toto', '5', 's', 2), ('sql', 'titi', '6', null, null)";
        self.client.batch_execute(sql).await.unwrap();
        assert_eq!(live.rows(6).await, self.ids("subscriber = 'toto'").await, "live");
        live
    }

    /// Reads all events again, in each way.
    async fn is_read(&self, app: &App) {
        let toto = self.ids("subscriber = 'toto'").await;
        let mut replay = app.resume("toto", "0").await;
        assert_eq!(replay.rows(toto.len()).await, toto, "replay");
        let (first, rest) = (toto[0].to_string(), &toto[1..]);
        assert_eq!(app.resume("toto", &first).await.rows(rest.len()).await, rest, "resume");
        let all = self.ids("true").await;
        let mut everything = Stream::open(app.address, "/all", &[("Last-Event-ID", "0")]).await;
        assert_eq!(everything.rows(all.len()).await, all, "/all");
        let page = app.get("/streams/s", &[]).await;
        assert_eq!(page.json()["events"].as_array().map(Vec::len), Some(2), "{page:?}");
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", "0")];
        let mut followed = Stream::open(app.address, "/streams/s", &headers).await;
        assert_eq!(followed.rows(2).await, [1, 2], "a stream is followed");
        let event = app.get(&format!("/events/{first}"), &[("X-Consumer-Id", "toto")]).await;
        assert_eq!(event.status, 200, "{event:?}");
        assert!(event.body.contains("\"old\""), "{event:?}");

        let amend = format!(
            r#"{{"type": "fix", "subscriber": "toto", "amends": {first}, "payload": {{"n": 9}}}}"#
        );
        created(&app.post("/events", &amend).await);
        let headers = [("X-Consumer-Id", "toto"), ("Last-Event-ID", "0")];
        let mut amended = Stream::open(app.address, "/events?amended=true", &headers).await;
        assert_eq!(amended.event().await.data, r#"{"n":9}"#, "amended");
    }

    /// Delivers all events to an aggregator.
    async fn feeds_a_pump(&self) {
        let aggregator = Aggregator::start().await;
        let pump = PumpProcess::start(&self.url, &aggregator, &[]);
        pump.until("live").await;
        assert_eq!(aggregator.ids(), self.ids("true").await, "{}", pump.log());
    }

    async fn is_erased(&self, app: &App) {
        let server = Server::parse(&self.url).unwrap();
        let mut erase =
            Erase::begin(&server, EraseTarget::Subscriber("titi".into())).await.unwrap();
        while !erase.step().await.unwrap().last {}
        let said = "select count(*) from events where subscriber = 'titi' and payload = '6'";
        assert_eq!(self.number(said).await, 0, "erased");
        eventually("erased events are evicted from memory", async || {
            let said = app.resume("titi", "0").await.event().await.data;
            (said == r#"{"erased":true}"#).then_some(())
        })
        .await;
    }

    async fn is_pruned(&self) {
        let server = Server::parse(&self.url).unwrap();
        let what = PrunePolicy {
            older_than: Some(Duration::from_hours(24)),
            keep: NonZeroU32::MIN,
            except: vec!["kept_%\\*".into()],
            whole_log: false,
        };
        let before = self.ids("true").await;
        let mut prune = Prune::begin(&server, what, false).await.unwrap();
        while !prune.step().await.unwrap().last {}
        let old = before[..1].to_vec();
        let left = self.ids("true").await;
        assert_eq!([old, left].concat(), before, "pruned");
    }

    /// Returns the ids of the events that match an SQL condition.
    pub(crate) async fn ids(&self, condition: &str) -> Vec<i64> {
        let query = format!("select id from events where {condition} order by id");
        let rows = self.client.query(&query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn number(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }
}

fn created(answer: &super::sse_client::Answer) {
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
}
