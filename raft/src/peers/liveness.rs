//! Whether another node is there, from the pings that come back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::network::Hearing;

/// See the module. A node is alive while the last ping that came back was *sent* lately: that
/// counts the way there and the way back, and a pause of either process.
pub(super) struct Liveness {
    start: Instant,
    silence: Duration,
    /// When the last ping that came back was sent, in microseconds since `start`; 0: never.
    heard_at: AtomicU64,
    /// When the first ping of an unbroken series was sent, likewise.
    since: AtomicU64,
    round_trip: AtomicU64,
    session: AtomicU64,
    connection: AtomicU64,
    /// Nobody listens there any more.
    gone: AtomicBool,
    full: AtomicBool,
}

impl Liveness {
    pub(super) fn new(silence: Duration) -> Liveness {
        Liveness {
            start: Instant::now(),
            silence,
            heard_at: AtomicU64::new(0),
            since: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            session: AtomicU64::new(0),
            connection: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            full: AtomicBool::new(false),
        }
    }

    /// The handshake of the control lane counts as a first ping.
    pub(super) fn connected(&self, session: u64, dialled: Instant) {
        self.session.store(session, Ordering::Release);
        self.connection.fetch_add(1, Ordering::AcqRel);
        self.gone.store(false, Ordering::Release);
        // Whoever listens there may be another process than before.
        self.since.store(self.at(dialled), Ordering::Release);
        self.heard(dialled);
    }

    fn at(&self, time: Instant) -> u64 {
        micros(time.saturating_duration_since(self.start)).max(1)
    }

    /// A ping came back that was sent at `sent`.
    pub(super) fn heard(&self, sent: Instant) {
        let at = self.at(sent);
        let before = self.heard_at.fetch_max(at, Ordering::AcqRel);
        // The other end counts on its own: it may have been silent there for somewhat longer.
        let broken = self.silence - self.silence / 4;
        if at.saturating_sub(before) > micros(broken) {
            self.since.store(at, Ordering::Release);
        }
        self.round_trip
            .store(micros(sent.elapsed()).max(1), Ordering::Relaxed);
    }

    /// The node says whether its disk is full.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    /// The other machine says that nobody listens: the process has ended.
    pub(super) fn refused(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn silent_for(&self) -> Duration {
        let heard_at = Duration::from_micros(self.heard_at.load(Ordering::Acquire));
        self.start.elapsed().saturating_sub(heard_at)
    }

    pub(super) fn hearing(&self) -> Hearing {
        let heard = self.heard_at.load(Ordering::Acquire) > 0;
        let gone = self.gone.load(Ordering::Acquire);
        Hearing {
            alive: heard && !gone && self.silent_for() < self.silence,
            session: self.session.load(Ordering::Acquire),
            connection: self.connection.load(Ordering::Acquire),
            since: match self.since.load(Ordering::Acquire) {
                0 => None,
                since => Some(self.start + Duration::from_micros(since)),
            },
            full: self.full.load(Ordering::Acquire),
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("an uptime of less than 500,000 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_when_the_ping_was_sent() {
        let liveness = Liveness::new(Duration::from_millis(50));
        assert!(!liveness.hearing().alive, "never heard of");
        let sent = Instant::now();
        liveness.connected(7, sent);
        assert!(liveness.hearing().alive);
        std::thread::sleep(Duration::from_millis(60));
        assert!(!liveness.hearing().alive);
        // What comes back late says nothing of now.
        liveness.heard(sent);
        assert!(!liveness.hearing().alive);
        liveness.heard(Instant::now());
        assert!(liveness.hearing().alive);
    }

    #[test]
    fn a_break_begins_a_new_series() {
        let silence = Duration::from_millis(400);
        let liveness = Liveness::new(silence);
        assert_eq!(liveness.hearing().since, None);
        let began = Instant::now();
        liveness.connected(7, began);
        let first = liveness.hearing().since;
        liveness.heard(began + silence / 2);
        assert_eq!(liveness.hearing().since, first, "no break");
        // A process that stood still has sent no pings meanwhile.
        liveness.heard(began + silence / 2 + silence);
        let second = liveness.hearing().since;
        assert!(second > first, "{second:?} {first:?}");
        liveness.connected(7, began + silence * 2);
        assert!(liveness.hearing().since > second, "another connection");
    }

    #[test]
    fn nobody_listening_is_gone_at_once() {
        let liveness = Liveness::new(Duration::from_secs(5));
        liveness.connected(7, Instant::now());
        liveness.refused();
        assert!(!liveness.hearing().alive);
        liveness.connected(8, Instant::now());
        let hearing = liveness.hearing();
        assert!(hearing.alive);
        assert_eq!((hearing.session, hearing.connection), (8, 2));
    }
}
