//! DeleteRecords (key 21), versions 0-2: moves a partition's log start (behaviour 110).

use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest,
};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use klamm_metadata::Topic;
use klamm_protocol::ErrorCode;
use tokio::time::Instant;

use crate::context::RequestContext;

/// A commit on this node's own disk is allowed this long, however short the client's timeout.
const LOCAL_COMMIT: Duration = Duration::from_secs(5);
/// A client cannot make the broker hold a request for longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// Answers a DeleteRecords request: all partitions at once.
pub async fn handle(ctx: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let timeout =
        Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)).min(MAX_TIMEOUT);
    // The timeout is for replicas; this node alone is given time to write it down.
    let deadline = Instant::now() + timeout.max(LOCAL_COMMIT);
    let image = ctx.shared.controller.image();
    let topics = request.topics.into_iter().map(|topic| {
        let found = image.topic(&topic.name).cloned();
        let ctx = &ctx;
        async move {
            let answers = topic
                .partitions
                .iter()
                .map(|asked| answer(ctx, found.as_deref(), asked, deadline));
            let partitions = join_all(answers).await;
            DeleteRecordsTopicResult::default()
                .with_name(topic.name)
                .with_partitions(partitions)
        }
    });
    DeleteRecordsResponse::default().with_topics(join_all(topics).await)
}

async fn answer(
    ctx: &RequestContext,
    topic: Option<&Topic>,
    asked: &DeleteRecordsPartition,
    deadline: Instant,
) -> DeleteRecordsPartitionResult {
    let answer =
        DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
    match delete(ctx, topic, asked, deadline).await {
        Ok(low_watermark) => answer.with_low_watermark(low_watermark),
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            answer.with_low_watermark(-1).with_error_code(error.code())
        }
    }
}

async fn delete(
    ctx: &RequestContext,
    topic: Option<&Topic>,
    asked: &DeleteRecordsPartition,
    deadline: Instant,
) -> Result<i64, ErrorCode> {
    let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = super::open_partition(ctx, topic, asked.partition_index)?;
    if !partition.settings().delete {
        return Err(ErrorCode::POLICY_VIOLATION);
    }
    partition.delete_records(asked.offset, deadline).await
}
