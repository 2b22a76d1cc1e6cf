//! Carries out the steps that the reader decides, on one listening connection.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::try_join;
use tokio::time::timeout_at;
use tracing::info;

use super::hold::Held;
use crate::{
    event::{EventId, Xid},
    metrics::Metrics,
    order::Passed,
    reader::{LateRange, Reader, SafetyPollResult, Step},
    store::{
        doorbell,
        event_log::{EventLog, EventRow, PageSize, Paging},
        listener::Listener,
        server::Server,
    },
    tail::{
        destination::Destination,
        health::Health,
        lost::{ConnectionLost, within},
        precise_timer::PreciseTimer,
        ringer::Ringer,
    },
};

/// The parts that all sessions share.
#[derive(Debug)]
pub(in crate::tail) struct SessionContext {
    pub(in crate::tail) server: Server,
    pub(in crate::tail) health: Arc<Health>,
    pub(in crate::tail) metrics: Arc<Metrics>,
}

/// A connection that listens and reads. The reader and the destination belong to the tail, and outlive the
/// session.
pub(in crate::tail) struct Session<'a> {
    pub(super) health: &'a Health,
    pub(super) metrics: &'a Metrics,
    pub(super) reader: &'a mut Reader<EventRow>,
    pub(super) destination: &'a mut dyn Destination,
    pub(super) listener: Listener,
    pub(super) ringer: Ringer,
    pub(super) log: EventLog,
    pub(super) paging: Paging,
    pub(super) timer: PreciseTimer,
    pub(super) held: Option<Held>,
}

/// The most rows, and stored bytes, that one query of the tail reads.
const TAIL_PAGE: PageSize = PageSize { rows: 1000, bytes: 1 << 20 };

impl<'a> Session<'a> {
    /// Connects and starts to listen. Notifications after this are received.
    pub(in crate::tail) async fn open(
        context: &'a SessionContext,
        reader: &'a mut Reader<EventRow>,
        destination: &'a mut dyn Destination,
    ) -> Result<Self, ConnectionLost> {
        let SessionContext { server: own_server, health, metrics } = context;
        let server = own_server.named("event-piper listener");
        let listener = within("connecting to PostgreSQL", Listener::connect(&server)).await?;
        within("starting to listen", listener.introduce()).await?;
        let client = listener.client();
        let prepare_log = async {
            if destination.wants_payloads() {
                EventLog::prepare(client).await
            } else {
                EventLog::prepare_for_places(client).await
            }
        };
        let prepare = async { try_join!(prepare_log, doorbell::try_keep(client)) };
        let (log, keeper) = within("preparing to read the log", Box::pin(prepare)).await?;
        reader.connected(keeper, Instant::now());
        let ringer = Ringer::new(own_server.named("event-piper ringer"), listener.ringer());
        Ok(Self {
            health,
            metrics,
            reader,
            destination,
            listener,
            ringer,
            log,
            paging: Paging::new(TAIL_PAGE),
            timer: PreciseTimer::new(),
            held: None,
        })
    }

    /// Follows the log until the connection is lost.
    pub(in crate::tail) async fn follow(&mut self) -> Result<Infallible, ConnectionLost> {
        loop {
            let step = self.reader.next(Instant::now());
            self.carry_out(step).await?;
        }
    }

    async fn carry_out(&mut self, step: Step<EventRow>) -> Result<(), ConnectionLost> {
        match step {
            // Nothing is awaited here, so that nothing that was published is lost with the connection.
            Step::Publish(publication) => self.publish(&publication),
            Step::Restart { position, as_of, origin } => {
                info!(head = %position.head, "reading the log from its end");
                self.destination.restart(&position, as_of, origin);
            }
            Step::Tail { after } => return self.tail(after).await,
            Step::Late(range) => return self.late(range).await,
            Step::Passed(passed) => return self.passed(&passed).await,
            Step::SafetyPoll { known } => return self.poll(&known).await,
            Step::CheckErased => return self.check_erased().await,
            Step::Pause(pause) => return self.pause(pause).await,
            Step::Listen(until) => return self.listen(until).await,
            Step::PollEnded => return self.looked().await,
            Step::Replaced { head, origin } => self.report_replaced(head, origin),
            // Not awaited, because it may take as long as the commit of another session.
            Step::Ring => self.ringer.ring(),
            Step::Unannounced => {
                self.metrics.unannounced.inc();
            }
            step => return self.ask(step).await,
        }
        Ok(())
    }

