//! What a client sees on the wire, behaviour by behaviour.
//!
//! A test whose name begins with `behaviour_N` covers the numbered behaviour N of Kafka's clients'
//! expectations. All tests share one broker, started on first use in a temporary directory, or the
//! one that `KLAMM_TEST_BOOTSTRAP=HOST:PORT` names: any Kafka 4.3 will do, and is the judge of what
//! is expected here. Tests that need a process of their own are skipped there. The broker is
//! expected to be disposable, unsecured, alone, with `log.retention.check.interval.ms` of some
//! 100 ms; topics stay behind.

mod batches;
mod calls;
mod rig;

mod admin;
mod alter_configs;
mod compaction;
mod configs;
mod fetch;
mod fetch_sessions;
mod framing;
mod groups;
mod groups_hostile;
mod idempotence;
mod long_poll;
mod metadata;
mod metadata_log;
mod offsets;
mod process;
mod produce;
mod produce_validation;
mod producer_ids;
mod restart;
mod retention;
mod sweep;
mod topic_changes;
mod topics;
