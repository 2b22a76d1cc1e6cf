//! When to look at the log next: awake and looking for itself, or asleep until the bell.

use std::time::{Duration, Instant};

/// A notification that was sent with a row arrives this soon after the row is visible.
pub(super) const BELL_ON_ITS_WAY: Duration = Duration::from_millis(50);

/// Whoever waits long for a transaction can wait a little longer: the database is asked less and
/// less often, and what is waited for comes at most a tenth later.
pub(super) fn growing_pause(waited: Duration) -> Duration {
    (waited / 10).clamp(Duration::from_millis(1), Duration::from_millis(100))
}

/// What the reader knows of its own wakefulness; it decides how to wait.
#[derive(Debug)]
pub(super) struct Vigil {
    /// This reader keeps the bell: only the keeper may sleep on it.
    pub(super) keeper: bool,
    /// The bell is held: writers ring from now on.
    asleep: bool,
    /// It has looked at the log since it fell asleep: who came before that did not ring.
    looked: bool,
    last_news: Instant,
    last_bell: Option<Instant>,
    last_read: Instant,
    pace: Pace,
    /// Looks for itself until then, keeper or not.
    wary_until: Instant,
}

/// How fast the log grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Less than a row a millisecond.
    Calm,
    /// A stream, of which a look finds a row or two.
    Steady,
    /// A stream of which it finds more.
    Brisk,
    /// Many writers are at it.
    Busy,
}

/// What to do until the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Look again after this time, or when the bell rings.
    Look(Duration),
    /// Try to take the bell; then look once more, and listen.
    FallAsleep,
    /// Wait for the bell.
    Listen,
}

impl Vigil {
    /// An awake reader looks this often. A look takes the gateway 50 us and PostgreSQL 30, whatever
    /// it finds; and one writer alone, on a fast disk, loses more commits the more often somebody
    /// looks.
    const AWAKE: Duration = Duration::from_millis(1);
    /// And this often where each look finds several: half of an event's time on its way is the
    /// wait for the next look, and with several writers at it most looks end at one that is just
    /// about to commit, so that the events behind it wait for the look after that.
    const BRISK: Duration = Duration::from_micros(500);
    /// Where writers want the processors for themselves, two looks in one find as much.
    const BUSY: Duration = Duration::from_millis(2);
    /// A keeper that has seen nothing new for this long tries to sleep. A ring costs the
    /// writer, so a steady stream should keep the reader awake; but asleep it hears of an
    /// event sooner than awake, between two looks, and this many rings a second cost nobody
    /// anything. So it is short: 50 events a second find it asleep (median 0.4 ms to the
    /// client, in place of 1.5 ms).
    const QUIET: Duration = Duration::from_millis(8);
    /// A keeper that cannot sleep, since a writer is in flight that did not ring, looks this
    /// often once it is quiet.
    const RESTLESS: Duration = Duration::from_millis(2);
    /// A lone bell is answered without waking up. Two within this time are the beginning of
    /// a stream; then the writers should be spared.
    const STREAM: Duration = Duration::from_millis(8);
    /// The keeper learns of a new reader with its next safety poll. Until it surely has, the
    /// new one looks for itself.
    const NEW: Duration = Duration::from_secs(2);
    /// Events came that no bell announced: the keeper may be frozen, or a writer has turned
    /// the bell off. For so long this reader trusts only itself.
    const UNANNOUNCED: Duration = Duration::from_secs(5);

    pub(super) fn new(keeper: bool, now: Instant) -> Self {
        let wary_until = if keeper { now } else { now + Self::NEW };
        Self {
            keeper,
            asleep: false,
            looked: false,
            last_news: now,
            last_bell: None,
            last_read: now,
            pace: Pace::Calm,
            wary_until,
        }
    }

    /// Something new was seen in the log.
    pub(super) fn news(&mut self, now: Instant) {
        self.last_news = now;
    }

    /// Whether the bell is held.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Takes the bell, or gives it back. Who has just fallen asleep looks once more before it
    /// listens: whoever wrote before it held the bell did not ring.
    pub(super) fn sleep(&mut self, asleep: bool) {
        self.asleep = asleep;
        self.looked = false;
    }

