//! Notifies the readers of a stream of new events in that stream.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use super::waiter::Waiter;
use crate::{crash::Lock, event::name::StreamName};

/// The readers of each stream.
#[derive(Debug, Default)]
pub struct Streams(Lock<Readers>);

#[derive(Debug, Default)]
struct Readers {
    by_stream: HashMap<StreamName, HashMap<u64, Arc<Waiter>>>,
    last_number: u64,
}

impl Streams {
    /// Registers a reader of this stream.
    pub fn register(self: &Arc<Self>, stream: StreamName) -> StreamRegistration {
        let waiter = Arc::default();
        let mut readers = self.readers();
        readers.last_number += 1;
        let number = readers.last_number;
        readers.by_stream.entry(stream.clone()).or_default().insert(number, Arc::clone(&waiter));
        StreamRegistration { streams: Arc::clone(self), stream, number, waiter }
    }

    /// Notifies the readers of these streams.
    pub fn notify<'a>(&self, streams: impl Iterator<Item = &'a str>) {
        let readers = self.readers();
        if readers.by_stream.is_empty() {
            return;
        }
        let touched = streams.filter_map(|name| readers.by_stream.get(name));
        touched.flat_map(HashMap::values).for_each(|waiter| waiter.notify());
    }

    /// Notifies every reader.
    pub fn notify_all(&self) {
        let readers = self.readers();
        readers.by_stream.values().flat_map(HashMap::values).for_each(|waiter| waiter.notify());
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.0.lock()
    }
}

/// The registration of a reader of one stream. Dropping it ends the notifications.
#[derive(Debug)]
pub struct StreamRegistration {
    streams: Arc<Streams>,
    stream: StreamName,
    number: u64,
    waiter: Arc<Waiter>,
}

impl StreamRegistration {
    /// Waits until there may be new events: see [`Waiter::notified`].
    pub async fn woken(&self) {
        self.waiter.notified().await;
    }
}

impl Drop for StreamRegistration {
    fn drop(&mut self) {
        let by_stream = &mut self.streams.readers().by_stream;
        if let Some(readers) = by_stream.get_mut(&self.stream) {
            readers.remove(&self.number);
            if readers.is_empty() {
                by_stream.remove(&self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_registration_leaves_nothing_behind() {
        let streams = Arc::new(Streams::default());
        drop(streams.register("s".parse().unwrap()));
        assert!(streams.readers().by_stream.is_empty());
    }
}
