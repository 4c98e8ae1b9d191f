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

/// How long the parts of a request are waited for, which is done one after the other.
pub(super) struct Patience {
    deadline: Instant,
    /// When it is looked next whether the leader is one still: for all parts together, or a node that has lost the others
    /// would let each of a hundred parts wait for its own look.
    look_at: Instant,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Patience {
        Patience {
            deadline,
            look_at: Instant::now() + FRESH_LOOK,
        }
    }

    /// Waits as long as something is so; `None` if it is not any more. What is known by then is told all the same.
    async fn while_so<T>(
        &mut self,
        is_so: impl Fn() -> bool,
        waiting: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(waiting);
        loop {
            if let Ok(done) = tokio::time::timeout_at(self.look_at, &mut waiting).await {
                return Some(done);
            }
            if !is_so() {
                return None;
            }
            self.look_at = Instant::now() + FRESH_LOOK;
        }
    }

    /// Waits as long as this leader is in touch with a majority; `None` if it is not any more.
    async fn while_fresh<T>(
        &mut self,
        partition: &Partition,
        waiting: impl Future<Output = T>,
    ) -> Option<T> {
        self.while_so(|| partition.check_fresh().is_ok(), waiting)
            .await
    }
}

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
        patience: &mut Patience,
    ) -> (Option<Arc<Partition>>, Result<Appended, Failure>) {
        match self {
            Waiting::Failed(failure) => (None, Err(failure)),
            Waiting::Duplicate {
                partition,
                appended,
                end_offset,
            } => {
                let committed = committed(&partition, end_offset, patience).await;
                (Some(partition), committed.map(|()| appended))
            }
            Waiting::WrittenBefore {
                partition,
                end_offset,
            } => {
                let code = match committed(&partition, end_offset, patience).await {
                    // Clients take this for a success without an offset.
                    Ok(()) => ErrorCode::DUPLICATE_SEQUENCE_NUMBER.into(),
                    Err(failure) => failure,
                };
                (Some(partition), Err(code))
            }
            Waiting::Committing { partition, result } => {
                let result = tokio::time::timeout_at(patience.deadline, result);
                let result = match patience.while_fresh(&partition, result).await {
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
    patience: &mut Patience,
) -> Result<(), Failure> {
    let committed = partition.wait_committed(end_offset, patience.deadline);
    match patience.while_fresh(partition, committed).await {
        Some(true) => Ok(()),
        Some(false) | None => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into()),
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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_leader_that_is_none_any_more_is_found_out_once_for_all_parts() {
        let began = Instant::now();
        let mut patience = Patience::until(began + Duration::from_secs(60));
        for _ in 0..50 {
            assert_eq!(patience.while_so(|| false, pending::<()>()).await, None);
        }
        assert_eq!(patience.while_so(|| false, ready(7)).await, Some(7));
        assert!(began.elapsed() < FRESH_LOOK * 5, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_leader_that_is_one_still_is_waited_for() {
        let mut patience = Patience::until(Instant::now() + Duration::from_secs(60));
        let done = async {
            tokio::time::sleep(FRESH_LOOK * 2).await;
            7
        };
        assert_eq!(patience.while_so(|| true, done).await, Some(7));
    }
}