    /// So many rows came with the look that ends now.
    pub(super) fn rows(&mut self, count: usize, now: Instant) {
        self.looked = true;
        let since = now.saturating_duration_since(self.last_read).as_micros().max(1);
        self.last_read = now;
        self.pace = match count as u128 * 1000 / since {
            0 => Pace::Calm,
            1..3 => Pace::Steady,
            3..8 => Pace::Brisk,
            _ => Pace::Busy,
        };
    }

    /// So many writers are at it that most holes fill by themselves within a moment.
    pub(super) fn patient(&self) -> bool {
        self.pace != Pace::Calm
    }

    /// The bell rang: whether it is time to wake up.
    pub(super) fn bell(&mut self, now: Instant) -> bool {
        let last = self.last_bell.replace(now);
        last.is_some_and(|last| now.saturating_duration_since(last) < Self::STREAM)
    }

    /// Something new was seen, and neither a bell nor an own look had announced it; or the bell
    /// cannot be rung.
    pub(super) fn unannounced(&mut self, now: Instant) {
        self.wary_until = now + Self::UNANNOUNCED;
    }

    /// How to wait, when all that is visible has been read and no hole is waited for.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        let quiet = now.saturating_duration_since(self.last_news) >= Self::QUIET;
        match (self.keeper, self.asleep) {
            (true, true) if self.looked => Wait::Listen,
            (true, true) => Wait::Look(Duration::ZERO),
            _ if !quiet || now < self.wary_until => Wait::Look(self.restless(now)),
            (true, false) => Wait::FallAsleep,
            (false, _) => Wait::Listen,
        }
    }

    /// How long to wait at a hole, or when sleep was refused.
    pub(super) fn restless(&self, now: Instant) -> Duration {
        let quiet = now.saturating_duration_since(self.last_news) >= Self::QUIET;
        match self.pace {
            _ if quiet => Self::RESTLESS,
            Pace::Calm | Pace::Steady => Self::AWAKE,
            Pace::Brisk => Self::BRISK,
            Pace::Busy => Self::BUSY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_sleeps_when_it_is_quiet_and_another_listens() {
        let start = Instant::now();
        let keeper = Vigil::new(true, start);
        assert_eq!(keeper.wait(start), Wait::Look(Vigil::AWAKE));
        assert_eq!(keeper.wait(start + Vigil::QUIET), Wait::FallAsleep);

        let other = Vigil::new(false, start);
        assert_eq!(other.wait(start + Vigil::QUIET), Wait::Look(Vigil::RESTLESS), "still new");
        assert_eq!(other.wait(start + Vigil::NEW), Wait::Listen);
    }

    #[test]
    fn who_has_just_fallen_asleep_looks_once_more_before_it_listens() {
        let start = Instant::now();
        let mut keeper = Vigil::new(true, start);
        for night in 1..3 {
            let quiet = start + Vigil::QUIET * night;
            keeper.rows(0, quiet);
            assert_eq!(keeper.wait(quiet), Wait::FallAsleep);
            keeper.sleep(true);
            assert_eq!(keeper.wait(quiet), Wait::Look(Duration::ZERO), "night {night}");
            keeper.rows(0, quiet);
            assert_eq!(keeper.wait(quiet), Wait::Listen);
            keeper.sleep(false);
        }
    }

    #[test]
    fn where_many_write_a_hole_is_given_a_moment() {
        let start = Instant::now();
        let mut vigil = Vigil::new(true, start);
        assert!(!vigil.patient());
        vigil.rows(10, start + Duration::from_millis(1));
        assert!(vigil.patient(), "ten rows a millisecond");
        vigil.rows(1, start + Duration::from_millis(3));
        assert!(!vigil.patient());
    }

    #[test]
    fn a_lone_bell_does_not_wake_and_a_stream_does() {
        let start = Instant::now();
        let mut keeper = Vigil::new(true, start);
        assert!(!keeper.bell(start));
        assert!(!keeper.bell(start + Vigil::STREAM));
        assert!(keeper.bell(start + Vigil::STREAM + Vigil::AWAKE));
    }

    #[test]
    fn who_was_not_woken_looks_for_itself_for_a_while() {
        let start = Instant::now();
        let mut other = Vigil::new(false, start);
        let later = start + Duration::from_mins(1);
        other.unannounced(later);
        assert_eq!(other.wait(later), Wait::Look(Vigil::RESTLESS));
        assert_eq!(other.wait(later + Vigil::UNANNOUNCED), Wait::Listen);
    }
}
