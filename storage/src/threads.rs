//! The threads of a store: the journal's, which starts the segment writer, and the checkpoints'.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::Sender;

use crate::checkpoint::{Checkpointer, Request};
use crate::error::OpenError;
use crate::journal::{Message, Rounds, RoundsContext};
use crate::mailbox::Post;
use crate::store::Shared;

/// Threads that run.
pub(crate) struct Threads {
    journal: JoinHandle<()>,
    checkpoints: JoinHandle<()>,
}

impl Threads {
    /// Ends them, without a checkpoint.
    pub(crate) fn stop(self, journal: Post<Message>, checkpoints: Sender<Request>) {
        let stop = move || {
            let _ = checkpoints.send(Request::Stop);
            let _ = self.checkpoints.join();
            let _ = journal.send(Message::Stop);
            let _ = self.journal.join();
        };
        if OF_A_STORE.get() {
            // A completion dropped the last handle: the thread it runs on cannot wait for itself.
            let _ = std::thread::Builder::new().spawn(stop);
        } else {
            stop();
        }
    }
}

thread_local! {
    /// Whether this thread is one of a store's own.
    static OF_A_STORE: Cell<bool> = const { Cell::new(false) };
}

/// Starts them.
pub(crate) fn start(
    context: RoundsContext,
    checkpointer: Checkpointer,
) -> Result<Threads, OpenError> {
    let failed = |e| OpenError::failed("starting a thread", e);
    let guard = PanicGuard::new(&context.shared);
    let rounds = Rounds::new(context)?;
    let journal = std::thread::Builder::new()
        .name("klamm-journal".to_owned())
        .spawn(move || {
            guard.enter();
            rounds.run();
        })
        .map_err(failed)?;
    let guard = PanicGuard::new(&checkpointer.shared());
    let checkpoints = std::thread::Builder::new()
        .name("klamm-checkpoint".to_owned())
        .spawn(move || {
            guard.enter();
            checkpointer.run();
        })
        .map_err(failed)?;
    Ok(Threads {
        journal,
        checkpoints,
    })
}

/// A thread that panics must not leave its clients waiting: the store stops as a whole.
pub(crate) struct PanicGuard(Arc<Shared>);

impl PanicGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> PanicGuard {
        PanicGuard(Arc::clone(shared))
    }

    /// To be called first on the thread that is guarded.
    pub(crate) fn enter(&self) {
        OF_A_STORE.set(true);
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            self.0.failure.poison(&format!("thread {name} panicked"));
        }
    }
}
