//! Fetch (key 1), versions 4-18.
//!
//! Behaviours 13 (error codes consumers know), 70-81. Versions: 7 sessions (KIP-227), 9 leader
//! epochs, 12 diverging epochs, 13 topic ids, 16 leader endpoints.
//!
//! A request is placed in its session, read once, and if that is not enough to answer, waits
//! for a high watermark to move, reading again, until its deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use kafka_protocol::messages::fetch_request::FetchRequest;
use klamm_metadata::Image;
use klamm_protocol::{
    EpochEndOffset, ErrorCode, FetchPartition, FetchResponse, LeaderIdAndEpoch, StrBytes, decode,
};
use klamm_records::TopicId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::RequestContext;
use crate::fetch::{Outcome, PartitionKey, Placed, SessionRequest, Told, TopicKey, Wanted};
use crate::partition::{Isolation, Partition, ReadRequest};
use crate::server::Held;
use crate::server::dispatch::{Reply, Started, undecodable};

/// A client that asks to wait longer is answered after this (hostile input 80).
const MAX_WAIT: Duration = Duration::from_secs(5 * 60);

/// Starts a Fetch request. Reading is not part of the connection's order: only answering is.
pub fn start(ctx: RequestContext, body: Bytes) -> Started {
    match decode::<FetchRequest>(body, ctx.version) {
        Ok(request) => {
            let arrived = Instant::now();
            Started::Running(async move { handle(ctx, request, arrived).await }.boxed())
        }
        Err(error) => undecodable(&ctx, &error),
    }
}

async fn handle(ctx: RequestContext, request: FetchRequest, arrived: Instant) -> Reply {
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let max_bytes = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(ctx.shared.limits.fetch_max_bytes);
    let limits = Limits {
        deadline: arrived + wait,
        // More than may be sent cannot be waited for.
        min_bytes: usize::try_from(request.min_bytes)
            .unwrap_or(0)
            .min(max_bytes),
        max_bytes,
        isolation: if request.isolation_level == 1 {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        },
        from_replica: request.replica_id.0 >= 0 || request.replica_state.replica_id.0 >= 0,
        rack: (ctx.version >= 11 && ctx.shared.limits.reads_nearest)
            .then(|| request.rack_id.clone()),
    };
    let placed = ctx.shared.sessions.place(
        session_request(&ctx, request),
        ctx.shared.steady.now_ms(),
        rand::random::<i32>,
    );
    let placed = match placed {
        Ok(placed) => placed,
        Err(error) => {
            ctx.shared.metrics.failed(ctx.api, error);
            let mut response = FetchResponse::default();
            response.error = error;
            let nothing = ctx.shared.answers.hold(0);
            return encode(&ctx, response, nothing);
        }
    };
    let fetch = Arc::new(Fetch::resolve(ctx, &placed, limits));
    let found = fetch.clone().until_enough().await;
    fetch.answer(&placed, found)
}

/// What bounds an answer.
struct Limits {
    deadline: Instant,
    min_bytes: usize,
    max_bytes: usize,
    isolation: Isolation,
    /// The request claims to come from a replica: refused, those have their own way (CVE-2018-1288).
    from_replica: bool,
    /// Where the reader stands, perhaps nowhere; `None` when it is to read from leaders only (KIP-392).
    rack: Option<StrBytes>,
}

fn session_request(ctx: &RequestContext, request: FetchRequest) -> SessionRequest {
    let uses_ids = ctx.version >= 13;
    let mut names: HashMap<StrBytes, Arc<str>> = HashMap::new();
    let mut key = |name: &StrBytes, id| {
        if uses_ids {
            TopicKey::Id(TopicId(id))
        } else {
            TopicKey::Name(
                names
                    .entry(name.clone())
                    .or_insert_with(|| Arc::from(&**name))
                    .clone(),
            )
        }
    };
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let topic_key = key(&topic.topic.0, topic.topic_id);
        for partition in &topic.partitions {
            let wanted = Wanted {
                fetch_offset: partition.fetch_offset,
                current_leader_epoch: if ctx.version >= 9 {
                    partition.current_leader_epoch
                } else {
                    -1
                },
                last_fetched_epoch: if ctx.version >= 12 {
                    partition.last_fetched_epoch
                } else {
                    -1
                },
                max_bytes: partition.partition_max_bytes,
            };
            partitions.push(((topic_key.clone(), partition.partition), wanted));
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_key = key(&topic.topic.0, topic.topic_id);
        forgotten.extend(
            topic
                .partitions
                .iter()
                .map(|&partition| (topic_key.clone(), partition)),
        );
    }
    SessionRequest {
        session_id: if ctx.version >= 7 {
            request.session_id
        } else {
            0
        },
        epoch: if ctx.version >= 7 {
            request.session_epoch
        } else {
            -1
        },
        uses_ids,
        partitions,
        forgotten,
    }
}

