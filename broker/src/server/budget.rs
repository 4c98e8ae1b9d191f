//! One pool for the bytes of requests in flight, over all connections (R23).
//!
//! A connection charges the pool for what it has received, not for what a client promised, and
//! holds the charge until the answer is written. An empty pool stops reading, never allocating.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Granularity of the pool: semaphores count in 32 bits, sizes do not.
const UNIT: usize = 1024;

/// The pool. Cheap handle.
#[derive(Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: u32,
}

/// Bytes taken from the pool, given back when dropped.
#[derive(Debug, Default)]
pub struct Charge {
    permits: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Charge {
    /// Bytes covered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over another charge.
    pub fn merge(&mut self, other: Charge) {
        self.bytes += other.bytes;
        for permit in other.permits {
            match self.permits.last_mut() {
                Some(last) => last.merge(permit),
                None => self.permits.push(permit),
            }
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl MemoryBudget {
    /// A pool of `bytes`, at least one unit.
    pub fn new(bytes: usize) -> MemoryBudget {
        let total =
            units(bytes).clamp(1, u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        MemoryBudget {
            units: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Takes `bytes` if they are there now. More than the whole pool counts as the whole pool.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        let permit = self
            .units
            .clone()
            .try_acquire_many_owned(units(bytes).min(self.total))
            .ok()?;
        Some(Charge {
            permits: vec![permit],
            bytes,
        })
    }

    /// Waits for `bytes`.
    pub async fn charge(self, bytes: usize) -> Charge {
        let permit = self
            .units
            .clone()
            .acquire_many_owned(units(bytes).min(self.total))
            .await
            .expect("the semaphore is never closed");
        Charge {
            permits: vec![permit],
            bytes,
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        (self.total as usize - self.units.available_permits()) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryBudget;

    #[test]
    fn a_charge_is_given_back() {
        let budget = MemoryBudget::new(10 * 1024);
        let mut first = budget.try_charge(6 * 1024).expect("empty pool");
        assert!(budget.try_charge(6 * 1024).is_none());
        first.merge(budget.try_charge(4 * 1024).expect("the rest"));
        assert_eq!((first.bytes(), budget.used()), (10 * 1024, 10 * 1024));
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_larger_than_the_pool_can_have_all_of_it() {
        let budget = MemoryBudget::new(4 * 1024);
        let all = budget.try_charge(1 << 40).expect("clamped");
        assert!(budget.try_charge(1).is_none());
        drop(all);
        assert!(budget.try_charge(1).is_some());
    }
}
