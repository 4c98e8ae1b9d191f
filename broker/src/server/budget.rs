//! Memory that clients make us hold: requests in flight and answers not yet written, over all
//! connections (R23).
//!
//! **Requests.** A connection charges the pool for what it has received, not for what a client
//! promised, and holds the charge until the answer is written. An empty pool stops reading, never
//! allocates. Two rules keep it from standing still when clients stop in the middle of large
//! requests:
//! - an eighth of the pool is for requests of at most [`SMALL`] bytes;
//! - one connection at a time may finish a request beyond the pool (the *overdraft*), so that what
//!   was begun ends. It is bounded by `socket.request.max.bytes`, and by the deadline for reading.
//!
//! **Answers.** Who reads records reserves room for them first, at most a quarter of what is left.
//! So clients that do not read make everybody's answers smaller, down to [`FLOOR`] each, and stop
//! nobody. Other answers cannot be made smaller. One that will be large, metadata of all topics for
//! instance, waits before it is put together until there is room in an eighth of the whole; small ones
//! wait for nothing.
//!
//! **Unpacked records.** What a batch decompresses to is bounded by its topic's `max.message.bytes`
//! and by [`CodecBudget::most`], and all that is unpacked off the runtime at the same time by
//! `klamm.decompression.memory.bytes` (R22).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the pool: semaphores count in 32 bits, sizes do not.
const UNIT: usize = 1024;
/// Requests up to this many bytes have a part of the pool to themselves.
pub const SMALL: usize = 64 * 1024;
/// What an answer may always hold.
const FLOOR: usize = 64 * 1024;

/// The pool of requests. Cheap handle.
#[derive(Clone)]
pub struct MemoryBudget {
    small: Pool,
    large: Pool,
    overdraft: Arc<Semaphore>,
}

#[derive(Clone)]
struct Pool {
    units: Arc<Semaphore>,
    total: u32,
}

