//! `event-piper prune` as a program, beside writers, gateways and clients.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_postgres::Client;

use crate::support::{
    app::App,
    eventually,
    postgres::Database,
    program::{command, run},
};

/// Writes events `from` to `to` of a subscriber, this many days old.
async fn fill(client: &Client, subscriber: &str, count: i64, days: i32) {
    let insert = "insert into events (type, timestamp, subscriber, payload)
        select 't', now() - make_interval(days => $3), $1, to_jsonb(n)
        from generate_series(1, $2::int8) n";
    client.execute(insert, &[&subscriber, &count, &days]).await.unwrap();
}

/// Writes this many versions of a stream, this many days old.
async fn fill_stream(client: &Client, stream: &str, count: i64, days: i32) {
    let insert = "insert into events (type, timestamp, stream, version, payload)
        select 't', now() - make_interval(days => $3), $1, n + (
            select coalesce(max(version), 0) from events where stream = $1), '1'
        from generate_series(1, $2::int8) n";
    client.execute(insert, &[&stream, &count, &days]).await.unwrap();
}

/// The remaining events, as `name count` for subscribers and streams.
async fn left(client: &Client) -> String {
    let left = "select coalesce(string_agg(line, ', ' order by line), '') from (
        select coalesce(subscriber, stream) || ' ' || count(*) from events
        group by coalesce(subscriber, stream)) lines(line)";
    client.query_one(left, &[]).await.unwrap().get(0)
}

async fn count(client: &Client) -> i64 {
    client.query_one("select count(*) from events", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn prunes_old_events_and_keeps_the_newest_of_each_stream() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 5, 100).await;
    fill(&client, "toto", 3, 10).await;
    fill_stream(&client, "gone quiet", 4, 100).await;
    fill_stream(&client, "alive", 4, 100).await;
    fill_stream(&client, "alive", 2, 10).await;
    let dry = run(&database, &["prune", "--older-than", "90d", "--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.out.contains("12 events would be pruned, 18 examined"), "{dry:?}");
    assert_eq!(count(&client).await, 18);

    let done = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!((done.code, &*done.out), (Some(0), "12 events pruned, 18 examined\n"));
    assert_eq!(left(&client).await, "alive 2, gone quiet 1, toto 3");
    let again = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(again.out, "0 events pruned, 6 examined\n");
}

#[tokio::test]
async fn without_an_age_prunes_streams_only() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 5, 1000).await;
    fill_stream(&client, "long", 30, 5).await;
    fill_stream(&client, "short", 3, 5).await;
    run(&database, &["prune", "--keep", "10"]).await;
    assert_eq!(left(&client).await, "long 10, short 3, toto 5");
    let oldest = "select min(version) from events where stream = 'long'";
    let oldest: i64 = client.query_one(oldest, &[]).await.unwrap().get(0);
    assert_eq!(oldest, 21);
    run(&database, &["prune", "--keep", "2", "--older-than", "10d"]).await;
    assert_eq!(left(&client).await, "long 10, short 3", "both have to say so");
}

