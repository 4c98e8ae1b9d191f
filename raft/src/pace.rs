//! A rate that all who send share.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Spaces bytes in time, whoever sends them. A change holds at once, also for those who wait.
pub(crate) struct Pace {
    /// Bytes per second; 0 for as fast as it goes.
    rate: watch::Sender<u64>,
    /// When the next bytes may go.
    free_at: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            rate: watch::Sender::new(0),
            free_at: Mutex::new(None),
        }
    }
}

impl Pace {
    pub(crate) fn set(&self, bytes_per_second: u64) {
        self.rate.send_if_modified(|rate| {
            let is_new = *rate != bytes_per_second;
            if is_new {
                *rate = bytes_per_second;
                // Who waits takes a place by the new rate.
                *self.free_at.lock() = None;
            }
            is_new
        });
    }

    /// Waits until `bytes` may go.
    pub(crate) async fn take(&self, bytes: usize) {
        let mut changes = self.rate.subscribe();
        loop {
            changes.mark_unchanged();
            let Some(at) = self.place(Instant::now(), bytes) else {
                return;
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(at) => return,
                // The sender is in `self`.
                _ = changes.changed() => {}
            }
        }
    }

    /// When `bytes` may go that want to now; the next ones go behind them.
    fn place(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = *self.rate.borrow();
        if rate == 0 {
            return None;
        }
        let mut free_at = self.free_at.lock();
        let at = free_at.map_or(now, |at| at.max(now));
        // A year is for ever; more could not be told as a moment.
        let seconds = (bytes as f64 / rate as f64).min(365.0 * 86_400.0);
        *free_at = Some(at + Duration::from_secs_f64(seconds));
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn all_bytes_share_the_rate_and_rest_is_not_saved_up() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.place(now, 1 << 30), None, "no rate is no limit");
        pace.set(1000);
        let after = |at: Option<Instant>| at.map(|at| (at - now).as_millis());
        assert_eq!(after(pace.place(now, 100)), Some(0));
        assert_eq!(after(pace.place(now, 300)), Some(100));
        pace.set(1000);
        assert_eq!(after(pace.place(now, 100)), Some(400), "no change");
        let later = now + Duration::from_secs(9);
        assert_eq!(after(pace.place(later, 100)), Some(9000));
        assert_eq!(after(pace.place(later, 100)), Some(9100));
        pace.set(0);
        assert_eq!(pace.place(later, 100), None);
    }

    #[tokio::test]
    async fn who_waits_hears_of_another_rate() {
        let pace = Arc::new(Pace::default());
        pace.set(1);
        pace.take(1 << 40).await;
        let mut waiting = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move { pace.take(100).await }
        });
        let soon = Duration::from_millis(50);
        let early = tokio::time::timeout(soon, &mut waiting).await;
        assert!(early.is_err(), "it waits for what has gone");
        pace.set(1000);
        waiting.await.expect("it goes at once");
        let began = Instant::now();
        pace.take(1).await;
        assert!(began.elapsed() >= soon, "the next one goes behind it");
    }
}