/// A partition of the request, found or not.
struct Target {
    key: PartitionKey,
    name: StrBytes,
    id: TopicId,
    wanted: Wanted,
    partition: Result<Arc<Partition>, ErrorCode>,
}

struct Fetch {
    ctx: RequestContext,
    limits: Limits,
    targets: Vec<Target>,
}

/// One pass over the partitions.
struct Found {
    partitions: Vec<FetchPartition>,
    bytes: usize,
    /// Something must be told at once (behaviour 70).
    urgent: bool,
    /// Room for the records, given back when they are written.
    held: Held,
}

impl Fetch {
    fn resolve(ctx: RequestContext, placed: &Placed, limits: Limits) -> Fetch {
        let image = ctx.shared.controller.image();
        let targets = placed
            .partitions
            .iter()
            .map(|(key, wanted)| Self::target(&ctx, &image, key.clone(), *wanted))
            .collect();
        Fetch {
            ctx,
            limits,
            targets,
        }
    }

    fn target(ctx: &RequestContext, image: &Image, key: PartitionKey, wanted: Wanted) -> Target {
        let (topic, unknown) = match &key.0 {
            TopicKey::Id(id) => (image.topic_by_id(*id), ErrorCode::UNKNOWN_TOPIC_ID),
            TopicKey::Name(name) => (image.topic(name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        };
        let (name, id) = match (&key.0, topic) {
            (_, Some(topic)) => (StrBytes::from_string(topic.name.to_string()), topic.id),
            (TopicKey::Id(id), None) => (StrBytes::default(), *id),
            (TopicKey::Name(name), None) => {
                (StrBytes::from_string(name.to_string()), TopicId::ZERO)
            }
        };
        let partition = match topic {
            None => Err(unknown),
            Some(topic) if topic.partition(key.1).is_none() => {
                Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
            }
            Some(topic) => ctx
                .shared
                .partitions
                .get(topic.id, key.1)
                .ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        };
        Target {
            key,
            name,
            id,
            wanted,
            partition,
        }
    }

    /// Reads until there is enough to answer. Partitions that are just getting another leader are told with it.
    async fn until_enough(self: Arc<Self>) -> Found {
        let found = self.clone().until_told().await;
        let parts = self.targets.iter().zip(&found.partitions);
        let unled: Vec<&Target> = parts
            .filter(|(_, part)| {
                part.error == ErrorCode::NOT_LEADER_OR_FOLLOWER && part.current_leader.is_none()
            })
            .map(|(target, _)| target)
            .collect();
        if unled.is_empty() {
            return found;
        }
        // Gives the room for the records back before more is asked for.
        drop(found);
        let until = Instant::now() + super::leaders::NAMING;
        for target in unled {
            super::leaders::settle(&self.ctx, target.id, target.key.1, until).await;
        }
        // One that doubted its leader for a moment has nothing to tell by now, and goes on waiting.
        self.until_told().await
    }

    async fn until_told(self: Arc<Self>) -> Found {
        let found = self.clone().read().await;
        if self.is_enough(&found) {
            return found;
        }
        let notify = Arc::new(Notify::new());
        let watches: Vec<_> = self
            .targets
            .iter()
            .filter_map(|target| target.partition.as_ref().ok())
            .map(|partition| partition.watch(notify.clone()))
            .collect();
        // What came between the read and the registration has woken nobody.
        let mut found = self.clone().read().await;
        while !self.is_enough(&found) {
            let woken = tokio::time::timeout_at(self.limits.deadline, notify.notified())
                .await
                .is_ok();
            found = self.clone().read().await;
            if !woken {
                break;
            }
        }
        drop(watches);
        found
    }

    fn is_enough(&self, found: &Found) -> bool {
        found.urgent
            || found.bytes >= self.limits.min_bytes
            || self.targets.is_empty()
            || Instant::now() >= self.limits.deadline
    }

    /// Reads all partitions; off the runtime when the disk may have to be waited for, and then a few
    /// at a time: five hundred threads read no faster than some, and what each has had in hand stays
    /// with the allocator.
    async fn read(self: Arc<Self>) -> Found {
        let hot = self.targets.iter().all(|target| {
            target.partition.as_ref().map_or(true, |partition| {
                partition.is_hot(target.wanted.fetch_offset)
            })
        });
        if hot {
            return self.read_now();
        }
        let permit = self.ctx.shared.cold_reads.clone().acquire_owned().await;
        // The permit comes back with what was found: by then the thread is free for the next read,
        // which would start another one else.
        match klamm_raft::blocking::spawn_blocking(move || (self.read_now(), permit)).await {
            Ok((found, _permit)) => found,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn read_now(&self) -> Found {
        let asked = |target: &Target| usize::try_from(target.wanted.max_bytes).unwrap_or(0);
        let wanted = self
            .targets
            .iter()
            .map(asked)
            .fold(0, usize::saturating_add);
        let mut found = Found {
            partitions: Vec::with_capacity(self.targets.len()),
            bytes: 0,
            urgent: false,
            held: self
                .ctx
                .shared
                .answers
                .hold(wanted.min(self.limits.max_bytes)),
        };
        let max_bytes = found.held.bytes();
        for target in &self.targets {
            let part = self.read_target(target, found.bytes, max_bytes);
            found.bytes += part.records_len();
            found.urgent |= must_tell(&part);
            found.partitions.push(part);
        }
        found.held.settle(found.bytes);
        found
    }

    /// Reads a partition, up to the rest of `max_bytes`.
    fn read_target(
        &self,
        target: &Target,
        bytes_before: usize,
        max_bytes: usize,
    ) -> FetchPartition {
        let index = target.key.1;
        let partition = match &target.partition {
            _ if self.limits.from_replica => {
                return FetchPartition::of_error(index, ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
            }
            Ok(partition) => partition,
            Err(error) => {
                let mut part = FetchPartition::of_error(index, *error);
                if *error == ErrorCode::NOT_LEADER_OR_FOLLOWER {
                    part.current_leader = leader_hint(&self.ctx, target);
                }
                return part;
            }
        };
        let preferred = self.preferred(target, partition).unwrap_or(-1);
        // A reader that is sent elsewhere is told of the offsets only.
        let room = match preferred {
            -1 => max_bytes.saturating_sub(bytes_before),
            _ => 0,
        };
        let read = partition.read(&ReadRequest {
            fetch_offset: target.wanted.fetch_offset,
            current_leader_epoch: target.wanted.current_leader_epoch,
            last_fetched_epoch: target.wanted.last_fetched_epoch,
            max_bytes: usize::try_from(target.wanted.max_bytes)
                .unwrap_or(0)
                .min(room),
            // The first partition that has something answers it whole, so that a small fetch
            // size cannot stop a consumer (behaviour 71).
            at_least_one: bytes_before == 0 && preferred == -1,
            isolation: self.limits.isolation,
            from_follower: self.limits.rack.is_some() && self.hears_leader(partition),
        });
        let read = match read {
            // Who waits at the end of a log that another may lead by now would wait for ever.
            Ok(read) if read.records.is_empty() && self.may_be_deposed(partition) => {
                Err(ErrorCode::NOT_LEADER_OR_FOLLOWER)
            }
            read => read,
        };
        match read {
            Err(error) => {
                let mut part = FetchPartition::of_error(index, error);
                if error == ErrorCode::NOT_LEADER_OR_FOLLOWER
                    || error == ErrorCode::FENCED_LEADER_EPOCH
                {
                    part.current_leader = leader_hint(&self.ctx, target);
                }
                part
            }
            Ok(read) => FetchPartition {
                partition: index,
                error: ErrorCode::NONE,
                high_watermark: read.high_watermark,
                last_stable_offset: read.last_stable_offset,
                log_start_offset: read.log_start_offset,
                preferred_read_replica: if read.diverging.is_none() {
                    preferred
                } else {
                    -1
                },
                diverging_epoch: read.diverging.map(|end| EpochEndOffset {
                    epoch: end.epoch,
                    end_offset: end.end_offset,
                }),
                current_leader: None,
                aborted_transactions: (self.limits.isolation == Isolation::ReadCommitted)
                    .then(Vec::new),
                records: read.records,
            },
        }
    }

    /// The follower in the reader's rack, when the leader, this node, stands in another one.
    fn preferred(&self, target: &Target, partition: &Partition) -> Option<i32> {
        let rack = self.limits.rack.as_ref().filter(|rack| !rack.is_empty())?;
        partition.serving_epoch()?;
        let image = self.ctx.shared.controller.image();
        let is_there = |broker: i32| {
            let registered = image.broker(broker).filter(|broker| !broker.fenced);
            registered.and_then(|broker| broker.rack.as_deref()) == Some(&**rack)
        };
        if is_there(self.ctx.shared.node_id) {
            return None;
        }
        partition.nearest(target.wanted.fetch_offset, is_there)
    }

    /// Whether this node is in touch with the partition's leader: else it does not know what is committed.
    fn hears_leader(&self, partition: &Partition) -> bool {
        let leader = partition.leadership().leader;
        leader.is_some_and(|leader| self.ctx.shared.cluster.hears(leader))
    }

    /// Whether this node leads, and among other nodes cannot be sure of it.
    fn may_be_deposed(&self, partition: &Partition) -> bool {
        !self.ctx.shared.cluster.is_alone()
            && partition.serving_epoch().is_some()
            && partition.check_fresh().is_err()
    }

    fn answer(&self, placed: &Placed, found: Found) -> Reply {
        let outcomes: Vec<(PartitionKey, Outcome)> = self
            .targets
            .iter()
            .zip(&found.partitions)
            .map(|(target, part)| (target.key.clone(), outcome(part)))
            .collect();
        let tell = self.ctx.shared.sessions.answered(placed, &outcomes);
        let mut response = FetchResponse::default();
        response.session_id = placed.session_id();
        let mut leaders_told = false;
        for ((target, part), tell) in self.targets.iter().zip(found.partitions).zip(tell) {
            if !part.error.is_none() {
                self.ctx.shared.metrics.failed(self.ctx.api, part.error);
            }
            if tell {
                leaders_told |= part.current_leader.is_some();
                response.push(&target.name, target.id, part);
            }
        }
        if leaders_told {
            response.node_endpoints = super::endpoints::fetch(&self.ctx);
        }
        self.ctx.shared.metrics.bytes_fetched(found.bytes);
        encode(&self.ctx, response, found.held)
    }
}

fn leader_hint(ctx: &RequestContext, target: &Target) -> Option<LeaderIdAndEpoch> {
    let (leader_id, leader_epoch) = super::leaders::hint(ctx, target.id, target.key.1)?;
    Some(LeaderIdAndEpoch {
        leader_id,
        leader_epoch,
    })
}

/// What the client does not wait for.
fn must_tell(part: &FetchPartition) -> bool {
    !part.error.is_none() || part.diverging_epoch.is_some() || part.preferred_read_replica >= 0
}

fn outcome(part: &FetchPartition) -> Outcome {
    Outcome {
        has_records: !part.records.is_empty(),
        must_tell: must_tell(part),
        told: Told {
            high_watermark: part.high_watermark,
            log_start_offset: part.log_start_offset,
        },
    }
}

fn encode(ctx: &RequestContext, response: FetchResponse, held: Held) -> Reply {
    match response.encode(ctx.version, ctx.correlation_id) {
        Ok(chunks) => Reply::Chunks(chunks, held),
        Err(error) => Reply::Close(format!("failed to encode a Fetch answer: {error}")),
    }
}
