//! Produce (key 0), versions 3-13.
//!
//! Behaviours 3 (acks=0), 28-43 (validation, by klamm-records), 44-51 (idempotence, by the
//! partition). Versions: 8 adds `record_errors` and `error_message`, 10 leader hints (KIP-951),
//! 13 topic ids.
//!
//! Three steps: *prepare* (find the partition, validate the batch; off the runtime when there is
//! much to compress or decompress, which is only known when it has been tried), *hand over* (in the
//! connection's order) and *finish* (wait for commits, build the answer).
//!
//! - `acks=all` is answered when a majority has it on disk, and refused before anything is written
//!   while fewer than `min.insync.replicas` keep up.
//! - `acks=1` is answered at the same moment, without regard to `min.insync.replicas`. Kafka answers when
//!   the leader has it; that would save a round trip, lose what was acknowledged with the leader, and let a
//!   producer run ahead of slow followers by as much as memory holds.
//! - `acks=0` is not answered. Among other nodes the request still counts as in progress until a majority has
//!   it, so that memory is bounded here, too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, ProduceResponse,
    TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use klamm_metadata::names;
use klamm_protocol::{ErrorCode, decode};
use klamm_records::{BatchError, BatchHeader, TopicId, Validated, needs_codec, validate};
use tokio::time::Instant;

use self::waiting::{Failure, Patience, Waiting, hand_over};
use super::refusals::Lane;
use super::{endpoints, leaders, validation_rules};
use crate::context::RequestContext;
use crate::partition::{Appended, Partition};
use crate::server::dispatch::{Reply, Started, reply, undecodable};

mod waiting;

/// Client id of tools that may write to internal topics (behaviour 42).
const ADMIN_CLIENT_ID: &str = "__admin_client";
/// A commit on this node's own disk is allowed this long, however short the client's timeout:
/// that one is meant for replicas.
const LOCAL_COMMIT: Duration = Duration::from_secs(5);
/// Bytes that go through a codec, as they came in, from which validation leaves the runtime (R22).
const OFF_RUNTIME_BYTES: usize = 64 * 1024;
/// Decompressed bytes of one batch from which it does: what came in may be a bomb.
const OFF_RUNTIME_OUTPUT: usize = 512 * 1024;
/// Decompressed bytes of one batch that there it is tried with first.
const FIRST_OUTPUT: usize = 8 * 1024 * 1024;

/// A partition's part of the request, as named by the client.
struct Part {
    index: i32,
    records: Option<Bytes>,
}

struct Topic {
    name: TopicName,
    id: TopicId,
    parts: Vec<Part>,
}

type Prepared = Result<(Arc<Partition>, Validated), Failure>;

/// Starts a Produce request.
pub fn start(ctx: RequestContext, body: Bytes) -> Started {
    let request = match decode::<ProduceRequest>(body, ctx.version) {
        Ok(request) => request,
        Err(error) => return undecodable(&ctx, &error),
    };
    let produce = Produce::new(ctx, request);
    if let Some(prepared) = produce.prepare(Place::Runtime) {
        return Started::Running(produce.hand_over(prepared));
    }
    Started::Later(prepare_elsewhere(produce).boxed())
}

/// Validates off the runtime: as many requests at a time as can get on, in as much memory as there
/// is for it. Most batches unpack to little; one that does not waits for room for all it may.
async fn prepare_elsewhere(mut produce: Produce) -> BoxFuture<'static, Reply> {
    let budget = produce.ctx.shared.codec_budget.clone();
    for output in [FIRST_OUTPUT.min(budget.most()), budget.most()] {
        let room = budget.room(output).await;
        let work = klamm_raft::blocking::spawn_blocking(move || {
            let prepared = produce.prepare(Place::Thread { output });
            drop(room);
            (produce, prepared)
        });
        let (back, prepared) = match work.await {
            Ok(done) => done,
            Err(error) => {
                let why = format!("validation failed: {error}");
                return std::future::ready(Reply::Close(why)).boxed();
            }
        };
        produce = back;
        if let Some(prepared) = prepared {
            return produce.hand_over(prepared);
        }
    }
    let why = "a batch unpacks to more than there is room for".to_owned();
    std::future::ready(Reply::Close(why)).boxed()
}

