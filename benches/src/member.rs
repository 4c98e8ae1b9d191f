//! Members of classic groups, as the Java client behaves, but driven by the scenarios: a member
//! joins when told, assigns ranges when it leads, and sends heartbeats when told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::protocol::{Decodable, Encodable};
use klamm_client::Connection;
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long a member tries to get into its group.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before an answer that may pass is tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a member that waits for the others asks whether the group rebalances. Short, so that
/// what is measured is the broker and not the members' interval.
const WAITING_HEARTBEAT: Duration = Duration::from_millis(10);
/// `rebalance.timeout.ms`, in Java `max.poll.interval.ms`: its default.
const REBALANCE_TIMEOUT_MS: i32 = 300_000;
/// Layout of subscription and assignment.
const CONSUMER_PROTOCOL: i16 = 1;
const RANGE: StrBytes = StrBytes::from_static_str("range");
const CONSUMER: StrBytes = StrBytes::from_static_str("consumer");

/// What the members of a group have in common.
#[derive(Clone, Debug)]
pub struct Group {
    /// `group.id`.
    pub id: GroupId,
    /// The one topic subscribed to.
    pub topic: StrBytes,
    /// How many partitions it has.
    pub partitions: i32,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
}

/// One member, on a connection that it does not share while it joins: a broker answers a
/// connection in order, and the answer to JoinGroup waits for the other members.
#[derive(Clone)]
pub struct Member {
    connection: Connection,
    /// Its group.
    pub group: Group,
    /// Id given by the broker; empty before.
    pub id: StrBytes,
    /// Generation of the last assignment; -1 before.
    pub generation: i32,
    /// Partitions assigned.
    pub partitions: Vec<i32>,
    /// When the last assignment came.
    pub assigned_at: Instant,
}

impl Member {
    /// Not yet a member.
    pub fn new(connection: Connection, group: Group) -> Member {
        Member {
            connection,
            group,
            id: StrBytes::default(),
            generation: -1,
            partitions: Vec::new(),
            assigned_at: Instant::now(),
        }
    }

    /// The connection it joined on.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Joins and syncs until it has an assignment.
    async fn join(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            ensure!(
                Instant::now() < until,
                "a member of {} has no assignment after {PATIENCE:?}",
                self.group.id.as_str()
            );
            let answer = self.connection.send(&self.join_request()?).await?;
            match ErrorCode(answer.error_code) {
                ErrorCode::NONE => {}
                ErrorCode::MEMBER_ID_REQUIRED => {
                    self.id = answer.member_id;
                    continue;
                }
                code => {
                    self.try_again("JoinGroup", code).await?;
                    continue;
                }
            }
            self.id = answer.member_id.clone();
            self.generation = answer.generation_id;
            let sync = self.sync_request(&answer)?;
            let synced = self.connection.send(&sync).await?;
            match ErrorCode(synced.error_code) {
                ErrorCode::NONE => {
                    self.assigned_at = Instant::now();
                    self.partitions = assigned(synced.assignment)?;
                    return Ok(());
                }
                code => self.try_again("SyncGroup", code).await?,
            }
        }
    }

    /// Whether the refusal may pass; pauses where the broker needs time.
    async fn try_again(&mut self, api: &str, code: ErrorCode) -> Result<()> {
        match code {
            ErrorCode::UNKNOWN_MEMBER_ID => self.id = StrBytes::default(),
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => {}
            code if code.is_retriable() => sleep(PAUSE).await,
            code => bail!("{api} of {}: {code}", self.group.id.as_str()),
        }
        Ok(())
    }

    fn join_request(&self) -> Result<JoinGroupRequest> {
        let subscription =
            ConsumerProtocolSubscription::default().with_topics(vec![self.group.topic.clone()]);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(RANGE)
            .with_metadata(versioned(&subscription)?);
        Ok(JoinGroupRequest::default()
            .with_group_id(self.group.id.clone())
            .with_session_timeout_ms(i32::try_from(self.group.session_timeout.as_millis())?)
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_member_id(self.id.clone())
            .with_protocol_type(CONSUMER)
            .with_protocols(vec![protocol]))
    }

    /// The leader assigns; the others wait for what it says.
    fn sync_request(&self, joined: &JoinGroupResponse) -> Result<SyncGroupRequest> {
        let mut assignments = Vec::new();
        if joined.leader == self.id {
            let ids: Vec<_> = joined.members.iter().map(|one| &one.member_id).collect();
            for (id, partitions) in ranges(&ids, self.group.partitions) {
                let partitions = TopicPartition::default()
                    .with_topic(TopicName(self.group.topic.clone()))
                    .with_partitions(partitions);
                let assignment = ConsumerProtocolAssignment::default()
                    .with_assigned_partitions(vec![partitions]);
                assignments.push(
                    SyncGroupRequestAssignment::default()
                        .with_member_id(id.clone())
                        .with_assignment(versioned(&assignment)?),
                );
            }
        }
        Ok(SyncGroupRequest::default()
            .with_group_id(self.group.id.clone())
            .with_generation_id(joined.generation_id)
            .with_member_id(self.id.clone())
            .with_protocol_type(Some(CONSUMER))
            .with_protocol_name(Some(RANGE))
            .with_assignments(assignments))
    }

    /// The heartbeat of its generation.
    pub fn heartbeat(&self) -> HeartbeatRequest {
        HeartbeatRequest::default()
            .with_group_id(self.group.id.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
    }
}

