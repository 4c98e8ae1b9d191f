//! Replication that is held back (KIP-73): what goes to replicas that are being made, where an operator says so.
//!
//! Owns the node's rates: one of what it sends as leader, and for each other broker one of what that one takes. Both are held to
//! here, where it is sent: a broker that is sent to by several leaders may get more than its rate, by as many times.
//!
//! Invariant: what a voter gets as entries is never held back. Kafka holds nothing back that goes to replicas in sync, so that a
//! limit never makes producers wait; here a commit may need a voter that is behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pace::Pace;

/// Which replication of a group is held back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// What this node sends.
    pub leader: bool,
    /// What goes to these brokers.
    pub followers: Followers,
}

/// Some brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followers {
    /// All there are.
    All,
    /// These.
    Of(BTreeSet<i32>),
}

impl Default for Followers {
    fn default() -> Followers {
        Followers::Of(BTreeSet::new())
    }
}

impl Followers {
    fn contains(&self, broker: i32) -> bool {
        match self {
            Followers::All => true,
            Followers::Of(brokers) => brokers.contains(&broker),
        }
    }
}

impl Throttle {
    /// Whether what goes to `broker` is held back, at either end.
    fn holds_back(&self, broker: i32) -> bool {
        self.leader || self.followers.contains(broker)
    }

    fn is_none(&self) -> bool {
        *self == Throttle::default()
    }
}

/// The rates of a node.
#[derive(Default)]
pub(crate) struct Rates {
    leader: Pace,
    followers: Mutex<BTreeMap<i32, Arc<Pace>>>,
}

impl Rates {
    /// Bytes per second; 0, as at first, for as fast as it goes.
    pub(crate) fn set(&self, leader: u64, followers: &BTreeMap<i32, u64>) {
        self.leader.set(leader);
        let mut paces = self.followers.lock();
        for (broker, pace) in paces.iter() {
            if !followers.contains_key(broker) {
                pace.set(0);
            }
        }
        for (broker, rate) in followers {
            paces.entry(*broker).or_default().set(*rate);
        }
    }

    async fn take(&self, throttle: &Throttle, broker: i32, bytes: usize) {
        if throttle.leader {
            self.leader.take(bytes).await;
        }
        if throttle.followers.contains(broker) {
            let pace = self.followers.lock().get(&broker).cloned();
            if let Some(pace) = pace {
                pace.take(bytes).await;
            }
        }
    }
}

/// What is held back of one group.
pub(crate) struct Brake {
    rates: Arc<Rates>,
    /// `None` where nothing is.
    throttle: watch::Sender<Option<Arc<Throttle>>>,
}

impl Brake {
    pub(crate) fn new(rates: Arc<Rates>) -> Brake {
        Brake {
            rates,
            throttle: watch::Sender::new(None),
        }
    }

    /// Holds at once, also for what waits.
    pub(crate) fn set(&self, throttle: Throttle) {
        let throttle = (!throttle.is_none()).then(|| Arc::new(throttle));
        self.throttle.send_replace(throttle);
    }

    /// Whether what goes to `broker` may have to wait.
    pub(crate) fn is_on(&self, broker: i32) -> bool {
        let throttle = self.throttle.borrow();
        throttle
            .as_ref()
            .is_some_and(|throttle| throttle.holds_back(broker))
    }

    /// Waits until `bytes` may go to `broker`.
    pub(crate) async fn wait(&self, broker: i32, bytes: usize) {
        let mut changes = self.throttle.subscribe();
        loop {
            let throttle = changes.borrow_and_update().clone();
            let Some(throttle) = throttle else {
                return;
            };
            tokio::select! {
                biased;
                () = self.rates.take(&throttle, broker, bytes) => return,
                // The sender is in `self`.
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether what goes to `broker` waits for what has gone before.
    async fn is_held(leader: u64, followers: &[(i32, u64)], throttle: &Throttle) -> [bool; 3] {
        let mut held = [false; 3];
        for (broker, held) in (2..).zip(&mut held) {
            let rates = Rates::default();
            rates.set(leader, &followers.iter().copied().collect());
            rates.take(throttle, broker, 1 << 40).await;
            let next = rates.take(throttle, broker, 1);
            *held = tokio::time::timeout(Duration::from_millis(20), next)
                .await
                .is_err();
        }
        held
    }

    #[tokio::test]
    async fn each_end_has_a_rate_of_its_own() {
        let none = Throttle::default();
        let leader = Throttle {
            leader: true,
            ..Throttle::default()
        };
        let follower = Throttle {
            leader: false,
            followers: Followers::Of(BTreeSet::from([2])),
        };
        let all = Throttle {
            leader: false,
            followers: Followers::All,
        };
        assert!(none.is_none() && !follower.is_none() && !leader.is_none() && !all.is_none());
        let rates = [(2, 100), (3, 100), (4, 0)];
        assert_eq!(is_held(100, &rates, &none).await, [false; 3]);
        assert_eq!(is_held(100, &[], &leader).await, [true; 3]);
        assert_eq!(is_held(0, &rates, &leader).await, [false; 3]);
        assert_eq!(is_held(100, &rates, &follower).await, [true, false, false]);
        assert_eq!(is_held(100, &rates, &all).await, [true, true, false]);
        assert_eq!(is_held(100, &[], &all).await, [false; 3]);
    }

    #[tokio::test]
    async fn a_broker_without_a_rate_waits_no_more() {
        let all = Throttle {
            leader: false,
            followers: Followers::All,
        };
        let rates = Rates::default();
        rates.set(0, &BTreeMap::from([(2, 1)]));
        rates.take(&all, 2, 1 << 40).await;
        rates.set(0, &BTreeMap::new());
        rates.take(&all, 2, 1 << 40).await;
        rates.take(&all, 2, 1 << 40).await;
    }

    #[tokio::test]
    async fn what_waits_goes_when_nothing_is_held_back_any_more() {
        let rates = Arc::new(Rates::default());
        rates.set(1, &BTreeMap::new());
        let brake = Arc::new(Brake::new(rates));
        assert!(!brake.is_on(2));
        brake.set(Throttle {
            leader: true,
            ..Throttle::default()
        });
        assert!(brake.is_on(2));
        brake.wait(2, 1 << 40).await;
        let mut waiting = tokio::spawn({
            let brake = Arc::clone(&brake);
            async move { brake.wait(2, 1).await }
        });
        let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
        assert!(early.is_err(), "it waits for what has gone");
        brake.set(Throttle::default());
        waiting.await.expect("it goes at once");
    }
}