/// Where batches are validated, and so how much may go through a codec.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Runtime,
    /// A batch may unpack to so many bytes there.
    Thread {
        output: usize,
    },
}

/// A part that is not validated: because it cannot be, or not here.
enum Unprepared {
    Failed(Failure),
    /// It takes too long for the runtime.
    Elsewhere,
}

impl From<Failure> for Unprepared {
    fn from(failure: Failure) -> Unprepared {
        Unprepared::Failed(failure)
    }
}

impl From<ErrorCode> for Unprepared {
    fn from(code: ErrorCode) -> Unprepared {
        Unprepared::Failed(code.into())
    }
}

struct Produce {
    ctx: RequestContext,
    acks: i16,
    timeout_ms: i32,
    topics: Vec<Topic>,
}

impl Produce {
    fn new(ctx: RequestContext, request: ProduceRequest) -> Produce {
        let part = |data: PartitionProduceData| Part {
            index: data.index,
            records: data.records,
        };
        Produce {
            ctx,
            acks: request.acks,
            timeout_ms: request.timeout_ms,
            topics: request
                .topic_data
                .into_iter()
                .map(|topic| Topic {
                    name: topic.name,
                    id: TopicId(topic.topic_id),
                    parts: topic.partition_data.into_iter().map(part).collect(),
                })
                .collect(),
        }
    }

    /// Finds partitions and validates batches: pure work, in the order of the request. `None` when
    /// it is too much for this place, never on a thread.
    fn prepare(&self, place: Place) -> Option<Vec<Prepared>> {
        let image = self.ctx.shared.controller.image();
        let mut seen = std::collections::HashSet::new();
        let mut prepared = Vec::new();
        let mut codec_bytes = 0;
        for topic in &self.topics {
            let found = if self.ctx.version >= 13 {
                image
                    .topic_by_id(topic.id)
                    .ok_or(ErrorCode::UNKNOWN_TOPIC_ID)
            } else {
                image
                    .topic(&topic.name)
                    .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
            };
            for part in &topic.parts {
                prepared.push(match found {
                    Err(code) => Err(code.into()),
                    // Twice in one request would make the order of appends a matter of luck.
                    Ok(found) if !seen.insert((found.id, part.index)) => {
                        Err(ErrorCode::INVALID_REQUEST.into())
                    }
                    Ok(found) => match self.prepare_part(found, part, place, &mut codec_bytes) {
                        Ok(valid) => Ok(valid),
                        Err(Unprepared::Failed(failure)) => Err(failure),
                        Err(Unprepared::Elsewhere) => return None,
                    },
                });
            }
        }
        Some(prepared)
    }

