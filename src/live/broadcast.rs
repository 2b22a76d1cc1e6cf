//! Encodes the rows that the tail reads, and publishes them to the hub and to the readers of streams.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{erased, hub::Hub, warm_up::warm_up};
use crate::{
    consumer::ConsumerId,
    event::EventId,
    item::frame::{self, Encoder, Frame},
    order::Position,
    read::streams::Streams,
    reader::{Origin, Publication},
    store::{
        event_log::{Changed, EventRow},
        history::History,
    },
    tail::Destination,
};

/// The tail's destination in a process that serves subscriptions.
pub(super) struct Broadcast {
    hub: Arc<Hub>,
    streams: Arc<Streams>,
    history: Arc<History>,
    encoder: Encoder,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Broadcast {
    pub(super) fn new(
        hub: Arc<Hub>,
        streams: Arc<Streams>,
        history: Arc<History>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self { hub, streams, history, encoder: Encoder::default(), tasks, shutdown }
    }

    fn frames(
        &mut self,
        publication: &Publication<EventRow>,
    ) -> Vec<(ConsumerId, Frame, Position)> {
        let mut frames = Vec::with_capacity(publication.rows.len());
        for row in &publication.rows {
            if let Some(consumer) = row.subscriber() {
                let data = frame::data(row.amends(), row.payload());
                let frame = self.encoder.encode(row, row.kind(), &data);
                frames.push((consumer, frame, publication.position_after(row)));
            }
        }
        frames
    }
}

impl Destination for Broadcast {
    fn wants_payloads(&self) -> bool {
        true
    }

    fn restart(&mut self, position: &Position, as_of: String, origin: EventId) {
        let epoch = self.hub.restart_after(origin, position, as_of);
        self.streams.notify_all();
        let (history, hub) = (Arc::clone(&self.history), Arc::clone(&self.hub));
        let warm_up = warm_up(history, hub, position.head, epoch);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move { shutdown.run_until_cancelled(warm_up).await });
    }

    fn publish(&mut self, publication: &Publication<EventRow>) {
        let frames = self.frames(publication);
        let Publication { rows, position, origin } = publication;
        self.hub.publish(|recent| {
            for (consumer, frame, after) in frames {
                recent.publish(&consumer, frame, &after, *origin == Origin::Unexpected);
            }
            recent.advance_to(position);
        });
        self.streams.notify(rows.iter().filter_map(EventRow::stream));
    }

    fn clean_as_of(&self) -> Option<String> {
        Some(self.hub.state().clean_as_of.clone())
    }

    fn changed(&mut self, changed: Changed) {
        erased::invalidate(&self.hub, changed);
    }
}
