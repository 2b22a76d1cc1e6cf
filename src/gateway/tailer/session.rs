//! One listening connection at work: when to look at the log, and what to do between looks.

mod erased;
mod look;

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::try_join;
use tokio::time::timeout_at;
use tracing::{error, info, warn};

use self::look::Look;
use super::{
    Lost, Tailer,
    alarm::Alarm,
    auditor::{self, Auditor},
    vigil::{Vigil, Wait},
    within,
};
use crate::{
    event::{EventId, Logged, Xid},
    gateway::frame::Encoder,
    metrics::State,
    order::{Order, Start},
    postgres::{
        doorbell,
        event_log::{EventLog, Paging, Writer},
        listener::Listener,
    },
};

/// A connection that listens and reads. Its order belongs to the tailer, and outlives it.
pub(super) struct Session<'a> {
    tailer: &'a Tailer,
    listener: Listener,
    log: EventLog,
    vigil: Vigil,
    auditor: Auditor,
    encoder: Encoder,
    paging: Paging,
    alarm: Alarm,
    next_poll: Instant,
    /// Other readers are connected that this one wakes, when it keeps the bell.
    others: bool,
    /// The greatest id that was seen, delivered or not.
    seen: EventId,
    held: Option<Held>,
    /// The head before a hole that was given a moment to fill by itself.
    patient_at: Option<EventId>,
}

/// A hole that delivery is being held for.
struct Held {
    since: Instant,
    said: bool,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// The bell.
    Bell,
    /// It looks for itself.
    Itself,
    /// It is time for the safety poll.
    Poll,
}

/// The safety poll finds what no bell announced, and proves that the connection lives.
const SAFETY_POLL: Duration = Duration::from_secs(1);

/// A notification that was sent with a row arrives this soon after the row is visible.
const BELL_ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Delivery that is held for longer than this is worth a line in the log.
const LONG_HOLD: Duration = Duration::from_secs(1);

impl<'a> Session<'a> {
    /// Connects and listens: what comes after this is heard.
    pub(super) async fn open(tailer: &'a Tailer) -> Result<Self, Lost> {
        let server = tailer.server.named("event-piper listener");
        let listener = within("connecting to PostgreSQL", Listener::connect(&server)).await?;
        within("beginning to listen", listener.introduce()).await?;
        let client = listener.client();
        let prepare = async { try_join!(EventLog::prepare(client), doorbell::try_keep(client)) };
        let (log, keeper) = within("preparing to read the log", Box::pin(prepare)).await?;
        let now = Instant::now();
        Ok(Self {
            tailer,
            listener,
            log,
            vigil: Vigil::new(keeper, now),
            auditor: Auditor::default(),
            encoder: Encoder::default(),
            paging: Paging::new(look::PAGE),
            alarm: Alarm::new(),
            next_poll: now,
            others: true,
            seen: EventId::ZERO,
            held: None,
            patient_at: None,
        })
    }

    /// Follows the log until the connection is lost.
    pub(super) async fn follow(&mut self, kept: &mut Option<Order>) -> Result<Infallible, Lost> {
        let order = match kept {
            Some(order) => order,
            none => none.insert(self.start().await?),
        };
        self.seen = order.position().head;
        let mut woken = Woken::Itself;
        loop {
            self.listener.forget();
            if Instant::now() >= self.next_poll {
                self.poll(order).await?;
            }
            let seen = self.seen;
            let look = self.look(order).await?;
            self.tailer.health.moving(Instant::now());
            if woken == Woken::Poll && self.seen > seen {
                self.found_unannounced().await?;
            }
            woken = self.wait(look, order).await?;
            if woken == Woken::Bell && self.vigil.bell(Instant::now()) {
                self.wake_up().await?;
            }
        }
    }

