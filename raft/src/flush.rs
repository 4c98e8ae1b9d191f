//! Passes the journal's completions on to openraft, for all groups of a node, from one task.
//!
//! The journal's thread only notes which groups have something new, and wakes one task instead of one per group. And
//! notices of one group that come close together become one: openraft's own forwarding task sleeps, for up to a
//! millisecond of timer granularity, when a second notice finds it still busy with the first.

use std::io;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::shared::Shared;
use crate::types::TypeConfig;

/// A completed append that openraft has not heard of.
pub(crate) struct Flushed {
    callback: IOFlushed<TypeConfig>,
    result: io::Result<()>,
}

/// Groups that have something in their [`Shared::flushed`].
#[derive(Default)]
pub(crate) struct FlushRelay {
    groups: Mutex<Vec<Arc<Shared>>>,
    some: Notify,
}

impl FlushRelay {
    /// Called by the journal, in the order of the appends of a group.
    pub(crate) fn completed(
        &self,
        shared: &Arc<Shared>,
        callback: IOFlushed<TypeConfig>,
        result: io::Result<()>,
    ) {
        let first = {
            let mut flushed = shared.flushed.lock();
            // A later notice covers the earlier ones, but no success covers a failure.
            match &mut *flushed {
                Some(earlier) if earlier.result.is_err() => return,
                earlier => earlier.replace(Flushed { callback, result }).is_none(),
            }
        };
        if first {
            self.groups.lock().push(Arc::clone(shared));
            self.some.notify_one();
        }
    }
}

/// Runs until it is aborted.
pub(crate) async fn relay(relay: Arc<FlushRelay>) {
    loop {
        let groups = std::mem::take(&mut *relay.groups.lock());
        if groups.is_empty() {
            relay.some.notified().await;
            continue;
        }
        for shared in groups {
            let flushed = shared.flushed.lock().take();
            if let Some(Flushed { callback, result }) = flushed {
                callback.io_completed(result);
            }
        }
        // Lets openraft take these notices before it gets the next.
        tokio::task::yield_now().await;
    }
}