/// Bytes taken from the pool, given back when dropped.
#[derive(Debug, Default)]
pub struct Charge {
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl Charge {
    /// Bytes covered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over another charge.
    pub fn merge(&mut self, other: Charge) {
        self.bytes += other.bytes;
        self.overdraft = self.overdraft.take().or(other.overdraft);
        for permit in other.permits {
            let same = |mine: &&mut OwnedSemaphorePermit| {
                Arc::ptr_eq(mine.semaphore(), permit.semaphore())
            };
            match self.permits.iter_mut().find(same) {
                Some(mine) => mine.merge(permit),
                None => self.permits.push(permit),
            }
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Pool {
    fn new(bytes: usize) -> Pool {
        let total =
            units(bytes).clamp(1, u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Pool {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = units(bytes).min(self.total);
        self.units.clone().try_acquire_many_owned(units).ok()
    }

    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = units(bytes).min(self.total);
        let taken = self.units.clone().acquire_many_owned(units).await;
        taken.expect("the semaphore is never closed")
    }

    fn used(&self) -> usize {
        (self.total as usize - self.units.available_permits()) * UNIT
    }
}

impl MemoryBudget {
    /// A pool of `bytes`, at least one unit of each kind.
    pub fn new(bytes: usize) -> MemoryBudget {
        MemoryBudget {
            small: Pool::new(bytes / 8),
            large: Pool::new(bytes - bytes / 8),
            overdraft: Arc::new(Semaphore::new(1)),
        }
    }

    /// Takes `bytes` more for a request of `request` bytes of which `held` is charged, if they are
    /// there now. More than the whole pool counts as the whole pool.
    pub fn try_charge(&self, bytes: usize, request: usize, held: &Charge) -> Option<Charge> {
        let permits = if held.overdraft.is_some() {
            Vec::new()
        } else if request <= SMALL {
            vec![
                self.large
                    .try_take(bytes)
                    .or_else(|| self.small.try_take(bytes))?,
            ]
        } else {
            vec![self.large.try_take(bytes)?]
        };
        Some(Charge {
            permits,
            bytes,
            overdraft: None,
        })
    }

    /// Waits for `bytes` for a request of `request` bytes.
    pub async fn charge(self, bytes: usize, request: usize) -> Charge {
        let (mut permits, mut overdraft) = (Vec::new(), None);
        if request <= SMALL {
            tokio::select! {
                permit = self.small.take(bytes) => permits.push(permit),
                permit = self.large.take(bytes) => permits.push(permit),
            }
        } else {
            tokio::select! {
                biased;
                permit = self.large.take(bytes) => permits.push(permit),
                permit = self.overdraft.acquire_owned() => {
                    overdraft = Some(permit.expect("the semaphore is never closed"));
                }
            }
        }
        Charge {
            permits,
            bytes,
            overdraft,
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.small.used() + self.large.used()
    }
}

/// Threads and memory for batches that are unpacked or packed off the runtime. Cheap handle.
#[derive(Clone)]
pub struct CodecBudget {
    threads: Arc<Semaphore>,
    memory: Pool,
}

/// Room for one request's batches, one after the other; given back when dropped.
#[derive(Debug)]
pub struct CodecRoom {
    _thread: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl CodecBudget {
    /// `threads` at a time, which unpack to `bytes` in all.
    pub fn new(threads: usize, bytes: usize) -> CodecBudget {
        CodecBudget {
            threads: Arc::new(Semaphore::new(threads.max(1))),
            memory: Pool::new(bytes),
        }
    }

    /// Bytes that one batch may unpack to.
    pub fn most(&self) -> usize {
        self.memory.total as usize * UNIT
    }

    /// Waits until a thread may unpack a batch to `bytes`. Memory first: who waits for much of it
    /// keeps no thread from those who need little.
    pub async fn room(&self, bytes: usize) -> CodecRoom {
        let memory = self.memory.take(bytes).await;
        let thread = self.threads.clone().acquire_owned().await;
        CodecRoom {
            _thread: thread.expect("the semaphore is never closed"),
            _memory: memory,
        }
    }

    /// Bytes that are set aside now.
    pub fn used(&self) -> usize {
        self.memory.used()
    }
}

/// Room for answers. Cheap handle.
#[derive(Clone)]
pub struct AnswerBudget {
    total: usize,
    used: Arc<AtomicUsize>,
    whole: Pool,
}

/// Room that an answer holds, given back when dropped.
#[derive(Debug)]
pub struct Held {
    used: Arc<AtomicUsize>,
    bytes: usize,
    /// Of an answer that had to wait.
    permit: Option<OwnedSemaphorePermit>,
}

impl AnswerBudget {
    /// Room for `bytes`.
    pub fn new(bytes: usize) -> AnswerBudget {
        AnswerBudget {
            total: bytes,
            used: Arc::default(),
            whole: Pool::new(bytes / 8),
        }
    }

    /// Reserves room for an answer that would like `wanted` bytes.
    pub fn hold(&self, wanted: usize) -> Held {
        let free = self.total.saturating_sub(self.used());
        let bytes = wanted.min((free / 4).max(FLOOR));
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Held {
            used: self.used.clone(),
            bytes,
            permit: None,
        }
    }

    /// Waits for room for an answer that is sent whole; `None` if `expected` bytes are few. Larger
    /// than all room counts as all of it.
    pub async fn hold_whole(&self, expected: usize) -> Option<Held> {
        if expected <= FLOOR {
            return None;
        }
        let permit = self.whole.take(expected).await;
        self.used.fetch_add(expected, Ordering::Relaxed);
        Some(Held {
            used: self.used.clone(),
            bytes: expected,
            permit: Some(permit),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether so much is in use that others get less than they ask for.
    pub fn is_scarce(&self) -> bool {
        self.used() > self.total / 2 || self.whole.used() > self.whole.total as usize * UNIT / 2
    }
}

impl Held {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds what the answer became: less than reserved, or a first batch that is larger.
    pub fn settle(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            if let Some(permit) = &mut self.permit {
                let spare = permit.num_permits().saturating_sub(units(bytes) as usize);
                drop(permit.split(spare));
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{AnswerBudget, Charge, CodecBudget, FLOOR, MemoryBudget, SMALL};

    const MIB: usize = 1 << 20;

    #[test]
    fn a_charge_is_given_back() {
        let budget = MemoryBudget::new(8 * MIB);
        let none = Charge::default();
        let mut first = budget.try_charge(6 * MIB, 6 * MIB, &none).expect("room");
        assert!(budget.try_charge(2 * MIB, 2 * MIB, &none).is_none());
        first.merge(budget.try_charge(MIB, 7 * MIB, &first).expect("the rest"));
        assert_eq!((first.bytes(), budget.used()), (7 * MIB, 7 * MIB));
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_larger_than_the_pool_can_have_all_of_it() {
        let budget = MemoryBudget::new(MIB);
        let none = Charge::default();
        let all = budget.try_charge(1 << 40, 1 << 40, &none).expect("clamped");
        assert!(budget.try_charge(MIB, MIB, &none).is_none());
        drop(all);
        assert!(budget.try_charge(SMALL + 1, SMALL + 1, &none).is_some());
    }

    #[test]
    fn small_requests_pass_when_large_ones_hold_everything() {
        let budget = MemoryBudget::new(8 * MIB);
        let none = Charge::default();
        let mut large = budget.try_charge(7 * MIB, 99 * MIB, &none).expect("room");
        assert!(budget.try_charge(1, 99 * MIB, &none).is_none());
        large.merge(budget.try_charge(100, 100, &none).expect("small"));
        assert_eq!(large.bytes(), 7 * MIB + 100);
    }

    #[tokio::test]
    async fn what_was_begun_ends_one_at_a_time() {
        let budget = MemoryBudget::new(8 * MIB);
        let none = Charge::default();
        let _stuck = budget.try_charge(7 * MIB, 99 * MIB, &none).expect("room");
        let first = budget.clone().charge(MIB, 99 * MIB).await;
        assert!(budget.try_charge(50 * MIB, 99 * MIB, &first).is_some());
        let mut second = Box::pin(budget.clone().charge(MIB, 99 * MIB));
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        drop(first);
        assert_eq!(second.await.bytes(), MIB);
    }

    #[tokio::test]
    async fn what_is_unpacked_at_a_time_is_bounded_in_bytes_and_threads() {
        let budget = CodecBudget::new(2, 16 * MIB);
        assert_eq!(budget.most(), 16 * MIB);
        let soon = std::time::Duration::from_millis(20);
        let all = budget.room(usize::MAX).await;
        assert_eq!(budget.used(), 16 * MIB);
        assert!(tokio::time::timeout(soon, budget.room(1)).await.is_err());
        drop(all);
        let _two = (budget.room(MIB).await, budget.room(MIB).await);
        assert!(tokio::time::timeout(soon, budget.room(1)).await.is_err());
        assert_eq!(budget.used(), 2 * MIB);
    }

    #[tokio::test]
    async fn whole_answers_wait_for_each_other_and_small_ones_for_nobody() {
        let answers = AnswerBudget::new(64 * MIB);
        assert!(answers.hold_whole(FLOOR).await.is_none());
        let mut first = answers.hold_whole(6 * MIB).await.expect("large");
        assert_eq!((first.bytes(), answers.used()), (6 * MIB, 6 * MIB));
        assert!(answers.is_scarce(), "most of the eighth is in use");
        let waiting = tokio::spawn({
            let answers = answers.clone();
            async move { answers.hold_whole(4 * MIB).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(answers.hold_whole(FLOOR).await.is_none());
        // It became smaller than expected.
        first.settle(MIB);
        let second = waiting.await.expect("no panic");
        assert_eq!(answers.used(), 5 * MIB);
        // One that is larger than all room has it for itself.
        drop((first, second));
        let all = answers.hold_whole(100 * MIB).await.expect("large");
        assert_eq!(all.bytes(), 100 * MIB);
        drop(all);
        assert_eq!(answers.used(), 0);
        assert!(!answers.is_scarce());
    }

    #[test]
    fn answers_shrink_and_stop_nobody() {
        let budget = AnswerBudget::new(16 * MIB);
        let mut held: Vec<_> = (0..100).map(|_| budget.hold(50 * MIB)).collect();
        assert_eq!(held.first().map(|first| first.bytes()), Some(4 * MIB));
        assert!(
            held.windows(2)
                .all(|pair| pair[1].bytes() <= pair[0].bytes())
        );
        assert!(held.iter().all(|held| held.bytes() >= FLOOR));
        assert!(budget.used() <= 16 * MIB + 100 * FLOOR);
        for held in &mut held {
            held.settle(100);
        }
        assert_eq!(budget.used(), 100 * 100);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
