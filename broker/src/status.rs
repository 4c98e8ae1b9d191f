//! How far a start has come, for who asks before the node serves.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::node::Shared;

const LOOK: Duration = Duration::from_millis(20);

/// A start in progress, and the node once it is put together. Cheap handle.
#[derive(Clone, Default)]
pub struct Starting {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    waits_for: Mutex<Option<String>>,
    shared: OnceLock<Arc<Shared>>,
}

impl Starting {
    /// Says what the start waits for.
    pub fn waits_for(&self, words: &str) {
        *self.inner.waits_for.lock() = Some(words.to_owned());
    }

    /// Nothing in particular is waited for.
    pub fn goes_on(&self) {
        *self.inner.waits_for.lock() = None;
    }

    /// Returns as soon as the start waits for something that may never come.
    pub async fn until_waiting(&self) {
        while self.inner.waits_for.lock().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is waited for, in words.
    pub fn words(&self) -> String {
        let waits_for = self.inner.waits_for.lock().clone();
        waits_for.map_or_else(
            || "starting".to_owned(),
            |words| format!("starting: {words}"),
        )
    }

    /// The node is put together, if it does not serve yet.
    pub fn has(&self, shared: Arc<Shared>) {
        // Once per start.
        let _ = self.inner.shared.set(shared);
    }

    /// The node, once it is put together.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.inner.shared.get()
    }
}
