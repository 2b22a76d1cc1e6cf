//! Puts rows into frames, and publishes them.

use tracing::error;

use super::Session;
use crate::{
    consumer::ConsumerId,
    event::Logged,
    gateway::frame::{self, Frame},
    order::Position,
    reader::{Origin, Publication},
    store::event_log::EventRow,
};

impl Session<'_> {
    /// Publishes rows, and moves the recent events up to the position behind them.
    pub(super) fn publish(&mut self, publication: &Publication<EventRow>) {
        self.count(publication);
        let Publication { rows, position, origin } = publication;
        if !self.tailer.settings.streams {
            return self.tailer.hub.publish(|recent| recent.moved_to(position));
        }
        let mut frames: Vec<(ConsumerId, Frame, Position)> = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(consumer) = row.subscriber() {
                let data = frame::data(row.amends(), row.payload());
                let frame = self.encoder.encode(row, row.kind(), &data);
                frames.push((consumer, frame, publication.position_after(row)));
            }
        }
        self.tailer.hub.publish(|recent| {
            for (consumer, frame, after) in frames {
                recent.publish(&consumer, frame, &after, *origin == Origin::Found);
            }
            recent.moved_to(position);
        });
        self.tailer.hub.tell_streams(rows.iter().filter_map(EventRow::stream));
    }

    fn count(&self, Publication { rows, position, origin }: &Publication<EventRow>) {
        let metrics = &self.tailer.metrics;
        for age in rows.iter().filter_map(EventRow::age) {
            metrics.commit_to_delivery.observe(age.as_secs_f64());
        }
        match origin {
            Origin::Tail => {
                metrics.events_read.inc_by(rows.len() as u64);
            }
            Origin::Late => {}
            Origin::Found => rows.iter().for_each(|row| self.say_found(row)),
        }
        metrics.head.set(position.head.get());
        metrics.late.set(position.late.len().try_into().unwrap_or(i64::MAX));
    }

    fn say_found(&self, row: &EventRow) {
        self.tailer.metrics.found_behind.inc();
        error!(
            id = %row.id(),
            "an event turned up behind the head: it was written past the trigger; \
             it is delivered to those who are connected, out of order. \
             `event-piper doctor` tells what to mend"
        );
    }
}
