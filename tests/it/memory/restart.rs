//! Recent events that are loaded after a restart, and evicted again, in the real program.

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
};

/// As much of the end of the log is loaded as fits. Then the events of a busy consumer evict most of it.
#[tokio::test]
async fn a_client_gets_loaded_and_evicted_events_after_a_restart() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = "insert into events (type, subscriber, payload)
        select 't', 'quiet ' || n, to_jsonb(repeat('x', 10000)) from generate_series(1, 90) n";
    client.batch_execute(fill).await.unwrap();
    let mut settings = Settings::default();
    settings.gateway.recent = 512 << 10;
    let app = App::start_with(&database.url(), settings).await;
    eventually("the end of the log is loaded", async || {
        (app.metric("recent_bytes").await > 500 << 10).then_some(())
    })
    .await;
    let mut busy = app.follow("busy").await.joined().await;
    let fill = "insert into events (type, subscriber, payload)
        select 't', 'busy', to_jsonb(repeat('x', 10000)) from generate_series(1, 25)";
    client.batch_execute(fill).await.unwrap();
    busy.rows(25).await;
    for id in 1..=90 {
        let mut quiet = app.resume(&format!("quiet {id}"), &(id - 1).to_string()).await;
        let mut got = Vec::new();
        while let Some(frame) = quiet.next().await
            && frame.event != "$caught-up"
        {
            got.extend(frame.is_logged().then(|| frame.row()));
        }
        assert_eq!(got, [id], "after {}", id - 1);
    }
    let (replays, recent) =
        (app.metric("replays_total").await, app.metric("resumed_from_recent_total").await);
    assert!(replays >= 60 && recent >= 20, "{replays} from the table, {recent} from memory");
}
