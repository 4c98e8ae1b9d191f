//! Appending a validated batch: sequence check and hand-over to Raft in one step.

use std::time::Duration;

use klamm_protocol::ErrorCode;
use klamm_raft::Proposal;
use klamm_records::{BatchHeader, Validated, sequence_is_before};
use klamm_storage::{Batch, SequenceCheck};

use super::replica::LeaderView;
use super::{Partition, epoch, propose_error};

/// A batch that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Broker time of a LogAppendTime topic in ms, else -1.
    pub log_append_time: i64,
}

/// Why a batch was not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendError {
    /// What the client is told.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

impl AppendError {
    fn new(code: ErrorCode, message: impl Into<String>) -> AppendError {
        AppendError {
            code,
            message: message.into(),
        }
    }
}

/// What became of a batch at hand-over.
pub enum Handover {
    /// With Raft: `done` will be called.
    Proposed,
    /// A retry of a batch that is in the log (behaviour 45): acknowledge once `end_offset` is
    /// committed. `done` will not be called.
    Duplicate {
        /// The original answer.
        appended: Appended,
        /// Offset after the original batch.
        end_offset: i64,
    },
    /// A retry of a batch that an earlier leader wrote, at a place that is not remembered: to be told so
    /// once `end_offset` is committed. `done` will not be called.
    WrittenBefore {
        /// Offset behind which the original batch does not lie.
        end_offset: i64,
    },
}

impl Partition {
    /// Hands a validated batch to Raft. `done` is called once, when the batch is committed (on a
    /// majority of disks) or has failed; never before this returns an error.
    ///
    /// Batches of one caller are appended in the order of the calls.
    pub fn append(
        &self,
        validated: Validated,
        now_ms: i64,
        done: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) -> Result<Handover, AppendError> {
        self.append_if(|_| true, validated, now_ms, done)
    }

    /// As [`Partition::append`], but only while this node leads `decided_in`: for batches that follow from
    /// what the log held in that epoch. A leader that lost the partition and has it again has a log in
    /// which others may have written.
    pub fn append_in(
        &self,
        decided_in: i32,
        validated: Validated,
        now_ms: i64,
        done: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) -> Result<Handover, AppendError> {
        self.append_if(|term| epoch(term) == decided_in, validated, now_ms, done)
    }

    fn append_if(
        &self,
        may_in: impl FnOnce(u64) -> bool,
        validated: Validated,
        now_ms: i64,
        done: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) -> Result<Handover, AppendError> {
        if !self.store.writable() {
            return Err(AppendError::new(
                ErrorCode::KAFKA_STORAGE_ERROR,
                "the broker's disk is full up to its reserve; writing resumes when space is free",
            ));
        }
        let Validated { header, bytes } = validated;
        let log_append_time = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            -1
        };
        let mut leader = self.replica.leader.lock();
        let Some(view) = leader.as_mut().filter(|view| may_in(view.term)) else {
            return Err(AppendError::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "this broker does not lead the partition",
            ));
        };
        match view.producers.check(&header) {
            SequenceCheck::Append | SequenceCheck::OutOfOrder { .. }
                if self.group.has_peers() && may_have_overtaken(view, &header) =>
            {
                return Err(AppendError::new(
                    ErrorCode::NOT_LEADER_OR_FOLLOWER,
                    format!(
                        "what producer {} sent before sequence {} may not have come to this new leader yet",
                        header.producer_id, header.base_sequence
                    ),
                ));
            }
            SequenceCheck::Append => {}
            SequenceCheck::Duplicate {
                base_offset,
                last_offset,
                timestamp,
            } => {
                let appended = Appended {
                    base_offset,
                    log_append_time: if log_append_time == -1 { -1 } else { timestamp },
                };
                return Ok(Handover::Duplicate {
                    appended,
                    end_offset: last_offset + 1,
                });
            }
            SequenceCheck::WrittenBefore { end_offset } => {
                return Ok(Handover::WrittenBefore { end_offset });
            }
            SequenceCheck::OutOfOrder { expected, found } => {
                return Err(AppendError::new(
                    ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
                    format!(
                        "producer {} epoch {}: expected sequence {expected}, got {found}",
                        header.producer_id, header.producer_epoch
                    ),
                ));
            }
            SequenceCheck::InvalidEpoch { current, found } => {
                return Err(AppendError::new(
                    ErrorCode::INVALID_PRODUCER_EPOCH,
                    format!(
                        "producer {}: epoch {found} is older than {current}",
                        header.producer_id
                    ),
                ));
            }
        }
        let base_offset = view.next_offset;
        let mut stamped = header;
        stamped.base_offset = base_offset;
        stamped.partition_leader_epoch = epoch(view.term);
        view.next_offset = stamped.next_offset();
        view.producers.appended(&stamped, now_ms);
        let term = view.term;
        // Still under the lock: the order of sequence checks is the order of proposals.
        self.group.propose(
            term,
            Proposal::Batch {
                batch: Batch { header, bytes },
                expected_offset: base_offset,
            },
            Box::new(move |result| {
                done(match result {
                    Ok(_) => Ok(Appended {
                        base_offset,
                        log_append_time,
                    }),
                    Err(error) => Err(AppendError::new(propose_error(&error), error.to_string())),
                });
            }),
        );
        Ok(Handover::Proposed)
    }
}

