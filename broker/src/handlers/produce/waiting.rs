//! A part of a Produce request from its hand-over to the partition until it is known what became of it.

use std::sync::Arc;
use std::time::Duration;

use klamm_protocol::ErrorCode;
use klamm_records::{BatchError, RecordError, Validated};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::context::RequestContext;
use crate::handlers::refusals::Lane;
use crate::partition::{AppendError, Appended, Handover, Partition};

/// How often a leader whose followers let it wait is asked whether it is one still.
const FRESH_LOOK: Duration = Duration::from_millis(200);

/// A failure with what the answer says of it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    /// More than the code says.
    pub(super) message: Option<String>,
    /// Records at fault (behaviour 33).
    pub(super) records: Vec<RecordError>,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Failure {
        Failure {
            code,
            message: None,
            records: Vec::new(),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Failure {
        Failure {
            code: error.code,
            message: Some(error.message),
            records: Vec::new(),
        }
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Failure {
        Failure {
            code: ErrorCode(error.code()),
            message: Some(error.to_string()),
            records: error.record_errors().to_vec(),
        }
    }
}

/// A part after hand-over.
pub(super) enum Waiting {
    Failed(Failure),
    Committing {
        partition: Arc<Partition>,
        result: oneshot::Receiver<Result<Appended, AppendError>>,
    },
    Duplicate {
        partition: Arc<Partition>,
        appended: Appended,
        end_offset: i64,
    },
    WrittenBefore {
        partition: Arc<Partition>,
        end_offset: i64,
    },
}

impl Waiting {
    /// Why it failed at once.
    pub(super) fn failed(&self) -> Option<ErrorCode> {
        match self {
            Waiting::Failed(failure) => Some(failure.code),
            Waiting::Committing { .. }
            | Waiting::Duplicate { .. }
            | Waiting::WrittenBefore { .. } => None,
        }
    }

    /// What became of it, at the latest at the deadline. A leader that has lost touch with the majority can say
    /// nothing: the client is to look for another one. A record that was written all the same is known to the
    /// next leader by its sequence number.
    pub(super) async fn settled(
        self,
        deadline: Instant,
    ) -> (Option<Arc<Partition>>, Result<Appended, Failure>) {
        match self {
            Waiting::Failed(failure) => (None, Err(failure)),
            Waiting::Duplicate {
                partition,
                appended,
                end_offset,
            } => {
                let committed = committed(&partition, end_offset, deadline).await;
                (Some(partition), committed.map(|()| appended))
            }
            Waiting::WrittenBefore {
                partition,
                end_offset,
            } => {
                let code = match committed(&partition, end_offset, deadline).await {
                    // Clients take this for a success without an offset.
                    Ok(()) => ErrorCode::DUPLICATE_SEQUENCE_NUMBER.into(),
                    Err(failure) => failure,
                };
                (Some(partition), Err(code))
            }
            Waiting::Committing { partition, result } => {
                let result = tokio::time::timeout_at(deadline, result);
                let result = match while_fresh(&partition, result).await {
                    Some(Ok(Ok(result))) => result.map_err(Failure::from),
                    Some(Ok(Err(_))) | None => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into()),
                    Some(Err(_)) => Err(ErrorCode::REQUEST_TIMED_OUT.into()),
                };
                (Some(partition), result)
            }
        }
    }
}

/// Waits until what lies before an offset is committed.
async fn committed(
    partition: &Partition,
    end_offset: i64,
    deadline: Instant,
) -> Result<(), Failure> {
    let committed = partition.wait_committed(end_offset, deadline);
    match while_fresh(partition, committed).await {
        Some(true) => Ok(()),
        Some(false) | None => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into()),
    }
}

/// Waits as long as this leader is in touch with a majority; `None` if it is not any more.
async fn while_fresh<T>(partition: &Partition, waiting: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(waiting);
    loop {
        if let Ok(done) = tokio::time::timeout(FRESH_LOOK, &mut waiting).await {
            return Some(done);
        }
        if partition.check_fresh().is_err() {
            return None;
        }
    }
}

/// Gives a validated batch to its partition, unless one that has to come before it was refused.
pub(super) fn hand_over(
    ctx: &RequestContext,
    partition: Arc<Partition>,
    validated: Validated,
) -> Waiting {
    let header = validated.header;
    ctx.shared
        .metrics
        .batch_received(header.record_count, validated.bytes.len());
    let lane = Lane {
        topic: partition.topic_id(),
        index: partition.index(),
        producer_id: header.producer_id,
    };
    let next = || partition.next_sequence(header.producer_id, header.producer_epoch);
    let refusals = &ctx.shared.refusals;
    if let Some(code) = refusals.stands_before(lane, &header, Instant::now(), next) {
        return Waiting::Failed(Failure {
            message: Some("a batch before this one was refused, and has to come first".to_owned()),
            ..code.into()
        });
    }
    let (done, result) = oneshot::channel();
    let now_ms = ctx.shared.steady.now_ms();
    let handed = partition.append(validated, now_ms, move |appended| {
        // The request may have been abandoned with its connection; the batch stands.
        let _ = done.send(appended);
    });
    match handed {
        Ok(Handover::Proposed) => Waiting::Committing { partition, result },
        Ok(Handover::Duplicate {
            appended,
            end_offset,
        }) => Waiting::Duplicate {
            partition,
            appended,
            end_offset,
        },
        Ok(Handover::WrittenBefore { end_offset }) => Waiting::WrittenBefore {
            partition,
            end_offset,
        },
        Err(error) => {
            refusals.note(lane, &header, error.code, Instant::now());
            Waiting::Failed(error.into())
        }
    }
}
