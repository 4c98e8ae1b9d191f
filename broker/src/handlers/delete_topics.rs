//! DeleteTopics (key 20), versions 1-6 (behaviours 27, 109). Version 6 names topics by id too.

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::delete_topics_request::DeleteTopicsRequest;
use kafka_protocol::messages::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponse,
};
use klamm_metadata::Problem;
use klamm_metadata::rules::{self, DeletedTopic, TopicRef};
use klamm_protocol::ErrorCode;
use klamm_records::TopicId;
use tokio::time::Instant;

use super::{answers, code_of, message_of, text, timeout};
use crate::context::RequestContext;

/// Answers a DeleteTopics request. The answer waits until this node has closed the partitions.
pub async fn handle(ctx: RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let deadline = Instant::now() + timeout(request.timeout_ms);
    let asked: Vec<TopicRef> = if ctx.version >= 6 {
        request
            .topics
            .iter()
            .map(|topic| TopicRef {
                name: topic.name.as_ref().map(|name| name.to_string()),
                id: TopicId(topic.topic_id),
            })
            .collect()
    } else {
        let by_name = |name: &TopicName| TopicRef {
            name: Some(name.to_string()),
            id: TopicId::ZERO,
        };
        request.topic_names.iter().map(by_name).collect()
    };
    let topics = asked.clone();
    let changed = ctx
        .shared
        .change(move |context| answers(rules::delete_topics(context, &topics)));
    let responses = match changed.await {
        Ok(results) => {
            ctx.shared.wait_reconciled(deadline).await;
            results
                .into_iter()
                .map(|(topic, result)| answer(&ctx, topic, result))
                .collect()
        }
        Err(error) => asked
            .into_iter()
            .map(|topic| failed(&ctx, topic, error))
            .collect(),
    };
    DeleteTopicsResponse::default().with_responses(responses)
}

fn answer(
    ctx: &RequestContext,
    asked: TopicRef,
    result: Result<DeletedTopic, Problem>,
) -> DeletableTopicResult {
    match result {
        Ok(deleted) => DeletableTopicResult::default()
            .with_name(Some(TopicName(text(&*deleted.name))))
            .with_topic_id(deleted.id.0),
        Err(problem) => {
            let code = match code_of(&problem) {
                ErrorCode::TOPIC_DELETION_DISABLED if ctx.version < 3 => ErrorCode::INVALID_REQUEST,
                code => code,
            };
            let answer = failed(ctx, asked, code);
            if ctx.version >= 5 {
                answer.with_error_message(message_of(&problem))
            } else {
                answer
            }
        }
    }
}

fn failed(ctx: &RequestContext, asked: TopicRef, error: ErrorCode) -> DeletableTopicResult {
    ctx.shared.metrics.failed(ctx.api, error);
    DeletableTopicResult::default()
        .with_name(asked.name.map(|name| TopicName(text(name))))
        .with_topic_id(asked.id.0)
        .with_error_code(error.code())
}
