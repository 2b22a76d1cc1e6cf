//! Writers of every kind, which record the outcome of each write.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use futures::SinkExt;
use tokio::time::sleep;
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

use crate::support::postgres::try_connect;

/// The number of consumers, `c0` and so on.
pub(super) const CONSUMERS: usize = 8;
/// The types of events.
pub(super) const KINDS: [&str; 3] = ["insert", "update", "delete"];

/// How a writer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One row per transaction.
    Single,
    /// Several rows with pauses between them, some of which are rolled back to a savepoint. Sometimes the whole
    /// transaction is rolled back.
    Several,
    /// Inserts first, and commits long after the hold.
    Long,
    /// Many rows in one statement.
    Bulk,
    /// COPY.
    Copy,
    /// Two-phase commit.
    Prepared,
    /// A payload of up to 1 MB.
    Big,
}

/// The outcome of a write, as far as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The commit succeeded.
    Committed,
    /// The transaction was rolled back.
    RolledBack,
    /// The response was lost: only the table can tell.
    Unknown,
}

/// The outcomes of all writes, by the number in each payload.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<u64, Fate>>);

impl Ledger {
    fn enter(&self) -> u64 {
        let mut fates = self.0.lock().unwrap();
        let number = fates.len() as u64;
        fates.insert(number, Fate::Unknown);
        number
    }

    fn settle(&self, rows: &[NewRow], fate: Fate) {
        self.0.lock().unwrap().extend(rows.iter().map(|row| (row.number, fate)));
    }

    /// The outcome of each write.
    pub(super) fn fates(&self) -> HashMap<u64, Fate> {
        self.0.lock().unwrap().clone()
    }
}

/// A row to insert.
#[derive(Debug)]
struct NewRow {
    number: u64,
    kind: &'static str,
    subscriber: String,
    payload: String,
}

/// A running writer.
pub(super) struct Writer {
    pub(super) way: Way,
    /// The pause between two transactions.
    pub(super) pause_ms: Range<u64>,
    pub(super) random: Rng,
    pub(super) ledger: Arc<Ledger>,
    pub(super) url: String,
}

/// Writers of every kind.
pub(super) fn all_writers(random: &mut Rng, ledger: &Arc<Ledger>, url: &str) -> Vec<Writer> {
    let ways = [
        (Way::Single, 0..60),
        (Way::Single, 0..20),
        (Way::Several, 0..40),
        (Way::Several, 0..100),
        (Way::Long, 0..100),
        (Way::Long, 0..400),
        (Way::Bulk, 300..1500),
        (Way::Copy, 300..1500),
        (Way::Prepared, 50..400),
        (Way::Big, 300..1500),
    ];
    let writer = |(way, pause_ms)| {
        let (random, ledger, url) = (random.fork(), Arc::clone(ledger), url.to_owned());
        Writer { way, pause_ms, random, ledger, url }
    };
    ways.map(writer).into()
}

const INSERT: &str = "
insert into events (type, subscriber, payload)
select kind, subscriber, payload::jsonb
from unnest($1::text[], $2::text[], $3::text[]) new_row(kind, subscriber, payload)";

impl Writer {
    /// Writes until `stop` is cancelled. Reconnects when the connection is lost.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(mut client) = try_connect(&self.url).await {
                // If the connection fails, the ledger has the outcome as unknown already.
                let _ = self.write_on(&mut client, &stop).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn write_on(
        &mut self,
        client: &mut Client,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.finish_prepared(client).await?;
        while !stop.is_cancelled() {
            match self.way {
                Way::Single => self.single(client).await?,
                Way::Several => self.several(client).await?,
                Way::Long => self.long(client).await?,
                Way::Bulk => self.bulk(client).await?,
                Way::Copy => self.copy(client).await?,
                Way::Prepared => self.prepared(client).await?,
                Way::Big => self.big(client).await?,
            }
            self.pause(self.pause_ms.clone()).await;
        }
        Ok(())
    }

    async fn single(&mut self, client: &Client) -> Result<(), Error> {
        let rows = self.rows(1..2, 200);
        insert(client, &rows).await?;
        self.ledger.settle(&rows, Fate::Committed);
        Ok(())
    }

    async fn several(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut transaction = client.transaction().await?;
        let mut written = Vec::new();
        for _ in 0..self.random.usize(1..12) {
            let rows = self.rows(1..4, 300);
            let savepoint = transaction.transaction().await?;
            insert(savepoint.client(), &rows).await?;
            if self.random.u8(0..4) == 0 {
                savepoint.rollback().await?;
                self.ledger.settle(&rows, Fate::RolledBack);
            } else {
                savepoint.commit().await?;
                written.extend(rows);
            }
            self.pause(0..6).await;
        }
        self.end(transaction, &written).await
    }