    fn prepare_part(
        &self,
        topic: &klamm_metadata::Topic,
        part: &Part,
        place: Place,
        codec_bytes: &mut usize,
    ) -> Result<(Arc<Partition>, Validated), Unprepared> {
        let ctx = &self.ctx;
        if !matches!(self.acks, -1..=1) {
            return Err(ErrorCode::INVALID_REQUIRED_ACKS.into());
        }
        if names::is_internal(&topic.name) && ctx.client_id.as_deref() != Some(ADMIN_CLIENT_ID) {
            return Err(ErrorCode::INVALID_TOPIC_EXCEPTION.into());
        }
        let assigned = topic
            .partition(part.index)
            .ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        // Known to the cluster, not open here (yet).
        let partition = ctx
            .shared
            .partitions
            .get(topic.id, part.index)
            .ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        partition.check_epoch(-1)?;
        // Nothing could be acknowledged here before there is a majority again, and would wait in memory. The
        // others may have another leader by now, and this error makes clients ask.
        if !ctx.shared.cluster.is_alone() {
            partition.check_fresh()?;
        }
        let settings = partition.settings();
        // No more than there are, as in Kafka: a topic of one replica is not stopped by the default.
        let required = settings.min_insync_replicas.min(assigned.replicas.len());
        if self.acks == -1 && partition.in_sync().len() < required {
            return Err(ErrorCode::NOT_ENOUGH_REPLICAS.into());
        }
        let mut rules = validation_rules(&settings, ctx.version);
        let batch = part.records.clone().unwrap_or_default();
        // Whatever a topic's setting allows: a batch has to fit the room there is.
        let most = ctx
            .shared
            .codec_budget
            .most()
            .max(settings.max_message_bytes);
        let allowed = rules.decompress_budget.min(most);
        let here = match place {
            Place::Runtime => {
                if needs_codec(&batch, &rules) {
                    *codec_bytes += batch.len();
                }
                if *codec_bytes >= OFF_RUNTIME_BYTES {
                    return Err(Unprepared::Elsewhere);
                }
                OFF_RUNTIME_OUTPUT
            }
            Place::Thread { output } if output == ctx.shared.codec_budget.most() => most,
            Place::Thread { output } => output,
        };
        rules.decompress_budget = allowed.min(here);
        match validate(batch, &rules, ctx.shared.clock.now_ms()) {
            Ok(validated) => Ok((partition, validated)),
            Err(BatchError::TooLarge {
                decompressed: true, ..
            }) if here < allowed => Err(Unprepared::Elsewhere),
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// Gives validated batches to their partitions. Everything after this may overtake.
    fn hand_over(self, prepared: Vec<Prepared>) -> BoxFuture<'static, Reply> {
        let parts = self
            .topics
            .iter()
            .flat_map(|topic| topic.parts.iter().map(move |part| (topic, part)));
        let waiting: Vec<Waiting> = parts
            .zip(prepared)
            .map(|((topic, part), prepared)| match prepared {
                Err(failure) => {
                    self.note_refused(topic, part, failure.code);
                    Waiting::Failed(failure)
                }
                Ok((partition, validated)) => hand_over(&self.ctx, partition, validated),
            })
            .collect();
        if self.acks == 0 {
            let failed = waiting.iter().find_map(Waiting::failed);
            if failed.is_some() || self.ctx.shared.cluster.is_alone() {
                return std::future::ready(self.unacknowledged(failed)).boxed();
            }
            return self.finish_unacknowledged(waiting).boxed();
        }
        self.finish(waiting).boxed()
    }

    /// acks=0: no answer; a failure closes the connection so that the producer notices (behaviour 3).
    fn unacknowledged(&self, failed: Option<ErrorCode>) -> Reply {
        match failed {
            None => Reply::Silent,
            Some(code) => {
                self.ctx.shared.metrics.failed(self.ctx.api, code);
                Reply::Close(format!("a Produce with acks=0 failed: {}", code.name()))
            }
        }
    }

    fn deadline(&self) -> Instant {
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        Instant::now() + timeout.max(LOCAL_COMMIT)
    }

    /// acks=0 among other nodes: as long as a majority lacks the batches they are held in memory, and so
    /// the request counts as in progress.
    async fn finish_unacknowledged(self, waiting: Vec<Waiting>) -> Reply {
        let mut patience = Patience::until(self.deadline());
        for waiting in waiting {
            if let (_, Err(failure)) = waiting.settled(&mut patience).await {
                return self.unacknowledged(Some(failure.code));
            }
        }
        self.unacknowledged(None)
    }

    async fn finish(self, waiting: Vec<Waiting>) -> Reply {
        let mut patience = Patience::until(self.deadline());
        let mut waiting = waiting.into_iter();
        let mut topics = Vec::with_capacity(self.topics.len());
        let mut leaders_wanted = false;
        let mut naming = None;
        for topic in &self.topics {
            let mut parts = Vec::with_capacity(topic.parts.len());
            for (part, waiting) in topic.parts.iter().zip(waiting.by_ref()) {
                let (partition, result) = waiting.settled(&mut patience).await;
                if let (Some(_), Err(failure)) = (&partition, &result) {
                    self.note_refused(topic, part, failure.code);
                }
                if is_not_leader(&result) {
                    // Once for all of them: others wait behind this answer.
                    let until = *naming.get_or_insert_with(|| Instant::now() + leaders::NAMING);
                    leaders::settle(&self.ctx, self.id(topic), part.index, until).await;
                }
                let answer = self.answer(topic, part.index, partition, result);
                leaders_wanted |= answer.current_leader.leader_id.0 >= 0;
                parts.push(answer);
            }
            topics.push(
                TopicProduceResponse::default()
                    .with_name(if self.ctx.version >= 13 {
                        TopicName::default()
                    } else {
                        topic.name.clone()
                    })
                    .with_topic_id(topic.id.0)
                    .with_partition_responses(parts),
            );
        }
        let mut response = ProduceResponse::default().with_responses(topics);
        if leaders_wanted && self.ctx.version >= 10 {
            response = response.with_node_endpoints(endpoints::produce(&self.ctx));
        }
        reply(self.ctx.version, self.ctx.correlation_id, &response)
    }

    fn answer(
        &self,
        topic: &Topic,
        index: i32,
        partition: Option<Arc<Partition>>,
        result: Result<Appended, Failure>,
    ) -> PartitionProduceResponse {
        let answer = PartitionProduceResponse::default().with_index(index);
        match result {
            Ok(appended) => answer
                .with_base_offset(appended.base_offset)
                .with_log_append_time_ms(appended.log_append_time)
                .with_log_start_offset(partition.map_or(-1, |partition| partition.start_offset())),
            Err(failure) => self.failed(topic, answer, failure),
        }
    }

    fn failed(
        &self,
        topic: &Topic,
        answer: PartitionProduceResponse,
        failure: Failure,
    ) -> PartitionProduceResponse {
        self.ctx.shared.metrics.failed(self.ctx.api, failure.code);
        let mut answer = answer
            .with_error_code(failure.code.code())
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(-1);
        if self.ctx.version >= 8 {
            answer.error_message = failure.message.map(StrBytes::from_string);
            answer.record_errors = failure
                .records
                .iter()
                .map(|record| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(record.index)
                        .with_batch_index_error_message(Some(StrBytes::from_string(
                            record.fault.to_string(),
                        )))
                })
                .collect();
        }
        if self.ctx.version >= 10
            && failure.code == ErrorCode::NOT_LEADER_OR_FOLLOWER
            && let Some((leader, epoch)) = self.leader_hint(topic, answer.index)
        {
            answer.current_leader = LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(leader))
                .with_leader_epoch(epoch);
        }
        answer
    }
}

impl Produce {
    fn leader_hint(&self, topic: &Topic, index: i32) -> Option<(i32, i32)> {
        leaders::hint(&self.ctx, self.id(topic), index)
    }

    /// Notes a part that is refused, for those that follow it.
    fn note_refused(&self, topic: &Topic, part: &Part, code: ErrorCode) {
        let Some(header) = part.records.as_deref().and_then(BatchHeader::parse) else {
            return;
        };
        let lane = Lane {
            topic: self.id(topic),
            index: part.index,
            producer_id: header.producer_id,
        };
        let refusals = &self.ctx.shared.refusals;
        refusals.note(lane, &header, code, Instant::now());
    }

    /// A topic's id; zero for one that does not exist.
    fn id(&self, topic: &Topic) -> TopicId {
        if self.ctx.version >= 13 {
            return topic.id;
        }
        let image = self.ctx.shared.controller.image();
        let found = image.topic(&topic.name);
        found.map_or(TopicId::ZERO, |found| found.id)
    }
}

fn is_not_leader(result: &Result<Appended, Failure>) -> bool {
    let failed = result.as_ref().err();
    failed.is_some_and(|failure| failure.code == ErrorCode::NOT_LEADER_OR_FOLLOWER)
}
