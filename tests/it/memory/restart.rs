//! What is recalled after a restart, and let go of again, in the real program.

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
};

/// The end of the log is recalled for as many consumers as there is room for; a busy one drives
/// most of it out again.
#[tokio::test]
async fn who_comes_back_after_a_restart_gets_what_memory_had_and_let_go_of() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = "insert into events (type, subscriber, payload)
        select 't', 'quiet ' || n, to_jsonb(repeat('x', 10000)) from generate_series(1, 90) n";
    client.batch_execute(fill).await.unwrap();
    let mut settings = Settings::default();
    settings.gateway.recent = 512 << 10;
    let app = App::start_with(&database.url(), settings).await;
    eventually("the end of the log is recalled", async || {
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
        assert_eq!(got, [id], "behind {}", id - 1);
    }
    let (replays, recent) =
        (app.metric("replays_total").await, app.metric("resumed_from_recent_total").await);
    assert!(replays >= 60 && recent >= 20, "{replays} from the table, {recent} from memory");
}
