//! CreateTopics (key 19), versions 2-7 (behaviours 18, 106, 107).
//!
//! Versions: 4 the broker's defaults by -1, 5 effective configuration in the answer, 7 topic ids.
//! The answer waits until the new partitions have leaders, or the request's timeout.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use klamm_metadata::Problem;
use klamm_metadata::names::{GROUP_METADATA_TOPIC, is_internal};
use klamm_metadata::rules::{self, ConfigEntry, CreatedTopic, NewTopic};
use klamm_protocol::ErrorCode;
use klamm_records::TopicId;
use tokio::time::Instant;
use uuid::Uuid;

use super::{MAX_ADMIN_WAIT, answers, code_of, leaders, message_of, poll_until, text};
use crate::context::RequestContext;
use crate::coordinator::offsets_topic;

/// Leaders on other nodes are looked for so often.
const POLL: Duration = Duration::from_millis(20);

/// Answers a CreateTopics request.
pub async fn handle(ctx: RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let timeout =
        Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)).min(MAX_ADMIN_WAIT);
    let names: Vec<String> = request
        .topics
        .iter()
        .map(|topic| topic.name.to_string())
        .collect();
    let topics = request.topics.into_iter().map(new_topic).collect();
    let validate_only = request.validate_only;
    let results: Vec<CreatableTopicResult> =
        match create_within_rate(&ctx, topics, validate_only, timeout).await {
            Ok(results) => results
                .into_iter()
                .map(|(name, result)| answer(&ctx, name, result))
                .collect(),
            Err(error) => names
                .into_iter()
                .map(|name| failed(&ctx, name, error))
                .collect(),
        };
    let is_throttled = |result: &&CreatableTopicResult| {
        result.error_code == ErrorCode::THROTTLING_QUOTA_EXCEEDED.code()
    };
    let throttled = results.iter().filter(is_throttled).count();
    CreateTopicsResponse::default()
        .with_throttle_time_ms(throttle_ms(&ctx, throttled))
        .with_topics(results)
}

/// Creates topics with the broker's defaults, as many as are given: what a client's first use of a name does.
pub(super) async fn create_with_defaults(
    ctx: &RequestContext,
    names: BTreeSet<String>,
    wait: Duration,
) {
    let live = ctx.shared.controller.image().live_brokers().count();
    // A cluster that is not complete yet creates the topic of offsets with all its replicas or not at all.
    let brokers = live.max(ctx.shared.cluster.size());
    let settings = ctx.shared.settings();
    let topics = names
        .into_iter()
        .map(|name| {
            if name == GROUP_METADATA_TOPIC {
                return offsets_topic(&settings, brokers);
            }
            NewTopic {
                name,
                partitions: -1,
                replication_factor: -1,
                assignments: Vec::new(),
                configs: Vec::new(),
            }
        })
        .collect();
    match create(ctx, topics, false, wait).await {
        Ok(results) => {
            for (name, result) in results {
                if let Err(problem) = result {
                    tracing::debug!(topic = name, %problem, "topic not created on first use");
                }
            }
        }
        Err(error) => tracing::debug!(error = error.name(), "topics not created on first use"),
    }
}

/// Parts topics in those that may be created now and the rest (hostile inputs 78 and 139): each new one costs
/// this node memory and files for good.
pub(super) fn within_rate<T>(
    ctx: &RequestContext,
    topics: Vec<T>,
    is_new: impl Fn(&T) -> bool,
) -> (Vec<T>, Vec<T>) {
    let wanted = topics.iter().filter(|topic| is_new(topic)).count();
    let mut left = allowed_now(ctx, wanted);
    topics.into_iter().partition(|topic| {
        if !is_new(topic) {
            return true;
        }
        let is_allowed = left > 0;
        left -= usize::from(is_allowed);
        is_allowed
    })
}

/// How many of so many new topics may be created now.
fn allowed_now(ctx: &RequestContext, wanted: usize) -> usize {
    const BURST_SECONDS: f64 = 10.0;
    let per_second = f64::from(ctx.shared.settings().int("klamm.topic.creation.rate"));
    let mut rate = ctx.shared.topic_creations.lock();
    let allowed = rate.take(wanted, per_second, BURST_SECONDS, Instant::now());
    ctx.shared.metrics.topics_throttled(wanted - allowed);
    allowed
}

/// When so many topics may be tried again, in ms. Clients keep silent for so long, so not for long.
fn throttle_ms(ctx: &RequestContext, throttled: usize) -> i32 {
    const MOST_MS: usize = 1000;
    let per_second = ctx.shared.settings().int("klamm.topic.creation.rate");
    let per_second = usize::try_from(per_second).unwrap_or(1).max(1);
    let wait_ms = throttled.saturating_mul(1000).div_ceil(per_second);
    i32::try_from(wait_ms.min(MOST_MS)).expect("a second fits")
}

