//! Writers of every kind, who remember what they were told.

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

/// How many consumers there are, `c0` and so on.
pub(super) const CONSUMERS: usize = 8;
/// The types that events have.
pub(super) const KINDS: [&str; 3] = ["insert", "update", "delete"];

/// How a writer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One row, by itself.
    Single,
    /// Some rows with pauses between them, some of which go to a savepoint and back; sometimes
    /// all of it is rolled back.
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

/// What became of a row, as far as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The writer was told that it is in the log, and that it stays there.
    Committed,
    /// The writer was told that it is not, or never asked for it.
    RolledBack,
    /// The answer was lost: the table knows.
    Unknown,
}

/// What all writers know of the rows they wrote, by the number in each payload.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<HashMap<u64, Fate>>);

impl Ledger {
    fn enter(&self) -> u64 {
        let mut fates = self.0.lock().unwrap();
        let number = fates.len() as u64;
        fates.insert(number, Fate::Unknown);
        number
    }

    fn settle(&self, letters: &[Letter], fate: Fate) {
        self.0.lock().unwrap().extend(letters.iter().map(|letter| (letter.number, fate)));
    }

    /// What became of each row.
    pub(super) fn fates(&self) -> HashMap<u64, Fate> {
        self.0.lock().unwrap().clone()
    }
}

/// A row to be.
#[derive(Debug)]
struct Letter {
    number: u64,
    kind: &'static str,
    subscriber: String,
    payload: String,
}

/// A writer at work.
pub(super) struct Writer {
    pub(super) way: Way,
    /// Between two transactions, in milliseconds.
    pub(super) pause: Range<u64>,
    pub(super) dice: Rng,
    pub(super) ledger: Arc<Ledger>,
    pub(super) url: String,
}

/// Every kind at once.
pub(super) fn everybody(dice: &mut Rng, ledger: &Arc<Ledger>, url: &str) -> Vec<Writer> {
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
    let writer = |(way, pause)| {
        let (dice, ledger, url) = (dice.fork(), Arc::clone(ledger), url.to_owned());
        Writer { way, pause, dice, ledger, url }
    };
    ways.map(writer).into()
}

const INSERT: &str = "
insert into events (type, subscriber, payload)
select kind, subscriber, payload::jsonb
from unnest($1::text[], $2::text[], $3::text[]) letter(kind, subscriber, payload)";

