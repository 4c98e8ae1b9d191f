//! Time as a seam: wall clock for timestamps and retention, monotonic clock for every timeout.
//!
//! The two are separate on purpose: an operator may set the wall clock back by a year and no
//! checkpoint, timeout or lease may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall clock and monotonic time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch. May jump either way.
    fn now_ms(&self) -> i64;
    /// Time since an arbitrary origin. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    pub fn new() -> SystemClock {
        SystemClock {
            origin: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        // A machine whose clock stands before 1970 gets the epoch: no timestamp is negative.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Wall time that goes on steadily from where it was when this began, whatever becomes of the wall
/// clock: for whatever lasts (sessions, silent producers) and yet needs times that outlive a
/// process.
#[derive(Clone)]
pub struct Steady {
    clock: Arc<dyn Clock>,
    wall_ms: i64,
    began: Duration,
}

impl Steady {
    /// Goes on from what the wall clock says now.
    pub fn new(clock: Arc<dyn Clock>) -> Steady {
        Steady {
            wall_ms: clock.now_ms(),
            began: clock.monotonic(),
            clock,
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        let passed = self.clock.monotonic().saturating_sub(self.began);
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        self.wall_ms.saturating_add(passed_ms)
    }

    /// Takes back time in which nobody could be heard.
    pub fn hold(&mut self, stall: Duration) {
        self.began = self.began.saturating_add(stall);
    }
}

/// A clock that stands still until it is told to move. For tests and simulation.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    monotonic_ns: AtomicU64,
}

impl ManualClock {
    /// A clock whose wall time is `now_ms` and whose monotonic time is zero.
    pub fn at(now_ms: i64) -> ManualClock {
        ManualClock {
            now_ms: AtomicI64::new(now_ms),
            monotonic_ns: AtomicU64::new(0),
        }
    }

    /// Lets `by` pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_ns.fetch_add(ns, Ordering::SeqCst);
    }

    /// Sets the wall clock, as an operator or NTP would; monotonic time does not notice.
    pub fn set_wall(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_time_moves_only_when_told() {
        let clock = ManualClock::at(1_000);
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_000, Duration::ZERO));
        clock.advance(Duration::from_millis(250));
        assert_eq!(
            (clock.now_ms(), clock.monotonic()),
            (1_250, Duration::from_millis(250))
        );
        clock.set_wall(7);
        assert_eq!(
            (clock.now_ms(), clock.monotonic()),
            (7, Duration::from_millis(250))
        );
    }

    #[test]
    fn steady_time_follows_no_jump_and_can_be_held() {
        let clock = Arc::new(ManualClock::at(1_000));
        let mut steady = Steady::new(clock.clone());
        clock.advance(Duration::from_secs(5));
        clock.set_wall(9_000_000_000_000);
        assert_eq!(steady.now_ms(), 6_000);
        clock.set_wall(0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(steady.now_ms(), 7_000);
        steady.hold(Duration::from_secs(2));
        assert_eq!(steady.now_ms(), 5_000);
    }

    #[test]
    fn system_time_is_after_2020_and_does_not_go_back() {
        let clock = SystemClock::new();
        assert!(clock.now_ms() > 1_577_836_800_000);
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
