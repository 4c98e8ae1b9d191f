//! Work that would hold up the runtime, on a thread of its own; or, where everything is to happen on one
//! thread and in an order that can be repeated (simulation), on the runtime after all.

use std::cell::Cell;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// From now on what this thread's runtimes are given runs on this thread.
pub fn stay_on_this_thread() {
    HERE.set(true);
}

/// As [`tokio::task::spawn_blocking`].
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    if HERE.get() {
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Runs a future that computes much between its waits.
pub fn spawn_heavy<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    if HERE.get() {
        return tokio::spawn(work);
    }
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    /// The threads that work and future ran on.
    fn threads() -> [std::thread::ThreadId; 2] {
        let id = || std::thread::current().id();
        runtime().block_on(async move {
            let work = spawn_blocking(id).await.unwrap();
            [work, spawn_heavy(async move { id() }).await.unwrap()]
        })
    }

    #[test]
    fn work_leaves_the_runtime_unless_told_otherwise() {
        let here = std::thread::current().id();
        assert!(threads().iter().all(|thread| *thread != here));
        let told = std::thread::spawn(|| {
            stay_on_this_thread();
            let here = std::thread::current().id();
            threads().iter().all(|thread| *thread == here)
        });
        assert!(told.join().unwrap());
    }
}