    async fn long(&mut self, client: &mut Client) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        let mut rows = self.rows(1..4, 200);
        insert(transaction.client(), &rows).await?;
        self.pause(50..1500).await;
        if self.random.bool() {
            let more = self.rows(1..6, 200);
            insert(transaction.client(), &more).await?;
            rows.extend(more);
            self.pause(0..200).await;
        }
        self.end(transaction, &rows).await
    }

    async fn bulk(&mut self, client: &mut Client) -> Result<(), Error> {
        let rows = self.rows(100..2000, 100);
        insert(client, &rows).await?;
        self.ledger.settle(&rows, Fate::Committed);
        Ok(())
    }

    async fn copy(&mut self, client: &mut Client) -> Result<(), Error> {
        let rows = self.rows(50..1000, 100);
        let copy = "copy events (type, subscriber, payload) from stdin";
        let mut sink = std::pin::pin!(client.copy_in::<_, bytes::Bytes>(copy).await?);
        for row in &rows {
            let payload = row.payload.replace('\\', "\\\\");
            let line = format!("{}\t{}\t{payload}\n", row.kind, row.subscriber);
            sink.send(line.into()).await?;
        }
        sink.as_mut().finish().await?;
        self.ledger.settle(&rows, Fate::Committed);
        Ok(())
    }

    /// Writes without notifying; the safety poll finds the rows.
    async fn prepared(&mut self, client: &mut Client) -> Result<(), Error> {
        let rows = self.rows(1..6, 200);
        let name = format!("prepared {}", rows[0].number);
        client.batch_execute("set event_piper.bell = 'off'; begin").await?;
        insert(client, &rows).await?;
        client.batch_execute(&format!("prepare transaction '{name}'")).await?;
        self.pause(0..500).await;
        let fate = self.random_outcome();
        let verb = if fate == Fate::RolledBack { "rollback" } else { "commit" };
        client.batch_execute(&format!("{verb} prepared '{name}'")).await?;
        self.ledger.settle(&rows, fate);
        Ok(())
    }

    async fn big(&mut self, client: &mut Client) -> Result<(), Error> {
        let rows = self.rows(1..2, 1 << 20);
        insert(client, &rows).await?;
        self.ledger.settle(&rows, Fate::Committed);
        Ok(())
    }

    async fn end(
        &mut self,
        transaction: tokio_postgres::Transaction<'_>,
        written: &[NewRow],
    ) -> Result<(), Error> {
        let fate = self.random_outcome();
        match fate {
            Fate::RolledBack => transaction.rollback().await?,
            _ => transaction.commit().await?,
        }
        self.ledger.settle(written, fate);
        Ok(())
    }

    fn random_outcome(&mut self) -> Fate {
        if self.random.u8(0..5) == 0 { Fate::RolledBack } else { Fate::Committed }
    }

    /// Commits transactions that were prepared before the connection was lost.
    async fn finish_prepared(&self, client: &Client) -> Result<(), Error> {
        if self.way == Way::Prepared { finish_prepared(client).await } else { Ok(()) }
    }

    fn rows(&mut self, count: Range<usize>, longest: usize) -> Vec<NewRow> {
        let count = self.random.usize(count);
        let row = |_| {
            let number = self.ledger.enter();
            NewRow {
                number,
                kind: KINDS[self.random.usize(0..KINDS.len())],
                subscriber: format!("c{}", self.random.usize(0..CONSUMERS)),
                payload: payload(number, longest, &mut self.random),
            }
        };
        (0..count).map(row).collect()
    }

    async fn pause(&mut self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(millis))).await;
    }
}

/// Commits every transaction that is prepared on this database.
pub(super) async fn finish_prepared(client: &Client) -> Result<(), Error> {
    let names = "select gid from pg_prepared_xacts where database = current_database()";
    for row in client.query(names, &[]).await? {
        let name: String = row.get(0);
        client.batch_execute(&format!("commit prepared '{name}'")).await?;
    }
    Ok(())
}

async fn insert(client: &Client, rows: &[NewRow]) -> Result<(), Error> {
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind).collect();
    let subscribers: Vec<&str> = rows.iter().map(|row| row.subscriber.as_str()).collect();
    let payloads: Vec<&str> = rows.iter().map(|row| row.payload.as_str()).collect();
    client.execute(INSERT, &[&kinds, &subscribers, &payloads]).await.map(drop)
}

/// Returns JSON with its number, and with a text that could confuse parsers: spaces after colons, quotes, line
/// breaks, multi-byte characters.
fn payload(number: u64, longest: usize, random: &mut Rng) -> String {
    const PIECES: [&str; 8] = [": ", ", ", "\"", "\\", "\n\n", "data: ", "é→🚪", "id: 7\n"];
    let length = random.usize(0..longest);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        match random.usize(0..40) {
            piece @ 0..8 => text.push_str(PIECES[piece]),
            _ => text.push(random.alphanumeric()),
        }
    }
    serde_json::json!({ "n": number, "text": text, "more": [null, 1, { "deep": [] }] }).to_string()
}
