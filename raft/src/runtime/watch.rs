//! A watch channel for few that wait: the last value sent, under a lock, and a list of who waits for the next.
//!
//! A value for which nobody waits costs a lock that nobody holds and three atomic numbers. Who waits is told after the lock is
//! given back. Who gave up waiting stays on the list, once, until the next value or his end: he is woken for nothing.
//!
//! Nobody misses a value: whoever is to wait puts himself on the list, and only then looks whether the version has moved
//! on; whoever sends moves the version on, and only then looks at the list.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use openraft::rt::watch::{self, RecvError, SendError};
use openraft::{OptionalSend, OptionalSync};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// See the module.
pub(crate) struct Watch;

struct Channel<T> {
    value: RwLock<T>,
    /// Counts the values; moves on under the lock of `value`.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// Numbers receivers.
    next_receiver: AtomicU64,
    /// Who waits: each receiver at most once.
    waiting: Mutex<Vec<(u64, Waker)>>,
    /// How many they are, to be read without the lock.
    waiting_count: AtomicUsize,
}

/// Sends values.
pub(crate) struct Sender<T>(Arc<Channel<T>>);

/// Sees the last value, and waits for the next.
pub(crate) struct Receiver<T> {
    channel: Arc<Channel<T>>,
    id: u64,
    /// The version seen last.
    seen: u64,
}

impl<T> Channel<T> {
    /// Says that the value has changed. Takes the lock that it was changed under, to give it back before anyone is told.
    fn changed(&self, value: RwLockWriteGuard<'_, T>) {
        self.version.fetch_add(1, Ordering::SeqCst);
        drop(value);
        self.tell();
    }

    /// Wakes who waits.
    fn tell(&self) {
        if self.waiting_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let (last, others) = {
            let mut waiting = self.waiting.lock();
            self.waiting_count.store(0, Ordering::SeqCst);
            let last = waiting.pop();
            // Mostly there is one, and the list keeps its memory.
            let others = match waiting.is_empty() {
                true => Vec::new(),
                false => std::mem::take(&mut *waiting),
            };
            (last, others)
        };
        for (_, waker) in last.into_iter().chain(others) {
            waker.wake();
        }
    }

    fn wait(&self, receiver: u64, waker: &Waker) {
        let mut waiting = self.waiting.lock();
        match waiting.iter_mut().find(|(id, _)| *id == receiver) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.push((receiver, waker.clone())),
        }
        self.waiting_count.store(waiting.len(), Ordering::SeqCst);
    }

    fn forget(&self, receiver: u64) {
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            let mut waiting = self.waiting.lock();
            waiting.retain(|(id, _)| *id != receiver);
            self.waiting_count.store(waiting.len(), Ordering::SeqCst);
        }
    }
}

fn receiver<T>(channel: &Arc<Channel<T>>, seen: u64) -> Receiver<T> {
    channel.receivers.fetch_add(1, Ordering::SeqCst);
    Receiver {
        channel: Arc::clone(channel),
        id: channel.next_receiver.fetch_add(1, Ordering::Relaxed),
        seen,
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.tell();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        receiver(&self.channel, self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.receivers.fetch_sub(1, Ordering::SeqCst);
        self.channel.forget(self.id);
    }
}

impl<T> Receiver<T> {
    /// What `changed` would say at once.
    fn news(&mut self) -> Option<Result<(), RecvError>> {
        // In this order: a value sent before the last sender went is seen.
        let is_over = self.channel.senders.load(Ordering::SeqCst) == 0;
        let version = self.channel.version.load(Ordering::SeqCst);
        if version != self.seen {
            self.seen = version;
            return Some(Ok(()));
        }
        is_over.then_some(Err(RecvError(())))
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        if let Some(news) = self.news() {
            return Poll::Ready(news);
        }
        self.channel.wait(self.id, context.waker());
        self.news().map_or(Poll::Pending, Poll::Ready)
    }
}

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let channel = Arc::new(Channel {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            next_receiver: AtomicU64::new(0),
            waiting: Mutex::new(Vec::new()),
            waiting_count: AtomicUsize::new(0),
        });
        let receiver = receiver(&channel, 0);
        (Sender(channel), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::SeqCst) == 0 {
            return Err(SendError(value));
        }
        let mut current = self.0.value.write();
        let before = std::mem::replace(&mut *current, value);
        self.0.changed(current);
        drop(before);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let mut current = self.0.value.write();
        let is_modified = modify(&mut current);
        if is_modified {
            self.0.changed(current);
        }
        is_modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        receiver(&self.0, self.0.version.load(Ordering::SeqCst))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| self.poll_changed(context)).await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.channel.value.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.channel.value.read();
        self.seen = self.channel.version.load(Ordering::SeqCst);
        value
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use openraft::rt::{Watch as _, WatchReceiver, WatchSender};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_misses_the_last_value() {
        const LAST: u32 = 20_000;
        for round in 0..20 {
            let (sender, receiver) = Watch::channel(0);
            let waiters: Vec<_> = (0..3)
                .map(|_| {
                    let mut receiver = receiver.clone();
                    tokio::spawn(async move {
                        let mut seen = 0;
                        while seen < LAST {
                            receiver.changed().await.unwrap();
                            let now = *receiver.borrow_and_update();
                            assert!(now >= seen, "{now} after {seen}");
                            seen = now;
                        }
                    })
                })
                .collect();
            let sending = tokio::spawn(async move {
                for value in 1..=LAST {
                    sender.send(value).unwrap();
                    if value % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                sender
            });
            for waiter in waiters {
                let told = tokio::time::timeout(Duration::from_secs(10), waiter).await;
                told.unwrap_or_else(|_| panic!("round {round}: somebody still waits"))
                    .unwrap();
            }
            drop(sending.await.unwrap());
        }
    }

    #[tokio::test]
    async fn the_end_of_the_senders_is_told_after_their_last_value() {
        let (sender, mut receiver) = Watch::channel(1);
        let other = sender.clone();
        let waiting = tokio::spawn(async move {
            let first = receiver
                .changed()
                .await
                .map(|()| *receiver.borrow_watched());
            (first, receiver.changed().await)
        });
        tokio::task::yield_now().await;
        drop(sender);
        tokio::task::yield_now().await;
        other.send(2).unwrap();
        drop(other);
        let (first, then) = waiting.await.unwrap();
        assert_eq!(first.unwrap(), 2);
        assert!(then.is_err());
    }

    #[tokio::test]
    async fn who_gave_up_waiting_leaves_nothing_behind() {
        let (sender, mut receiver) = Watch::channel(1);
        for _ in 0..3 {
            let waited = tokio::time::timeout(Duration::from_millis(1), receiver.changed()).await;
            assert!(waited.is_err());
        }
        assert_eq!(sender.0.waiting.lock().len(), 1);
        drop(receiver);
        assert_eq!(sender.0.waiting.lock().len(), 0);
        assert!(sender.send(2).is_err());
    }
}