    /// Begins behind all that is visible, once the writers that are at it have ended, or the
    /// hold has run out.
    async fn start(&self) -> Result<Order, Lost> {
        let (log, client) = (&self.log, self.listener.client());
        let as_of = within("taking a snapshot", log.snapshot(client)).await?;
        let head = within("finding the newest event", log.newest(client)).await?;
        let writers = self.writers().await?;
        let (hold, begun) = (self.tailer.settings.hold, Instant::now());
        let xids = writers.iter().map(|writer| writer.xid).collect();
        let mut start = Start::after(head, xids, hold, begun);
        loop {
            let open = self.still_open(&start.hole().open).await?;
            let now = Instant::now();
            if now - begun > LONG_HOLD {
                let by = self.who_writes(&open).await?;
                self.tailer.health.waiting(waiting_for(open.len(), &by));
            }
            if let Some(order) = start.settle(open, now) {
                info!(%head, "reading the log from its end");
                self.tailer.started(order.position(), as_of);
                return Ok(order);
            }
            let pause = Duration::from_millis(if now - begun > LONG_HOLD { 100 } else { 1 });
            self.alarm.after(pause).await;
        }
    }

    async fn wait(&mut self, look: Look, order: &Order) -> Result<Woken, Lost> {
        let now = Instant::now();
        match look {
            Look::More => return Ok(Woken::Itself),
            Look::Held => {
                let pause = self.vigil.restless(now).min(order.hold_left(now));
                return self.pause(pause).await;
            }
            Look::Whole => {}
        }
        match self.vigil.wait(now) {
            Wait::Look(pause) => self.pause(pause).await,
            Wait::Listen => self.listen().await,
            Wait::FallAsleep => self.fall_asleep(now).await,
        }
    }

    /// Waits a moment, or until the bell rings.
    async fn pause(&mut self, pause: Duration) -> Result<Woken, Lost> {
        let heard = tokio::select! {
            heard = self.listener.heard() => Some(heard),
            () = self.alarm.after(pause) => None,
        };
        self.woken(heard, Woken::Itself)
    }

    /// Waits for the bell, or the safety poll.
    async fn listen(&mut self) -> Result<Woken, Lost> {
        let poll = tokio::time::Instant::from_std(self.next_poll);
        let heard = timeout_at(poll, self.listener.heard()).await;
        self.woken(heard.ok(), Woken::Poll)
    }

    fn woken(&mut self, heard: Option<bool>, otherwise: Woken) -> Result<Woken, Lost> {
        match heard {
            Some(true) => {
                self.vigil.news(Instant::now());
                Ok(Woken::Bell)
            }
            Some(false) => Err(Lost::Closed),
            None => Ok(otherwise),
        }
    }

    async fn fall_asleep(&mut self, now: Instant) -> Result<Woken, Lost> {
        let bell = doorbell::try_sleep(self.listener.client());
        self.vigil.sleep(within("falling asleep", bell).await?);
        self.say_doorbell();
        if self.vigil.is_asleep() {
            return Ok(Woken::Itself);
        }
        self.pause(self.vigil.restless(now)).await
    }

    async fn wake_up(&mut self) -> Result<(), Lost> {
        if self.vigil.is_asleep() {
            within("waking up", doorbell::wake(self.listener.client())).await?;
            self.vigil.sleep(false);
            self.say_doorbell();
        }
        Ok(())
    }

    /// Looks at what no bell announces, and proves that the connection lives.
    async fn poll(&mut self, order: &mut Order) -> Result<(), Lost> {
        self.next_poll = Instant::now() + SAFETY_POLL;
        let state = self.log.state(self.listener.client());
        let state = within("the safety poll", state).await?;
        if state.standby {
            return Err(Lost::Standby);
        }
        self.others = state.others;
        self.tailer.metrics.notification_queue.set(state.notification_queue);
        if let Some(drawn) = state.drawn {
            self.tailer.metrics.lag.set((drawn.get() - order.position().head.get()).max(0));
            if drawn < order.position().head {
                return self.begin_anew(order, drawn).await;
            }
        }
        if !self.vigil.keeper {
            let bell = doorbell::try_keep(self.listener.client());
            self.vigil.keeper = within("trying to keep the bell", bell).await?;
        }
        self.say_doorbell();
        self.forget_erased().await?;
        self.audit(order).await
    }

