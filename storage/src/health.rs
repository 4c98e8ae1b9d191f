//! What keeps a store from going on: a failure, a full queue, a full disk; and what holds it up, a slow one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::options::StoreOptions;

/// Bytes of batches that may wait for the journal thread.
const QUEUED_BYTES: u64 = 128 * 1024 * 1024;
/// How often who waits for room in the queue looks whether the store still runs.
const RECHECK: Duration = Duration::from_millis(100);
/// A disk is slow on which a round takes so long: hundreds of times what one should.
pub(crate) const SLOW_ROUND: Duration = Duration::from_secs(2);
/// A slow round is remembered for so long, and twice that at most.
const REMEMBERED: Duration = Duration::from_secs(15);
/// How often free space is looked at.
const SPACE_INTERVAL_MS: u64 = 1000;

type Hook = Box<dyn Fn(&StorageError) + Send + Sync>;

/// The first failed write or sync. Nothing is retried and nothing taken after it (R1): the kernel
/// may have dropped the dirty pages and would report success the next time.
#[derive(Default)]
pub(crate) struct Failure {
    state: Mutex<FailureState>,
    closed: AtomicBool,
}

#[derive(Default)]
struct FailureState {
    error: Option<StorageError>,
    hook: Option<Hook>,
}

impl Failure {
    /// The failure, as an error.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.state.lock().error.clone().map_or(Ok(()), Err)
    }

    /// Whether a new operation may begin: no failure, and not closed.
    pub(crate) fn accepts(&self) -> Result<(), StorageError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StorageError::Poisoned("the store was closed".into()));
        }
        self.check()
    }

    /// No operation may begin any more; those that have begun go on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Stops the store; the first reason stays. Returns the error for everyone who waits.
    pub(crate) fn poison(&self, why: &str) -> StorageError {
        let mut state = self.state.lock();
        if let Some(error) = &state.error {
            return error.clone();
        }
        tracing::error!(
            why,
            "the store stops: what is not acknowledged is not durable"
        );
        let error = StorageError::Poisoned(why.into());
        state.error = Some(error.clone());
        let hook = state.hook.take();
        drop(state);
        if let Some(hook) = hook {
            hook(&error);
        }
        error
    }

    pub(crate) fn on_failure(&self, hook: Hook) {
        let mut state = self.state.lock();
        match state.error.clone() {
            None => state.hook = Some(hook),
            Some(error) => {
                drop(state);
                hook(&error);
            }
        }
    }
}

/// Bounds the bytes in the queue: whoever comes when it is full waits.
#[derive(Default)]
pub(crate) struct Gate {
    queued: Mutex<u64>,
    freed: Condvar,
}

impl Gate {
    /// Waits until `bytes` may be queued. One operation may be larger than the bound, alone.
    pub(crate) fn admit(&self, bytes: u64, failure: &Failure) -> Result<(), StorageError> {
        failure.accepts()?;
        let mut queued = self.queued.lock();
        while *queued > 0 && *queued + bytes > QUEUED_BYTES {
            // Not for ever: a journal thread that ended frees nothing.
            if self.freed.wait_for(&mut queued, RECHECK).timed_out() {
                failure.accepts()?;
            }
        }
        *queued += bytes;
        Ok(())
    }

    /// `bytes` have left the queue, done or failed.
    pub(crate) fn release(&self, bytes: u64) {
        let mut queued = self.queued.lock();
        *queued = queued.saturating_sub(bytes);
        drop(queued);
        self.freed.notify_all();
    }
}

/// How long rounds of the journal take of late, the one under way included: a slow disk shows there first.
#[derive(Default)]
pub(crate) struct RoundTimes(Mutex<Times>);

#[derive(Default)]
struct Times {
    began: Option<Duration>,
    /// Since when `slowest` is; `before` is of the period before.
    since: Duration,
    slowest: Duration,
    before: Duration,
}

