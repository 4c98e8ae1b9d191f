//! Consumer groups on the wire: behaviours 85 to 103.
//!
//! Scenarios run at three ages of client ([`calls::Age`]), so that each is seen in low, middle and
//! high versions. A broker that is not ours should have a `group.initial.rebalance.delay.ms` of some
//! 200 ms and a `group.max.size` of 20; what depends on them reads them from the broker. The tests
//! of `expiry` want an `offsets.retention.check.interval.ms` of 200 ms, with which Kafka fails
//! others: at each check it forgets groups that have only given out an id so far.

pub(crate) mod calls;
pub(crate) mod consumer;
pub(crate) mod member;

mod admin;
mod barrier;
mod commits;
mod commits_of_members;
mod coordinator;
mod epochs;
mod expiry;
mod fetches;
mod heartbeats;
mod join;
mod kinds;
mod leave;
mod listing;
mod migration;
mod next_generation;
mod opaque;
mod reconcile;
mod restart;
mod statics;
mod sync;
