//! What keeps a store from going on: a failure, a full queue, a full disk.

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