    /// The safety poll found events. If the bell is not just about to ring for them, nobody
    /// has announced them, and this reader looks for itself for a while.
    async fn found_unannounced(&mut self) -> Result<(), Lost> {
        if self.pause(BELL_ON_ITS_WAY).await? == Woken::Bell {
            return Ok(());
        }
        self.tailer.metrics.unannounced.inc();
        self.vigil.unannounced(Instant::now());
        self.wake_up().await
    }

    async fn audit(&mut self, order: &Order) -> Result<(), Lost> {
        let due = self.auditor.take_due(Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let (log, client) = (&self.log, self.listener.client());
        let rows = within("auditing what was passed over", log.in_passed(client, &due)).await?;
        let found = auditor::surprises(&due, &rows);
        for row in &found {
            self.tailer.metrics.found_behind.inc();
            error!(
                id = %row.id(),
                "an event turned up behind the head: it was written past the trigger; \
                 it is delivered to those who are connected, out of order. \
                 `event-piper doctor` tells what to mend"
            );
        }
        if !found.is_empty() {
            let position = order.position().clone();
            self.publish(&found, |_| position.clone(), &position, true);
        }
        Ok(())
    }

    /// The log ends before the head: it is another one, or an older one.
    async fn begin_anew(&mut self, order: &mut Order, drawn: EventId) -> Result<(), Lost> {
        error!(
            head = %order.position().head, %drawn,
            "the log has gone back behind what was delivered: truncated, or restored from a \
             backup; clients are told, and delivery goes on from its end"
        );
        self.tailer.metrics.resets.inc();
        self.auditor.forget();
        *order = self.start().await?;
        self.seen = order.position().head;
        Ok(())
    }

    async fn writers(&self) -> Result<Vec<Writer>, Lost> {
        let (log, client) = (&self.log, self.listener.client());
        within("asking who writes", log.writers(client)).await
    }

    async fn still_open(&self, asked: &[Xid]) -> Result<Vec<Xid>, Lost> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let (log, client) = (&self.log, self.listener.client());
        let ended = within("asking who has ended", log.ended(client, asked)).await?;
        Ok(asked.iter().copied().filter(|xid| !ended.contains(xid)).collect())
    }

    async fn note_hold(&mut self, order: &Order) -> Result<(), Lost> {
        let metrics = &self.tailer.metrics;
        match (order.hole(), &mut self.held) {
            (Some(hole), None) => {
                metrics.holds.inc();
                self.held = Some(Held { since: hole.since, said: false });
            }
            (Some(hole), Some(held)) => {
                let lasted = held.since.elapsed();
                metrics.held.set(lasted.as_secs_f64());
                if lasted > LONG_HOLD && !held.said {
                    held.said = true;
                    let by = self.who_writes(&hole.open).await?.join(", ");
                    warn!(transactions = ?hole.open, backends = by, "delivery is held by open transactions");
                }
            }
            (None, Some(held)) => {
                metrics.held_total.inc_by(held.since.elapsed().as_secs_f64());
                metrics.held.set(0.0);
                self.held = None;
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// The backends of open transactions, as people know them.
    async fn who_writes(&self, open: &[Xid]) -> Result<Vec<String>, Lost> {
        let writers = self.writers().await?;
        let open: Vec<_> = writers.iter().filter(|writer| open.contains(&writer.xid)).collect();
        let backends = EventLog::backends(self.listener.client(), &open);
        within("asking who the writers are", backends).await
    }

    fn say_doorbell(&self) {
        let (keeper, asleep) = (self.vigil.keeper, self.vigil.is_asleep());
        let states =
            [("asleep", keeper && asleep), ("awake", keeper && !asleep), ("following", !keeper)];
        for (state, holds) in states {
            self.tailer.metrics.doorbell.get_or_create(&State { state }).set(holds.into());
        }
    }
}

fn waiting_for(open: usize, backends: &[String]) -> String {
    let backends = backends.join(", ");
    format!(
        "starting in strict order: waiting for {open} open transactions that write events \
         (backends {backends})"
    )
}
