//! Broker keys: idempotent and transactional producers.

use super::super::key::Kind::{Boolean, Int, Short};
use super::super::key::{Key, broker};
use super::reasons::NO_TRANSACTIONS;

pub(super) const KEYS: &[Key] = &[
    broker(Int, "transaction.state.log.num.partitions", "50").at_least(1).inert(NO_TRANSACTIONS).doc("Partitions of the topic of transaction state."),
    broker(Short, "transaction.state.log.replication.factor", "3").at_least(1).inert(NO_TRANSACTIONS).doc("Replicas of the topic of transaction state."),
    broker(Int, "transaction.state.log.min.isr", "2").at_least(1).inert(NO_TRANSACTIONS).doc("Default of min.insync.replicas for the topic of transaction state."),
    broker(Int, "transaction.state.log.segment.bytes", "104857600").at_least(1).inert(NO_TRANSACTIONS).doc("Segment size in bytes of the topic of transaction state."),
    broker(Int, "transaction.state.log.load.buffer.size", "5242880").at_least(1).inert(NO_TRANSACTIONS).doc("Bytes read at once while transaction state is loaded."),
    broker(Int, "transaction.max.timeout.ms", "900000").at_least(1).inert(NO_TRANSACTIONS).doc("Longest timeout in milliseconds that a transactional producer may ask for."),
    broker(Int, "transactional.id.expiration.ms", "604800000").at_least(1).inert(NO_TRANSACTIONS).doc("Time in milliseconds without use after which a transactional id is forgotten."),
    broker(Int, "transaction.abort.timed.out.transaction.cleanup.interval.ms", "10000").at_least(1).inert(NO_TRANSACTIONS).doc("Time in milliseconds between two looks for transactions that timed out."),
    broker(Int, "transaction.remove.expired.transaction.cleanup.interval.ms", "3600000").at_least(1).inert(NO_TRANSACTIONS).doc("Time in milliseconds between two looks for transactional ids to forget."),
    broker(Boolean, "transaction.partition.verification.enable", "true").cluster().inert(NO_TRANSACTIONS).doc("Whether a partition asks the coordinator if a transaction is open before it takes its records."),
    broker(Boolean, "transaction.two.phase.commit.enable", "false").inert(NO_TRANSACTIONS).doc("Whether transactions may be prepared by an outside coordinator (KIP-939)."),
    broker(Int, "producer.id.expiration.ms", "86400000").at_least(1).cluster().doc("Time in milliseconds without use after which a partition forgets an idempotent producer's sequence."),
    broker(Int, "producer.id.expiration.check.interval.ms", "600000").at_least(1).doc("Time in milliseconds between two looks for idempotent producers to forget."),
];
