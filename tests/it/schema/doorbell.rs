//! The locks that a writer takes, and when its trigger notifies a reader.

use std::time::Duration;

use tokio_postgres::Client;

use super::{EVENT, log, refusal, text};
use crate::support::{eventually, postgres::Database};

/// The locks of the doorbell's class that are held in this database, as `objid mode`, in ascending order.
async fn locks(client: &Client) -> String {
    let held = "select coalesce(string_agg(objid || ' ' || mode, ', ' order by objid, mode), '')
        from pg_locks where locktype = 'advisory' and classid = 17744 and granted
        and database = (select oid from pg_database where datname = current_database())";
    text(client, held).await.unwrap()
}

#[tokio::test]
async fn a_writer_holds_the_doorbell_lock_until_its_end() {
    let (database, writer) = log().await;
    let watcher = database.connect().await;
    writer.batch_execute(&format!("begin; {EVENT}; {EVENT}")).await.unwrap();
    assert_eq!(locks(&watcher).await, "1 ShareLock");
    writer.batch_execute("rollback").await.unwrap();
    assert_eq!(locks(&watcher).await, "");
}

#[tokio::test]
async fn a_writer_notifies_only_a_sleeping_reader() {
    let (database, writer) = log().await;
    let mut heard = Listener::new(&database).await;
    writer.batch_execute(EVENT).await.unwrap();
    heard.client.batch_execute("select pg_advisory_lock(17744, 1)").await.unwrap();
    writer.batch_execute(&format!("begin; {EVENT}")).await.unwrap();
    assert_eq!(locks(&database.connect().await).await, "1 ExclusiveLock, 2 ShareLock");
    writer.batch_execute("commit").await.unwrap();
    heard.one().await;
    heard.none().await;
}

#[tokio::test]
async fn a_replica_session_notifies_too() {
    let (database, writer) = log().await;
    let mut heard = Listener::new(&database).await;
    heard.client.batch_execute("select pg_advisory_lock(17744, 1)").await.unwrap();
    writer.batch_execute("set session_replication_role = replica").await.unwrap();
    writer.batch_execute(EVENT).await.unwrap();
    heard.one().await;
}

#[tokio::test]
async fn a_prepared_transaction_needs_the_doorbell_off() {
    let (database, writer) = log().await;
    let mut heard = Listener::new(&database).await;
    heard.client.batch_execute("select pg_advisory_lock(17744, 1)").await.unwrap();
    let name = database.name();
    let prepare = format!("begin; {EVENT}; prepare transaction '{name}'");
    assert!(refusal(&writer, &prepare).await.contains("NOTIFY"));
    writer.batch_execute("rollback; set event_piper.bell = 'off'").await.unwrap();
    writer.batch_execute(&prepare).await.unwrap();
    assert_eq!(locks(&writer).await, "1 ExclusiveLock, 2 ShareLock");
    writer.batch_execute(&format!("commit prepared '{name}'")).await.unwrap();
    assert_eq!(locks(&writer).await, "1 ExclusiveLock");
    heard.none().await;
}

/// A session that listens to `new_events`.
struct Listener {
    client: Client,
    heard: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn new(database: &Database) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
        let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let next = |cx: &mut std::task::Context<'_>| connection.poll_message(cx);
            let mut next = next;
            while let Some(Ok(message)) = std::future::poll_fn(&mut next).await {
                if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                    let _ = sender.send(notification.channel().to_owned());
                }
            }
        });
        client.batch_execute("listen new_events").await.unwrap();
        Self { client, heard }
    }

    async fn one(&mut self) {
        let heard = eventually("the notification", async || self.heard.try_recv().ok()).await;
        assert_eq!(heard, "new_events");
    }

    /// The session's own notification arrives after all notifications that were sent before it.
    async fn none(&mut self) {
        self.client.batch_execute("listen mine; notify mine").await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(30), self.heard.recv()).await;
        assert_eq!(next.unwrap().as_deref(), Some("mine"));
    }
}

/// A reader that finds the lock of a writer also needs the writer's transaction id.
#[tokio::test]
async fn a_writer_gets_its_transaction_id_before_its_lock() {
    let (_database, client) = log().await;
    let behind = "create function behind() returns trigger language plpgsql as $$ begin
            if pg_current_xact_id_if_assigned() is null then raise 'no transaction yet'; end if;
            return null;
        end $$;
        create trigger events_zzz before insert on events
        for each statement execute function behind()";
    client.batch_execute(behind).await.unwrap();
    client.batch_execute(EVENT).await.unwrap();
}