    /// Carries out a step that is one short query.
    async fn ask(&mut self, step: Step<EventRow>) -> Result<(), ConnectionLost> {
        let (log, client) = (&self.log, self.listener.client());
        match step {
            Step::Snapshot => {
                let as_of = within("taking a snapshot", log.snapshot(client)).await?;
                self.reader.snapshot(as_of);
            }
            Step::Newest => {
                let newest = within("finding the newest event", log.newest(client)).await?;
                self.reader.newest(newest, Instant::now());
            }
            Step::Writers => {
                let writers =
                    within("querying the transactions that write events", log.writers(client))
                        .await?;
                let xids = writers.iter().map(|writer| writer.xid).collect();
                self.reader.writers(xids, Instant::now());
            }
            Step::Ended(xids) => {
                let ended = self.ended(&xids).await?;
                self.reader.ended(&ended, Instant::now());
            }
            Step::TryKeep => {
                let keeper = doorbell::try_keep(client);
                let keeper = within("trying to become the keeper of the bell", keeper).await?;
                self.reader.kept(keeper, Instant::now());
            }
            Step::TrySleep => {
                let asleep =
                    within("taking the bell to fall asleep", doorbell::try_sleep(client)).await?;
                self.reader.slept(asleep, Instant::now());
                self.note_doorbell();
            }
            Step::Wake => {
                within("releasing the bell to wake up", doorbell::wake(client)).await?;
                self.note_doorbell();
            }
            step => unreachable!("{step:?} is not a query"),
        }
        Ok(())
    }

    async fn ended(&self, xids: &[Xid]) -> Result<Vec<Xid>, ConnectionLost> {
        if xids.is_empty() {
            return Ok(Vec::new());
        }
        let ended = self.log.ended(self.listener.client(), xids);
        within("querying which transactions have ended", ended).await
    }

    async fn tail(&mut self, after: EventId) -> Result<(), ConnectionLost> {
        // This read sees the events that the notifications received so far were about.
        if self.listener.forget() {
            self.reader.rang();
        }
        let tail = self.log.tail(self.listener.client(), after, self.paging);
        let page = within("reading the tail of the log", tail).await?;
        if self.destination.wants_payloads() {
            self.paging.learn(&page);
        }
        self.reader.tail(page.rows, page.last, Instant::now());
        Ok(())
    }

    async fn late(&mut self, range: LateRange) -> Result<(), ConnectionLost> {
        let xids: Vec<Xid> = range.transactions.iter().map(|late| late.xid).collect();
        let (client, between) = (self.listener.client(), (range.after, range.upto));
        let read = self.log.late_rows(client, &xids, between, TAIL_PAGE);
        let (page, upto) = within("reading the events of a late transaction", read).await?;
        self.reader.late_rows(page.rows, upto, Instant::now());
        Ok(())
    }

    async fn passed(&mut self, passed: &[Passed]) -> Result<(), ConnectionLost> {
        let rows = self.log.in_passed(self.listener.client(), passed);
        let rows = within("auditing the ids that were passed over", rows).await?;
        self.reader.passed(rows);
        Ok(())
    }

    /// The safety poll: looks for what no notification announces, and proves that the connection works.
    async fn poll(&mut self, known: &[EventId]) -> Result<(), ConnectionLost> {
        let state = self.log.state(self.listener.client(), known);
        let state = within("the safety poll", state).await?;
        if state.standby {
            return Err(ConnectionLost::Standby);
        }
        self.note_state(&state);
        let polled = SafetyPollResult {
            drawn: state.drawn,
            others: state.others,
            found: state.found,
            ringing_waits: state.ringing_waits,
        };
        self.reader.safety_polled(&polled, Instant::now());
        self.note_doorbell();
        Ok(())
    }

    /// Waits for this long, or until a notification arrives.
    async fn pause(&mut self, pause: Duration) -> Result<(), ConnectionLost> {
        let heard = tokio::select! {
            heard = self.listener.heard() => Some(heard),
            () = self.timer.after(pause) => None,
        };
        self.woken(heard).await
    }

    /// Waits for a notification, or until the safety poll is due.
    async fn listen(&mut self, until: Instant) -> Result<(), ConnectionLost> {
        let until = tokio::time::Instant::from_std(until);
        let heard = timeout_at(until, self.listener.heard()).await.ok();
        self.woken(heard).await
    }

    async fn woken(&mut self, heard: Option<bool>) -> Result<(), ConnectionLost> {
        if heard == Some(false) {
            return Err(ConnectionLost::Closed);
        }
        self.note_start().await?;
        let heard = self.listener.forget() || heard.is_some();
        self.reader.woken(heard, Instant::now());
        Ok(())
    }
}