impl Writer {
    /// Writes until it is told to stop; a lost connection is replaced.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(mut client) = try_connect(&self.url).await {
                // What goes wrong on the connection has been entered in the ledger as unknown.
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
            self.pause(self.pause.clone()).await;
        }
        Ok(())
    }

    async fn single(&mut self, client: &Client) -> Result<(), Error> {
        let letters = self.letters(1..2, 200);
        insert(client, &letters).await?;
        self.ledger.settle(&letters, Fate::Committed);
        Ok(())
    }

    async fn several(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut transaction = client.transaction().await?;
        let mut written = Vec::new();
        for _ in 0..self.dice.usize(1..12) {
            let letters = self.letters(1..4, 300);
            let savepoint = transaction.transaction().await?;
            insert(savepoint.client(), &letters).await?;
            if self.dice.u8(0..4) == 0 {
                savepoint.rollback().await?;
                self.ledger.settle(&letters, Fate::RolledBack);
            } else {
                savepoint.commit().await?;
                written.extend(letters);
            }
            self.pause(0..6).await;
        }
        self.end(transaction, &written).await
    }

    async fn long(&mut self, client: &mut Client) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        let mut letters = self.letters(1..4, 200);
        insert(transaction.client(), &letters).await?;
        self.pause(50..1500).await;
        if self.dice.bool() {
            let more = self.letters(1..6, 200);
            insert(transaction.client(), &more).await?;
            letters.extend(more);
            self.pause(0..200).await;
        }
        self.end(transaction, &letters).await
    }

    async fn bulk(&mut self, client: &mut Client) -> Result<(), Error> {
        let letters = self.letters(100..2000, 100);
        insert(client, &letters).await?;
        self.ledger.settle(&letters, Fate::Committed);
        Ok(())
    }

    async fn copy(&mut self, client: &mut Client) -> Result<(), Error> {
        let letters = self.letters(50..1000, 100);
        let copy = "copy events (type, subscriber, payload) from stdin";
        let mut sink = std::pin::pin!(client.copy_in::<_, bytes::Bytes>(copy).await?);
        for letter in &letters {
            let payload = letter.payload.replace('\\', "\\\\");
            let line = format!("{}\t{}\t{payload}\n", letter.kind, letter.subscriber);
            sink.send(line.into()).await?;
        }
        sink.as_mut().finish().await?;
        self.ledger.settle(&letters, Fate::Committed);
        Ok(())
    }

    /// Its rows are announced by nobody; the safety poll finds them.
    async fn prepared(&mut self, client: &mut Client) -> Result<(), Error> {
        let letters = self.letters(1..6, 200);
        let name = format!("prepared {}", letters[0].number);
        client.batch_execute("set event_piper.bell = 'off'; begin").await?;
        insert(client, &letters).await?;
        client.batch_execute(&format!("prepare transaction '{name}'")).await?;
        self.pause(0..500).await;
        let fate = self.verdict();
        let verb = if fate == Fate::RolledBack { "rollback" } else { "commit" };
        client.batch_execute(&format!("{verb} prepared '{name}'")).await?;
        self.ledger.settle(&letters, fate);
        Ok(())
    }

    async fn big(&mut self, client: &mut Client) -> Result<(), Error> {
        let letters = self.letters(1..2, 1 << 20);
        insert(client, &letters).await?;
        self.ledger.settle(&letters, Fate::Committed);
        Ok(())
    }

    async fn end(
        &mut self,
        transaction: tokio_postgres::Transaction<'_>,
        written: &[Letter],
    ) -> Result<(), Error> {
        let fate = self.verdict();
        match fate {
            Fate::RolledBack => transaction.rollback().await?,
            _ => transaction.commit().await?,
        }
        self.ledger.settle(written, fate);
        Ok(())
    }

    fn verdict(&mut self) -> Fate {
        if self.dice.u8(0..5) == 0 { Fate::RolledBack } else { Fate::Committed }
    }

    /// What was prepared before the connection was lost is committed now.
    async fn finish_prepared(&self, client: &Client) -> Result<(), Error> {
        if self.way == Way::Prepared { finish_prepared(client).await } else { Ok(()) }
    }

    fn letters(&mut self, count: Range<usize>, longest: usize) -> Vec<Letter> {
        let count = self.dice.usize(count);
        let letter = |_| {
            let number = self.ledger.enter();
            Letter {
                number,
                kind: KINDS[self.dice.usize(0..KINDS.len())],
                subscriber: format!("c{}", self.dice.usize(0..CONSUMERS)),
                payload: payload(number, longest, &mut self.dice),
            }
        };
        (0..count).map(letter).collect()
    }

    async fn pause(&mut self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.dice.u64(millis))).await;
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

async fn insert(client: &Client, letters: &[Letter]) -> Result<(), Error> {
    let kinds: Vec<&str> = letters.iter().map(|letter| letter.kind).collect();
    let subscribers: Vec<&str> = letters.iter().map(|letter| letter.subscriber.as_str()).collect();
    let payloads: Vec<&str> = letters.iter().map(|letter| letter.payload.as_str()).collect();
    client.execute(INSERT, &[&kinds, &subscribers, &payloads]).await.map(drop)
}

/// JSON with its number, and with a text in which everything stands that could be taken for
/// something else: blanks behind colons, quotes, line breaks, letters of several bytes.
fn payload(number: u64, longest: usize, dice: &mut Rng) -> String {
    const PIECES: [&str; 8] = [": ", ", ", "\"", "\\", "\n\n", "data: ", "é→🚪", "id: 7\n"];
    let length = dice.usize(0..longest);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        match dice.usize(0..40) {
            piece @ 0..8 => text.push_str(PIECES[piece]),
            _ => text.push(dice.alphanumeric()),
        }
    }
    serde_json::json!({ "n": number, "text": text, "more": [null, 1, { "deep": [] }] }).to_string()
}