#[tokio::test]
async fn a_pruned_streams_versions_continue() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill_stream(&client, "s", 30, 100).await;
    let refused = run(&database, &["prune", "--keep", "0"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("no version is used twice"), "{refused:?}");
    run(&database, &["prune", "--older-than", "1d", "--keep", "1"]).await;
    assert_eq!(left(&client).await, "s 1");
    let app = App::start(&database.url()).await;
    let next = app.post("/streams/s", r#"{"type":"t","data":{}}"#).await;
    assert_eq!(next.json()["version"], 31, "{}", next.body);
    let first = app.post("/streams/s/1", r#"{"type":"t","data":{}}"#).await;
    assert_eq!((first.status, &first.json()["version"]), (409, &31.into()));
}

#[tokio::test]
async fn ends_at_young_events_unless_told_to_read_all() {
    let database = Database::create().await;
    let client = database.connect().await;
    for (subscriber, count, days) in [
        ("ahead of time", 5000, -100),
        ("old", 3000, 100),
        ("young", 5000, 1),
        ("says it is old", 1, 100),
        ("young", 6000, 1),
    ] {
        fill(&client, subscriber, count, days).await;
    }
    let done = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(done.out, "3,000 events pruned, 10,000 examined\n", "{done:?}");
    let again = run(&database, &["prune", "--older-than", "90d", "--dry-run"]).await;
    assert!(again.out.starts_with("0 events would be pruned, 2,000 examined"), "{again:?}");
    let whole = run(&database, &["prune", "--older-than", "90d", "--whole-log"]).await;
    assert_eq!(whole.out, "1 event pruned, 16,001 examined\n", "{whole:?}");
    assert_eq!(left(&client).await, "ahead of time 5000, young 11000");
}

#[tokio::test]
async fn keeps_the_streams_of_events_keep() {
    let database = Database::create().await;
    let client = database.connect().await;
    for stream in ["audit-1", "audit-2", "a_b", "axb", "100%", "order"] {
        fill_stream(&client, stream, 5, 100).await;
    }
    let keep = "insert into events_keep values ('a_b', 'the law'), ('100%', 'no pattern')";
    client.batch_execute(keep).await.unwrap();
    let prune = ["prune", "--older-than", "90d", "--except", "audit-*"];
    run(&database, &prune).await;
    assert_eq!(left(&client).await, "100% 5, a_b 5, audit-1 5, audit-2 5, axb 1, order 1");
}

#[tokio::test]
async fn names_missing_arguments() {
    let database = Database::create().await;
    let refused = run(&database, &["prune"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("--older-than (such as 90d) or --keep"), "{refused:?}");
    let refused = run(&database, &["prune", "--older-than", "yesterday"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
}

#[tokio::test]
async fn a_second_prune_is_refused() {
    let database = Database::create().await;
    let first = database.connect().await;
    first.batch_execute("select pg_advisory_lock(17744, 6)").await.unwrap();
    let pid: i32 = first.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let refused = run(&database, &["prune", "--keep", "1"]).await;
    assert_eq!(refused.code, Some(1));
    let expected = format!("another session is pruning this log already (backend {pid})");
    assert!(refused.err.contains(&expected), "{refused:?}");
}

#[tokio::test]
async fn a_killed_prune_continues_and_does_not_block_writers() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 10_000, 100).await;
    let holder = database.connect().await;
    holder.batch_execute("begin; select from events where id = 5000 for update").await.unwrap();
    let mut prune = command(&database, &["prune", "--older-than", "90d"]).spawn().unwrap();
    eventually("it waits for the locked row", async || {
        (count(&client).await == 6000).then_some(())
    })
    .await;
    fill(&client, "toto", 10, 0).await;
    prune.kill().await.unwrap();
    holder.batch_execute("rollback").await.unwrap();
    let done = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(done.out, "6,000 events pruned, 6,010 examined\n");
    assert_eq!(left(&client).await, "toto 10");
}

#[tokio::test]
async fn waits_for_a_locked_row() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 3000, 100).await;
    let holder = database.connect().await;
    holder.batch_execute("begin; select from events where id = 2500 for update").await.unwrap();
    let prune = command(&database, &["prune", "--older-than", "90d"]).spawn().unwrap();
    let gave_up = "select from pg_stat_activity where application_name = 'event-piper prune'
        and query = 'ROLLBACK' and datname = current_database()";
    eventually("it gave up waiting once", async || {
        (!client.query(gave_up, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    holder.batch_execute("rollback").await.unwrap();
    assert!(prune.wait_with_output().await.unwrap().status.success());
    assert_eq!(count(&client).await, 0);
}

#[tokio::test]
async fn a_signal_ends_it_after_its_page() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 5000, 100).await;
    let holder = database.connect().await;
    holder.batch_execute("begin; select from events where id = 3000 for update").await.unwrap();
    let prune = command(&database, &["prune", "--older-than", "90d"]).spawn().unwrap();
    let waits = "select from pg_stat_activity where application_name = 'event-piper prune'
        and wait_event_type = 'Lock' and datname = current_database()";
    eventually("a page is pruned, and the next one waits", async || {
        let waits = !client.query(waits, &[]).await.unwrap().is_empty();
        (waits && count(&client).await == 3000).then_some(())
    })
    .await;
    let pid = Pid::from_raw(prune.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    holder.batch_execute("rollback").await.unwrap();
    let ended = prune.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("interrupted at event 4000: run the command again to continue"),
        "{said}"
    );
    assert_eq!(count(&client).await, 1000, "nothing was half done");
}

#[tokio::test]
async fn keeps_events_written_after_it_began() {
    let database = Database::create().await;
    let (client, slow) = (database.connect().await, database.connect().await);
    slow.batch_execute("begin").await.unwrap();
    fill(&slow, "late", 1, 100).await;
    fill(&client, "toto", 5, 100).await;
    // The run begins, and cannot delete yet.
    let mut holding = database.connect().await;
    let held = holding.transaction().await.unwrap();
    held.batch_execute("lock table events_pruned in share row exclusive mode").await.unwrap();
    let prune = command(&database, &["prune", "--older-than", "90d"]).spawn().unwrap();
    let waits = "select from pg_stat_activity where application_name = 'event-piper prune'
        and wait_event_type = 'Lock' and datname = current_database()";
    eventually("it has begun", async || {
        (!client.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    slow.batch_execute("commit").await.unwrap();
    fill(&client, "new", 1, 100).await;
    held.commit().await.unwrap();
    assert!(prune.wait_with_output().await.unwrap().status.success());
    assert_eq!(left(&client).await, "late 1, new 1");
}

#[tokio::test]
async fn only_clients_that_are_behind_get_a_gap() {
    let database = Database::create().await;
    let client = database.connect().await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    let mut quiet = app.follow("quiet").await.joined().await;
    fill(&client, "quiet", 1, 100).await;
    fill(&client, "toto", 20, 100).await;
    fill(&client, "toto", 5, 1).await;
    assert_eq!(live.rows(25).await, (2..=26).collect::<Vec<_>>());
    quiet.rows(1).await;
    while quiet.last_id != "26" {
        quiet.next().await.unwrap();
    }
    run(&database, &["prune", "--older-than", "90d"]).await;
    fill(&client, "toto", 1, 0).await;
    let next = live.next().await.unwrap();
    assert!(next.event == "heartbeat" || next.row() == 27, "{next:?}");
    app.stop().await;

    let app = App::start(&database.url()).await;
    let mut behind = app.resume("toto", "5").await;
    let gap = behind.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":5,"to":21,"reason":"pruned"}"#);
    assert_eq!(behind.rows(6).await, (22..=27).collect::<Vec<_>>());
    for (consumer, cursor) in [("toto", "21"), ("quiet", &*quiet.last_id), ("nobody", "0")] {
        let mut abreast = app.resume(consumer, cursor).await;
        while let Some(frame) = abreast.next().await
            && frame.event != "$caught-up"
        {
            assert_ne!(frame.event, "$gap", "{consumer} misses nothing");
        }
    }
}

#[tokio::test]
async fn a_replay_overtaken_by_pruning_gets_a_gap() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = "insert into events (type, timestamp, subscriber, payload)
        select 't', now() - case when n <= 1900 then interval '100 days' else '0' end, 'toto',
               to_jsonb(repeat('x', 10000)) from generate_series(1, 2000) n";
    client.batch_execute(fill).await.unwrap();
    let mut settings = crate::support::app::Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    let mut toto = app.resume("toto", "0").await;
    assert_eq!(toto.rows(1).await, [1]);
    run(&database, &["prune", "--older-than", "90d"]).await;
    let (mut seen, mut gap) = (1, None);
    while seen < 2000 {
        let frame = toto.next().await.unwrap();
        if frame.event == "$gap" {
            assert_eq!(frame.data, format!(r#"{{"from":{seen},"to":1900,"reason":"pruned"}}"#));
            gap = Some(seen);
        } else if frame.is_logged() {
            let missing = frame.row() != seen + 1;
            assert!(!missing || gap == Some(seen), "{} after {seen} in silence", frame.row());
            seen = frame.row();
        }
    }
    assert!(gap.is_some(), "the replay was overtaken");
}

/// PostgreSQL refuses to update a published table that has no replica identity.
#[tokio::test]
async fn works_beside_a_publication_for_all_tables() {
    let database = Database::create().await;
    let client = database.connect().await;
    client.batch_execute("create publication everything for all tables").await.unwrap();
    for _ in 0..2 {
        fill(&client, "toto", 2, 10).await;
        let erased = run(&database, &["erase", "--subscriber", "toto"]).await;
        assert_eq!(erased.code, Some(0), "{erased:?}");
        let pruned = run(&database, &["prune", "--older-than", "1d"]).await;
        assert_eq!((pruned.code, &*pruned.out), (Some(0), "2 events pruned, 2 examined\n"));
        let truncate = "begin; set local event_piper.prune = 'on'; truncate events; commit";
        fill(&client, "toto", 1, 0).await;
        client.batch_execute(truncate).await.unwrap();
    }
}
