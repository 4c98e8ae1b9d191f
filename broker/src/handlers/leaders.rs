//! Who leads a partition, as this node knows and a client may be told.
//!
//! A node that has a replica knows from its Raft group; of other partitions it knows what their leaders said.
//! Nobody is named who cannot be reached, nor by a leader that has lost touch with its majority (R15): the
//! client is told that there is no leader, and asks again.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::BrokerId;
use klamm_metadata::{Image, Partition, Topic};
use klamm_records::TopicId;
use tokio::time::Instant;

use crate::context::RequestContext;
use crate::partition::epoch;

/// How long an answer that could name no leader waits for one. A hand-over takes some milliseconds, an election among
/// nodes that are there not much more; a client that has to ask again waits up to five seconds (franz-go). Other
/// partitions of the connection wait behind the answer, so it is short.
pub(super) const NAMING: Duration = Duration::from_millis(150);

/// A partition's leadership for an answer.
pub(super) struct Led {
    /// Broker id, -1 for none.
    pub(super) leader: i32,
    /// Leader epoch; -1 when nothing is known.
    pub(super) epoch: i32,
    /// Replicas that keep up.
    pub(super) in_sync: Vec<BrokerId>,
    /// Replicas on brokers that are gone.
    pub(super) offline: Vec<BrokerId>,
}

/// What is known of a leader, before it is known whether a client can reach it.
struct Known {
    leader: Option<i32>,
    term: u64,
    in_sync: Option<Arc<[i32]>>,
}

/// Leader and replicas of a partition.
pub(super) fn led(
    ctx: &RequestContext,
    image: &Image,
    topic: &Topic,
    partition: &Partition,
) -> Led {
    let is_live = |id: &i32| image.is_live(*id);
    let brokers = |ids: &mut dyn Iterator<Item = i32>| ids.map(BrokerId).collect();
    let replicas = || partition.replicas.iter().copied();
    let known = known(ctx, topic.id, partition);
    let term = known.as_ref().map(|known| known.term);
    let leader = known
        .as_ref()
        .and_then(|known| known.leader)
        .filter(|leader| is_live(leader) && ctx.shared.cluster.hears(ctx.shared.node_of(*leader)));
    let in_sync = known.and_then(|known| known.in_sync);
    Led {
        leader: leader.unwrap_or(-1),
        epoch: term.map_or(-1, epoch),
        in_sync: match in_sync.filter(|_| leader.is_some()) {
            Some(in_sync) => brokers(&mut replicas().filter(|id| in_sync.contains(id))),
            None => brokers(&mut replicas().filter(is_live)),
        },
        offline: brokers(&mut replicas().filter(|id| !is_live(id))),
    }
}

/// Leader and epoch for a client that came to the wrong broker, if a leader is known. A hint that names none must
/// not be sent: librdkafka (2.16, for one) counts it without keeping it, and reads memory that nobody wrote.
pub(super) fn hint(ctx: &RequestContext, topic: TopicId, index: i32) -> Option<(i32, i32)> {
    let image = ctx.shared.controller.image();
    let topic = image.topic_by_id(topic)?;
    let led = led(ctx, &image, topic, topic.partition(index)?);
    (led.leader >= 0).then_some((led.leader, led.epoch))
}

/// Waits, until a point in time, for a partition that is being handed over or electing to have a leader. Without a
/// majority it would not get one.
pub(super) async fn settle(ctx: &RequestContext, topic: TopicId, index: i32, until: Instant) {
    if let Some(open) = ctx.shared.partitions.get(topic, index)
        && !open.is_led()
        && open.group().hears_quorum()
    {
        open.wait_led(until).await;
    }
}

fn known(ctx: &RequestContext, topic: TopicId, partition: &Partition) -> Option<Known> {
    let shared = &ctx.shared;
    let open = shared.partitions.get(topic, partition.index);
    let here = open.as_ref().map(|open| open.leadership());
    if let (Some(open), Some(here)) = (&open, here)
        && here.serving
    {
        let fresh = open.check_fresh().is_ok();
        return Some(Known {
            leader: fresh.then_some(shared.node_id),
            term: here.term,
            in_sync: Some(open.in_sync()),
        });
    }
    let told = shared.cluster.board().leader(partition.group);
    if let Some(told) = told.filter(|told| here.is_none_or(|here| told.term >= here.term)) {
        return Some(Known {
            leader: Some(told.leader),
            term: told.term,
            in_sync: Some(told.in_sync),
        });
    }
    let here = here?;
    // Elected, but not able to serve yet: a client sent here would be sent away.
    let leader = here.leader.map(|leader| leader.broker());
    Some(Known {
        leader: leader.filter(|leader| *leader != shared.node_id),
        term: here.term,
        in_sync: None,
    })
}