type Results = Vec<(String, Result<CreatedTopic, Problem>)>;

/// Creates what may be created now; what is refused for another reason does not count.
async fn create_within_rate(
    ctx: &RequestContext,
    topics: Vec<NewTopic>,
    validate_only: bool,
    wait: Duration,
) -> Result<Results, ErrorCode> {
    let is_new = {
        let image = ctx.shared.controller.image();
        let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
        for topic in &topics {
            if !seen.insert(&topic.name) {
                repeated.insert(topic.name.clone());
            }
        }
        move |topic: &NewTopic| {
            let name = &topic.name;
            // There are few of the broker's own, and groups cannot do without.
            let is_exempt = validate_only || is_internal(name);
            !is_exempt && !repeated.contains(name) && image.topic(name).is_none()
        }
    };
    let (topics, throttled) = within_rate(ctx, topics, is_new);
    let mut results = create(ctx, topics, validate_only, wait).await?;
    results.extend(throttled.into_iter().map(|topic| {
        let why = "Topics are created faster than klamm.topic.creation.rate allows; try again.";
        (topic.name, Err(Problem::throttled(why)))
    }));
    Ok(results)
}

async fn create(
    ctx: &RequestContext,
    topics: Vec<NewTopic>,
    validate_only: bool,
    wait: Duration,
) -> Result<Results, ErrorCode> {
    let deadline = Instant::now() + wait;
    let seed = rand::random();
    let results: Results = ctx
        .shared
        .change(move |context| {
            let mut new_id = || TopicId(Uuid::new_v4());
            answers(rules::create_topics(
                context,
                &topics,
                validate_only,
                seed,
                &mut new_id,
            ))
        })
        .await?;
    let created = results
        .iter()
        .filter_map(|(_, result)| result.as_ref().ok())
        .map(|topic| topic.id);
    if !validate_only {
        wait_for_leaders(ctx, created.collect(), deadline).await;
    }
    Ok(results)
}

/// Waits until clients can use the topics: their metadata have leaders.
async fn wait_for_leaders(ctx: &RequestContext, topics: Vec<TopicId>, deadline: Instant) {
    if topics.is_empty() || !ctx.shared.wait_reconciled(deadline).await {
        return;
    }
    for id in topics {
        for partition in ctx.shared.partitions.of_topic(id) {
            partition.wait_led(deadline).await;
        }
        poll_until(deadline, POLL, || is_led(ctx, id)).await;
    }
}

/// Whether clients find leaders for all partitions of a topic.
fn is_led(ctx: &RequestContext, id: TopicId) -> bool {
    let image = ctx.shared.controller.image();
    image.topic_by_id(id).is_none_or(|topic| {
        let mut partitions = topic.partitions.iter();
        partitions.all(|partition| leaders::led(ctx, &image, topic, partition).leader != -1)
    })
}

fn new_topic(topic: CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assigned| {
                (
                    assigned.partition_index,
                    assigned.broker_ids.iter().map(|id| id.0).collect(),
                )
            })
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|config| {
                (
                    config.name.to_string(),
                    config.value.as_ref().map(ToString::to_string),
                )
            })
            .collect(),
    }
}

fn answer(
    ctx: &RequestContext,
    name: String,
    result: Result<CreatedTopic, Problem>,
) -> CreatableTopicResult {
    let answer = CreatableTopicResult::default().with_name(TopicName(text(name)));
    match result {
        Ok(topic) => {
            let answer = if ctx.version >= 7 {
                answer.with_topic_id(topic.id.0)
            } else {
                answer
            };
            if ctx.version < 5 {
                return answer;
            }
            answer
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(Some(topic.configs.into_iter().map(config).collect()))
        }
        Err(problem) => {
            ctx.shared.metrics.failed(ctx.api, code_of(&problem));
            let answer = answer
                .with_error_code(code_of(&problem).code())
                .with_error_message(message_of(&problem));
            if ctx.version < 5 {
                return answer;
            }
            answer
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_configs(None)
        }
    }
}

fn config(entry: ConfigEntry) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_name(text(entry.name))
        .with_value(entry.value.map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source.code())
        .with_is_sensitive(entry.sensitive)
}

fn failed(ctx: &RequestContext, name: String, error: ErrorCode) -> CreatableTopicResult {
    ctx.shared.metrics.failed(ctx.api, error);
    CreatableTopicResult::default()
        .with_name(TopicName(text(name)))
        .with_error_code(error.code())
}