/// Partitions in order of number to members in order of id, as Kafka's RangeAssignor: the first
/// ones get one more where it does not divide.
fn ranges<'ids>(ids: &[&'ids StrBytes], partitions: i32) -> BTreeMap<&'ids StrBytes, Vec<i32>> {
    let mut ids = ids.to_vec();
    ids.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    let partitions = usize::try_from(partitions).unwrap_or(0);
    let (each, more) = (partitions / ids.len().max(1), partitions % ids.len().max(1));
    let mut numbers = 0..;
    ids.into_iter()
        .enumerate()
        .map(|(index, id)| {
            let count = each + usize::from(index < more);
            (id, numbers.by_ref().take(count).collect())
        })
        .collect()
}

/// Client-side blobs of the group protocol begin with their version.
fn versioned(message: &impl Encodable) -> Result<Bytes> {
    let mut blob = BytesMut::new();
    blob.put_i16(CONSUMER_PROTOCOL);
    message.encode(&mut blob, CONSUMER_PROTOCOL)?;
    Ok(blob.freeze())
}

fn assigned(mut blob: Bytes) -> Result<Vec<i32>> {
    if blob.is_empty() {
        return Ok(Vec::new());
    }
    let version = blob.try_get_i16().context("an assignment of one byte")?;
    let assignment = ConsumerProtocolAssignment::decode(&mut blob, version)?;
    let topics = assignment.assigned_partitions.into_iter();
    Ok(topics.flat_map(|topic| topic.partitions).collect())
}

/// Joins all members of a group at once, and returns when all hold an assignment of one and the
/// same generation, which gives every partition to one of them.
pub async fn join_all(members: Vec<Member>) -> Result<Vec<Member>> {
    let expected = members.first().map_or(0, |member| member.group.partitions);
    let generations = watch::Sender::new(vec![-1; members.len()]);
    let mut tasks = JoinSet::new();
    for (index, member) in members.into_iter().enumerate() {
        tasks.spawn(settle(member, index, generations.clone()));
    }
    let mut joined = Vec::new();
    while let Some(member) = tasks.join_next().await {
        joined.push(member??);
    }
    let mut partitions: Vec<i32> = joined
        .iter()
        .flat_map(|member| member.partitions.iter().copied())
        .collect();
    partitions.sort_unstable();
    ensure!(
        partitions.iter().copied().eq(0..expected),
        "an assignment that gives not every partition to one member: {partitions:?}"
    );
    Ok(joined)
}

/// One member of [`join_all`]: rejoins whenever the group rebalances before all are in.
async fn settle(
    mut member: Member,
    index: usize,
    generations: watch::Sender<Vec<i32>>,
) -> Result<Member> {
    let mut all = generations.subscribe();
    loop {
        member.join().await?;
        generations.send_modify(|generations| {
            if let Some(mine) = generations.get_mut(index) {
                *mine = member.generation;
            }
        });
        loop {
            let together =
                all.wait_for(|generations| generations.iter().all(|one| *one == member.generation));
            if tokio::time::timeout(WAITING_HEARTBEAT, together)
                .await
                .is_ok()
            {
                return Ok(member);
            }
            let answer = member.connection.send(&member.heartbeat()).await?;
            if ErrorCode(answer.error_code) != ErrorCode::NONE {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_give_each_partition_once_and_more_to_the_first() {
        let ids = ["c", "a", "b"].map(StrBytes::from_static_str);
        let ranges = ranges(&ids.iter().collect::<Vec<_>>(), 7);
        let found: Vec<_> = ranges.into_values().collect();
        assert_eq!(found, [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
    }

    #[test]
    fn an_assignment_comes_back_from_its_blob() -> Result<()> {
        let topic = TopicPartition::default()
            .with_topic(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![3, 4]);
        let assignment =
            ConsumerProtocolAssignment::default().with_assigned_partitions(vec![topic]);
        assert_eq!(assigned(versioned(&assignment)?)?, [3, 4]);
        assert_eq!(assigned(Bytes::new())?, [0_i32; 0]);
        Ok(())
    }
}
