//! Consumer groups on the wire: behaviours 85 to 103.
//!
//! Scenarios run at three ages of client ([`calls::Age`]), so that each is seen in low, middle and
//! high versions. The broker under test should have a `group.initial.rebalance.delay.ms` of some
//! 200 ms, a `group.max.size` of 20 and an `offsets.retention.check.interval.ms` of 200 ms; what
//! depends on them reads them from the broker.

pub(crate) mod calls;
//pub(crate) mod consumer;
pub(crate) mod member;

//mod admin;
mod barrier;
//mod commits;
//mod commits_of_members;
mod coordinator;
//mod epochs;
//mod expiry;
//mod fetches;
mod heartbeats;
mod join;
//mod kinds;
mod leave;
//mod listing;
//mod migration;
mod next_generation;
mod opaque;
//mod reconcile;
//mod restart;
mod statics;
mod sync;
