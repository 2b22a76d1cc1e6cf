//! Processes are killed during writes. Each acknowledged event is in the log once, also when it was sent
//! again with its uid.

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

/// The acknowledged writes of a writer: uid and version.
type Told = Vec<(Uuid, i64)>;

/// Starts writers that append at the next version until `stop` is set. After any error, a writer sends the
/// same event again, to the other gateway.
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
    unreachable!("a writer retries until the event is written")
}

/// Waits for the writers, and compares the acknowledged writes with the log. Returns their number.
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
        assert_eq!(uids.len(), logged.len(), "each uid is written once");
        told.sort_by_key(|(_, version)| *version);
        let differ: Vec<_> =
            told.iter().zip(&logged).filter(|(told, there)| told != there).take(5).collect();
        let (told, there) = (told.len(), logged.len());
        assert!(
            differ.is_empty() && told == there,
            "stream s{stream}: {told} were acknowledged, {there} are in the log, and these differ: {differ:?}"
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
async fn killed_gateways_lose_and_repeat_no_write() {
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
async fn a_crashed_postgresql_loses_and_repeats_no_write() {
    // Acknowledged events have to survive a crash, so this server flushes its writes.
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
