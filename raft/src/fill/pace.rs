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
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let at = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let at = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_senders_share_the_rate() {
        let pace = Pace::default();
        let start = Instant::now();
        pace.take(1 << 30).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "no rate is no limit");
        pace.set(1000);
        let send = || async {
            for _ in 0..10 {
                pace.take(100).await;
            }
        };
        tokio::join!(send(), send());
        // The last hundred bytes go at once.
        assert!((1.8..2.1).contains(&start.elapsed().as_secs_f64()));
    }
}
