//! Clients that read slowly, or not at all for a while.

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
};

#[tokio::test]
async fn a_stalled_client_reads_the_table_and_gets_every_event() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.recent = 1 << 20;
    let app = App::start_with(&database.url(), settings).await;
    let mut stalled = app.follow("toto").await.joined().await;
    let mut quick = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    let fill = "insert into events (type, subscriber, payload)
                select 't', 'toto', to_jsonb(repeat('x', 10000)) from generate_series(1, 400)";
    for _ in 0..5 {
        writer.batch_execute(fill).await.unwrap();
    }
    let all: Vec<i64> = (1..=2000).collect();
    assert_eq!(quick.rows(2000).await, all, "other clients do not wait");
    eventually("the stalled client's place was evicted from the recent events", async || {
        (app.metric("recent_bytes").await <= 1 << 20).then_some(())
    })
    .await;
    assert_eq!(stalled.rows(2000).await, all);
    assert!(app.metric("slow_clients_total").await >= 1);
}
