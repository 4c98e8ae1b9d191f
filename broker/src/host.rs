//! What a node runs on: where its store lies, what time it is, and what becomes of a node that must
//! not go on. A simulation has its own.

use std::sync::Arc;

use klamm_storage::disk::RealDisk;
use klamm_storage::{Clock, OpenError, RecoveryReport, Store, StoreOptions, SystemClock};

/// A machine, as far as a node notices.
pub trait Host: Send + Sync {
    /// Opens the store. Blocking.
    ///
    /// # Errors
    /// When the data directory cannot be used.
    fn open_store(
        &self,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError>;

    /// What time it is.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The process must not go on: what it would do next could be wrong. `said` is for whoever
    /// started it.
    fn end(&self, said: &str);
}

/// This process, on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

impl Host for ThisMachine {
    fn open_store(
        &self,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        Store::open(options, Arc::new(RealDisk), clock)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock::new())
    }

    fn end(&self, said: &str) {
        eprintln!("{said}");
        std::process::abort();
    }
}
