//! The rate that all fills of a node share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Spaces bytes in time, whoever sends them. Changed at any time, it holds from the next frame on.
#[derive(Default)]
pub(crate) struct Pace {
    /// Bytes per second; 0 for as fast as it goes.
    rate: AtomicU64,
    /// When the next bytes may go.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn set(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits until `bytes` may go.
    pub(super) async fn take(&self, bytes: usize) {
        if let Some(at) = self.place(Instant::now(), bytes) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// When `bytes` may go that want to now; the next ones go behind them.
    fn place(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let mut free_at = self.free_at.lock();
        let at = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_share_the_rate_and_rest_is_not_saved_up() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.place(now, 1 << 30), None, "no rate is no limit");
        pace.set(1000);
        let after = |at: Option<Instant>| at.map(|at| (at - now).as_millis());
        assert_eq!(after(pace.place(now, 100)), Some(0));
        assert_eq!(after(pace.place(now, 300)), Some(100));
        assert_eq!(after(pace.place(now, 100)), Some(400));
        let later = now + Duration::from_secs(9);
        assert_eq!(after(pace.place(later, 100)), Some(9000));
        assert_eq!(after(pace.place(later, 100)), Some(9100));
        pace.set(0);
        assert_eq!(pace.place(later, 100), None);
    }
}
