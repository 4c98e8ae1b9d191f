//! Appending a validated batch: sequence check and hand-over to Raft in one step.

use klamm_protocol::ErrorCode;
use klamm_raft::Proposal;
use klamm_records::Validated;
use klamm_storage::{Batch, SequenceCheck};

use super::{Partition, propose_error};

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
        let Some(view) = leader.as_mut() else {
            return Err(AppendError::new(
                ErrorCode::NOT_LEADER_OR_FOLLOWER,
                "this broker does not lead the partition",
            ));
        };
        match view.producers.check(&header) {
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
