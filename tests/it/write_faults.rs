//! Writing while processes die: what was answered is there, once, and what was sent again
//! with its uid is, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

use crate::support::{
    eventually,
    killable::Killable,
    postgres::{Database, Stop, TestServer},
    sse_client::try_post,
};

const WRITERS: usize = 64;
const STREAMS: usize = 8;

/// What a writer was told: under which uid, which version.
type Told = Vec<(Uuid, i64)>;

/// Writers that append by the next version, each until it is told to stop; whatever goes
/// wrong they send the same again, to one gateway or the other.
fn writers(gateways: [SocketAddr; 2], stop: &Arc<AtomicBool>) -> Vec<JoinHandle<(usize, Told)>> {
    let writer = |number: usize| {
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            let (stream, mut told) = (number % STREAMS, Told::new());
            while !stop.load(Ordering::Relaxed) {
                let uid = Uuid::now_v7();
                let version = appended(gateways, number, stream, uid).await;
                told.push((uid, version));
            }
            (stream, told)
        })
    };
    (0..WRITERS).map(writer).collect()
}

async fn appended(gateways: [SocketAddr; 2], number: usize, stream: usize, uid: Uuid) -> i64 {
    let body = json!({ "type": "t", "data": { "by": number }, "uid": uid }).to_string();
    for attempt in number.. {
        let gateway = gateways[attempt % 2];
        match try_post(gateway, &format!("/streams/s{stream}"), &[], &body).await {
            Ok(answer) if answer.status == 200 => {
                return answer.json()["version"].as_i64().unwrap();
            }
            Ok(answer) => {
                let busy = [429, 503].contains(&answer.status);
                assert!(busy, "attempt {attempt}: {}: {}", answer.status, answer.body);
            }
            Err(_) => {}
        }
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("a writer goes on until it is written")
}

/// Stops the writers, and holds what they were told against the log.
async fn check(database: &Database, writers: Vec<JoinHandle<(usize, Told)>>) -> usize {
    let mut told: BTreeMap<usize, Told> = BTreeMap::new();
    for writer in writers {
        let (stream, its) = writer.await.unwrap();
        told.entry(stream).or_default().extend(its);
    }
    let client = database.connect().await;
    let mut count = 0;
    for (stream, mut told) in told {
        let sql = "select uid, version from events where stream = $1 order by version";
        let rows = client.query(sql, &[&format!("s{stream}")]).await.unwrap();
        let logged: Told = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let versions: Vec<i64> = logged.iter().map(|(_, version)| *version).collect();
        assert_eq!(versions, (1..=i64::try_from(logged.len()).unwrap()).collect::<Vec<_>>());
        let uids: BTreeSet<Uuid> = logged.iter().map(|(uid, _)| *uid).collect();
        assert_eq!(uids.len(), logged.len(), "each once");
        told.sort_by_key(|(_, version)| *version);
        let differ: Vec<_> =
            told.iter().zip(&logged).filter(|(told, there)| told != there).take(5).collect();
        let (told, there) = (told.len(), logged.len());
        assert!(
            differ.is_empty() && told == there,
            "stream s{stream}: {told} were told, {there} are there, and told and there differ: {differ:?}"
        );
        count += told;
    }
    count
}

async fn until(database: &Database, more: i64) {
    let client = database.connect().await;
    let before: i64 = client.query_one("select count(*) from events", &[]).await.unwrap().get(0);
    eventually("more is written", async || {
        let count = client.query_one("select count(*) from events", &[]).await.unwrap();
        (count.get::<_, i64>(0) >= before + more).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_writers_over_two_gateways_that_are_killed_lose_and_double_nothing() {
    let database = Database::create().await;
    let mut gateways = [
        Killable::start(&database.url(), None).await,
        Killable::start(&database.url(), None).await,
    ];
    let addresses = [gateways[0].address, gateways[1].address];
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers(addresses, &stop);
    for round in 0..6 {
        until(&database, 200).await;
        let which = round % 2;
        gateways[which].kill().await;
        until(&database, 50).await;
        gateways[which] = Killable::start(&database.url(), Some(addresses[which])).await;
    }
    until(&database, 100).await;
    stop.store(true, Ordering::Relaxed);
    let count = check(&database, writers).await;
    assert!(count > 1600, "{count}");
}

#[tokio::test]
async fn a_postgresql_that_crashes_under_writers_loses_and_doubles_nothing() {
    // What was answered has to survive: so this one flushes.
    let server = TestServer::start_own("fsync = on").await;
    let database = Database::create_on_own(&server).await;
    let gateways = [
        Killable::start(&database.url(), None).await,
        Killable::start(&database.url(), None).await,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let writers = writers([gateways[0].address, gateways[1].address], &stop);
    for how in [Stop::Kill, Stop::Fast, Stop::Immediate] {
        until(&database, 100).await;
        server.restart(how).await;
    }
    until(&database, 100).await;
    stop.store(true, Ordering::Relaxed);
    check(&database, writers).await;
}