impl RoundTimes {
    pub(crate) fn begin(&self, now: Duration) {
        self.0.lock().began = Some(now);
    }

    /// How long it took.
    pub(crate) fn end(&self, now: Duration) -> Duration {
        let mut times = self.0.lock();
        let took = times
            .began
            .take()
            .map_or(Duration::ZERO, |began| now.saturating_sub(began));
        let age = now.saturating_sub(times.since);
        if age >= REMEMBERED {
            times.before = match age < 2 * REMEMBERED {
                true => times.slowest,
                false => Duration::ZERO,
            };
            (times.since, times.slowest) = (now, Duration::ZERO);
        }
        times.slowest = times.slowest.max(took);
        took
    }

    /// The slowest one of at least the last [`REMEMBERED`].
    pub(crate) fn slowest(&self, now: Duration) -> Duration {
        let times = self.0.lock();
        let under_way = times.began.map(|began| now.saturating_sub(began));
        let age = now.saturating_sub(times.since);
        let known = match age {
            _ if age < REMEMBERED => times.slowest.max(times.before),
            _ if age < 2 * REMEMBERED => times.slowest,
            _ => Duration::ZERO,
        };
        known.max(under_way.unwrap_or_default())
    }
}

/// Free space of the file system, looked at about once a second and counted down in between.
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    reserve: u64,
    free: AtomicU64,
    total: AtomicU64,
    /// Bytes written since.
    written: AtomicU64,
    /// When to look again, in ms of the monotonic clock.
    next_look: AtomicU64,
}

impl Space {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &StoreOptions) -> Space {
        Space {
            disk,
            clock,
            dir: options.dir.clone(),
            reserve: options.reserve_bytes,
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            written: AtomicU64::new(0),
            next_look: AtomicU64::new(0),
        }
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn writable(&self) -> bool {
        self.look();
        let free = self.free.load(Ordering::Relaxed);
        free.saturating_sub(self.written.load(Ordering::Relaxed)) > self.reserve
    }

    /// (free, total) as last seen.
    pub(crate) fn seen(&self) -> (u64, u64) {
        self.look();
        (
            self.free.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }

    fn look(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_look.load(Ordering::Relaxed);
        let next = now.saturating_add(SPACE_INTERVAL_MS);
        // Whoever moves the time looks; everyone else uses what was seen before.
        let mine = now >= due
            && self
                .next_look
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        match self.disk.space(&self.dir) {
            Ok(disk::Space { free, total }) => {
                self.written.store(0, Ordering::Relaxed);
                self.free.store(free, Ordering::Relaxed);
                self.total.store(total, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "free space cannot be told"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slowest(times: &RoundTimes, second: u64) -> u64 {
        times.slowest(Duration::from_secs(second)).as_secs()
    }

    #[test]
    fn a_slow_round_is_seen_while_it_lasts_and_for_a_while_after() {
        let times = RoundTimes::default();
        let round = |began: u64, ended: u64| {
            times.begin(Duration::from_secs(began));
            assert_eq!(
                times.end(Duration::from_secs(ended)).as_secs(),
                ended - began
            );
        };
        assert_eq!(slowest(&times, 1000), 0);
        times.begin(Duration::from_secs(1000));
        assert_eq!(slowest(&times, 1003), 3);
        assert_eq!(times.end(Duration::from_secs(1004)).as_secs(), 4);
        // Nothing comes after it.
        assert_eq!(slowest(&times, 1018), 4);
        assert_eq!(slowest(&times, 1033), 4);
        assert_eq!(slowest(&times, 1034), 0);

        round(2000, 2005);
        round(2010, 2011);
        assert_eq!(slowest(&times, 2012), 5);
        round(2021, 2022);
        // Of the period before.
        assert_eq!(slowest(&times, 2030), 5);
        round(2038, 2040);
        assert_eq!(slowest(&times, 2041), 2);
    }
}
