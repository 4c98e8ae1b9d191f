//! What a node runs on: where its store lies, what time it is, and what becomes of a node that must
//! not go on. A simulation has its own.

use std::io;
use std::sync::Arc;

use klamm_storage::disk::RealDisk;
use klamm_storage::{Clock, OpenError, RecoveryReport, Store, StoreOptions, SystemClock};
use tokio::runtime::{Builder, Handle};

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

    /// Where other nodes' pings are answered. One that is not held up by all else, if the machine has such.
    ///
    /// # Errors
    /// When it cannot be started.
    fn control_runtime(&self) -> io::Result<Handle> {
        Ok(Handle::current())
    }

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

    /// A thread of its own, to the end of the process.
    fn control_runtime(&self) -> io::Result<Handle> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("klamm-control".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(handle)
    }

    fn end(&self, said: &str) {
        eprintln!("{said}");
        std::process::abort();
    }
}
