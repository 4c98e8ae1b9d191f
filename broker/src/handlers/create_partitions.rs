//! CreatePartitions (key 37), versions 0-3 (behaviour 108).

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use klamm_metadata::rules::{self, NewPartitions};
use tokio::time::Instant;

use super::{answers, code_of, message_of, text, timeout};
use crate::context::RequestContext;

/// Answers a CreatePartitions request, once this node has opened the new partitions.
pub async fn handle(
    ctx: RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let deadline = Instant::now() + timeout(request.timeout_ms);
    let names: Vec<TopicName> = request
        .topics
        .iter()
        .map(|topic| topic.name.clone())
        .collect();
    let topics: Vec<NewPartitions> = request.topics.into_iter().map(new_partitions).collect();
    let seed = rand::random();
    let validate_only = request.validate_only;
    let changed = ctx.shared.change(move |context| {
        answers(rules::create_partitions(
            context,
            &topics,
            validate_only,
            seed,
        ))
    });
    let results = match changed.await {
        Err(error) => {
            let failed = |name| {
                CreatePartitionsTopicResult::default()
                    .with_name(name)
                    .with_error_code(error.code())
            };
            names.into_iter().map(failed).collect()
        }
        Ok(results) => {
            ctx.shared.wait_reconciled(deadline).await;
            results
                .into_iter()
                .map(|(name, result)| {
                    let answer =
                        CreatePartitionsTopicResult::default().with_name(TopicName(text(name)));
                    match result {
                        Ok(()) => answer,
                        Err(problem) => {
                            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
                            answer
                                .with_error_code(code_of(&problem).code())
                                .with_error_message(message_of(&problem))
                        }
                    }
                })
                .collect()
        }
    };
    CreatePartitionsResponse::default().with_results(results)
}

fn new_partitions(topic: CreatePartitionsTopic) -> NewPartitions {
    NewPartitions {
        topic: topic.name.to_string(),
        count: topic.count,
        assignments: topic.assignments.map(|assignments| {
            assignments
                .iter()
                .map(|assigned| assigned.broker_ids.iter().map(|id| id.0).collect())
                .collect()
        }),
    }
}
