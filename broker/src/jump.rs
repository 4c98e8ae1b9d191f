//! Whether the wall clock may be believed (R17).
//!
//! The wall clock decides which records are old enough to go: for retention, for the cleaner's
//! lags and for tombstones. So a clock that jumped decides nothing: while wall and monotonic time
//! disagree by more than an hour since the start, both pause. Everything that only lasts (sessions,
//! timeouts, silent producers) goes by [`klamm_storage::Steady`] time and does not notice.
//!
//! Deliberately absent: a clock that is wrong from the start on. What the machine says when the
//! broker starts is believed, as in Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use klamm_storage::{Clock, Steady};
use tracing::warn;

/// How far wall and monotonic time may drift apart.
const MAX_JUMP_MS: i64 = 3_600_000;

/// Compares the wall clock with monotonic time since the start.
pub struct JumpGuard {
    clock: Arc<dyn Clock>,
    steady: Steady,
    told: AtomicBool,
}

impl JumpGuard {
    /// Believes what `clock` says now.
    pub fn new(clock: Arc<dyn Clock>) -> JumpGuard {
        JumpGuard {
            steady: Steady::new(clock.clone()),
            clock,
            told: AtomicBool::new(false),
        }
    }

    /// How far the wall clock is from where it would be without a jump, in ms.
    pub fn jumped_ms(&self) -> i64 {
        self.clock.now_ms().saturating_sub(self.steady.now_ms())
    }

    /// The wall clock, unless it jumped. Says so once when it did, and when it is back.
    pub fn believed_ms(&self) -> Option<i64> {
        let jumped_ms = self.jumped_ms();
        let jumped = jumped_ms.abs() > MAX_JUMP_MS;
        if self.told.swap(jumped, Ordering::Relaxed) != jumped {
            warn!(
                jumped_ms,
                paused = jumped,
                "the wall clock jumped: retention and compaction pause until it is back or the \
                 broker restarts"
            );
        }
        (!jumped).then(|| self.clock.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use klamm_storage::ManualClock;

    use super::{JumpGuard, MAX_JUMP_MS};

    const NOW: i64 = 1_700_000_000_000;
    const YEAR_MS: i64 = 365 * 24 * 3_600_000;

    #[test]
    fn a_jump_of_the_wall_clock_is_seen_and_its_return_too() {
        let clock = Arc::new(ManualClock::at(NOW));
        let guard = JumpGuard::new(clock.clone());
        clock.advance(Duration::from_secs(7200));
        assert_eq!(guard.jumped_ms(), 0);
        assert_eq!(guard.believed_ms(), Some(NOW + 7_200_000));
        for jump in [2 * MAX_JUMP_MS, 5 * YEAR_MS, -5 * YEAR_MS] {
            clock.set_wall(NOW + 7_200_000 + jump);
            assert_eq!((guard.jumped_ms(), guard.believed_ms()), (jump, None));
        }
        clock.set_wall(NOW + 7_200_000 + MAX_JUMP_MS);
        assert_eq!(guard.believed_ms(), Some(NOW + 7_200_000 + MAX_JUMP_MS));
    }
}