/// How long a new leader waits for what it may have missed.
const OVERTAKING: Duration = Duration::from_secs(10);

/// Whether a batch may have overtaken those before it: it leaves a gap, or begins what the producer has here with other than
/// the first sequence, the producer has written nothing to this leader, and that one is new. They were refused by the
/// one before, and are to be sent again here; librdkafka, which has a thread for each broker, can be so late with them
/// that others come first. To be told OUT_OF_ORDER_SEQUENCE_NUMBER would make it go on in a new epoch, on all its
/// partitions, where the logs take again what they have and it has no answer for; to be taken for a producer whose state
/// expired (behaviour 48) would put its records in another order. Kafka does the one and the other.
fn may_have_overtaken(view: &LeaderView, header: &BatchHeader) -> bool {
    if view.since.elapsed() >= OVERTAKING {
        return false;
    }
    let (id, epoch_of_producer) = (header.producer_id, header.producer_epoch);
    match view.producers.next_sequence(id, epoch_of_producer) {
        Some(expected) => {
            let written_in = view.producers.last_written_in(id);
            written_in.is_some_and(|written_in| written_in < epoch(view.term))
                && sequence_is_before(expected, header.base_sequence)
        }
        None => view.succeeds_another && header.base_sequence > 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use klamm_metadata::settings::Settings;
    use klamm_raft::{Groups, GroupsOptions, NodeId};
    use klamm_records::{BatchBuilder, GroupId, NewRecord, TopicId};
    use klamm_storage::{
        FaultDisk, GroupLog, LogSettings, ManualClock, MemoryIndexStore, Store, StoreOptions,
    };
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    fn store() -> Store {
        let disk = FaultDisk::new();
        let indexes = MemoryIndexStore::on(disk.clone());
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::new("/data")
        };
        let clock = Arc::new(ManualClock::at(0));
        let (store, _) =
            Store::open_with(options, Arc::new(disk), &indexes, clock).expect("an empty disk");
        store
    }

    /// Opens the group and waits until it serves, in a term after all before.
    async fn lead(store: &Store, log: &GroupLog) -> (Groups, Partition, i32) {
        let node = NodeId::new(1, 0);
        let options = GroupsOptions {
            node,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(200),
        };
        let on_fatal = Arc::new(|_, cause| panic!("{cause}"));
        let groups = Groups::new(options, tokio::runtime::Handle::current(), on_fatal);
        let replica = Partition::replica(log.clone(), false);
        let voters = Some(BTreeSet::from([node]));
        let group = groups.open(log.clone(), voters, replica.clone()).await;
        let partition = Partition::new(
            "t".into(),
            TopicId::ZERO,
            0,
            replica,
            group.expect("it opens"),
            store.clone(),
            Arc::new(Settings::default().topic(&Default::default())),
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(partition.wait_led(deadline).await);
        let epoch = partition.serving_epoch().expect("it serves");
        (groups, partition, epoch)
    }

    fn batch() -> Validated {
        let mut builder = BatchBuilder::new();
        let record = NewRecord {
            timestamp: 0,
            key: None,
            value: Some(b"x"),
            headers: &[],
        };
        builder.push(&record).expect("it fits");
        let bytes = builder.build().expect("it fits");
        let header = BatchHeader::parse(&bytes).expect("a header");
        Validated { header, bytes }
    }

    #[tokio::test]
    async fn what_was_decided_in_an_epoch_is_appended_in_no_other() {
        let store = store();
        let log = store.create_group(GroupId(1), "t-0", LogSettings::default());
        let log = log.expect("a new log");
        let (groups, partition, before) = lead(&store, &log).await;
        let (done, appended) = oneshot::channel();
        let handed = partition.append_in(before, batch(), 0, |result| {
            let _ = done.send(result);
        });
        assert!(matches!(handed, Ok(Handover::Proposed)));
        assert_eq!(
            appended.await.expect("told").map(|at| at.base_offset),
            Ok(0)
        );
        groups.shutdown().await;

        let (_groups, partition, now) = lead(&store, &log).await;
        assert!(now > before);
        for other in [before, now + 1] {
            let refused = partition.append_in(other, batch(), 0, |_| panic!("not appended"));
            let code = refused.err().map(|error| error.code);
            assert_eq!(code, Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
        }
        assert_eq!(log.end_offset(), 1);
        let (done, appended) = oneshot::channel();
        let handed = partition.append_in(now, batch(), 0, |result| {
            let _ = done.send(result);
        });
        assert!(matches!(handed, Ok(Handover::Proposed)));
        assert_eq!(
            appended.await.expect("told").map(|at| at.base_offset),
            Ok(1)
        );
    }
}
