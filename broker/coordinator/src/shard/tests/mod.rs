//! Tests of the shard by number of behaviour, and a bench to run them on.
#![expect(
    clippy::unwrap_used,
    reason = "in a test, what is missing is a failure"
)]

mod expiry;
mod kinds;
mod load;
mod offsets;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use klamm_metadata::{BrokerRegistration, Command, Endpoint, Image};
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::leave_group_request::MemberIdentity;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetDeleteRequest, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::TopicId;
use uuid::Uuid;

use super::Shard;
use crate::outcome::Outcome;
use crate::records::GroupRecord;
use crate::request::{Answer, Caller, Environment, Request, Ticket};
use crate::settings::Settings;

/// Ample for what a test waits for; more is a deadline that does not move.
const MAX_TICKS: usize = 10_000;

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A subscription of the embedded protocol, version 0.
fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend(i32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        bytes.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend([0xff; 4]);
    bytes.into()
}

/// A shard, its log, and a clock.
pub(super) struct World {
    shard: Shard,
    log: Vec<GroupRecord>,
    image: Image,
    settings: Settings,
    now_ms: i64,
    asked: u64,
    answers: BTreeMap<Ticket, Answer>,
    version: i16,
}

impl World {
    /// Topics `a` and `b` of four partitions each.
    pub(super) fn new() -> World {
        let endpoint = Endpoint {
            host: "node".to_owned(),
            port: 9092,
        };
        let mut world = World {
            shard: Shard::new(),
            log: Vec::new(),
            image: Image::new(),
            settings: Settings {
                initial_rebalance_delay_ms: 0,
                ..Settings::default()
            },
            now_ms: 1_000_000,
            asked: 0,
            answers: BTreeMap::new(),
            version: 9,
        };
        world.command(&Command::Found {
            cluster_id: "test".to_owned(),
        });
        world.command(&Command::RegisterBroker(BrokerRegistration {
            id: 1,
            incarnation: Uuid::from_u128(1),
            replica: 0,
            rack: None,
            endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), endpoint)]),
            fenced: false,
        }));
        world.create_topic("a", 1);
        world.create_topic("b", 2);
        let loaded = world.with(|shard, env| shard.loaded(env));
        assert!(loaded.records.is_empty() && loaded.answers.is_empty());
        world
    }

    fn command(&mut self, command: &Command) {
        let (image, _) = self.image.apply(self.image.last_offset() + 1, command);
        self.image = image;
    }

    fn create_topic(&mut self, name: &str, id: u128) {
        self.command(&Command::CreateTopic {
            name: name.to_owned(),
            id: TopicId(Uuid::from_u128(id)),
            partitions: vec![vec![1]; 4],
            configs: BTreeMap::new(),
        });
    }

    fn with(&mut self, call: impl FnOnce(&mut Shard, &Environment<'_>) -> Outcome) -> Outcome {
        let env = Environment {
            now_ms: self.now_ms,
            image: &self.image,
            settings: &self.settings,
            fresh_id: Uuid::from_u128(u128::from(self.asked) + (1 << 64)),
        };
        call(&mut self.shard, &env)
    }

    /// Keeps what an outcome says, and checks that no ticket is answered twice.
    fn take(&mut self, outcome: Outcome) {
        self.log.extend(outcome.records);
        for (ticket, answer) in outcome.answers {
            assert!(ticket.0 < self.asked, "{ticket:?} was never asked");
            let before = self.answers.insert(ticket, answer);
            assert!(before.is_none(), "{ticket:?} was answered twice");
        }
    }

    /// Asks, and says which ticket waits for the answer.
    fn send(&mut self, request: Request) -> Ticket {
        let ticket = Ticket(self.asked);
        self.asked += 1;
        let caller = Caller {
            client_id: Arc::from("client"),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            version: self.version,
        };
        let outcome = self.with(|shard, env| shard.handle(env, ticket, &caller, request));
        self.take(outcome);
        ticket
    }

    fn answer(&self, ticket: Ticket) -> &Answer {
        self.answers.get(&ticket).expect("an answer")
    }

    fn ask(&mut self, request: Request) -> Answer {
        let ticket = self.send(request);
        self.answer(ticket).clone()
    }

    /// Lets time pass, and the shard do what it asks for.
    fn pass(&mut self, ms: i64) {
        let until = self.now_ms + ms;
        for _ in 0..MAX_TICKS {
            let Some(deadline) = self.shard.deadline().filter(|at| *at <= until) else {
                self.now_ms = until;
                return;
            };
            self.now_ms = self.now_ms.max(deadline);
            let outcome = self.with(Shard::tick);
            self.take(outcome);
        }
        panic!("the deadline does not move: {:?}", self.shard.deadline());
    }

    /// The shard as the next leader would have it.
    fn rebuilt(&self) -> Shard {
        let mut shard = Shard::new();
        for record in &self.log {
            let (key, value) = record.encode();
            let read = GroupRecord::decode(&key, value.as_deref()).unwrap();
            shard.replay(read.unwrap());
        }
        shard
    }

    /// The process dies and another takes over.
    fn restart(&mut self) {
        self.shard = self.rebuilt();
        let outcome = self.with(|shard, env| shard.loaded(env));
        self.take(outcome);
    }

    fn commit_request(group: &str, offset: i64) -> OffsetCommitRequest {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name("a"))
            .with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    }

    /// Commits, and gives the first partition's code.
    fn commit(&mut self, request: OffsetCommitRequest) -> ErrorCode {
        match self.ask(Request::OffsetCommit(request)) {
            Answer::OffsetCommit(answer) => ErrorCode(answer.topics[0].partitions[0].error_code),
            answer => panic!("{answer:?}"),
        }
    }

    /// The committed offset of partition 0 of topic `a`, -1 when there is none.
    fn fetch(&mut self, group: &str) -> i64 {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name("a"))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(group))
            .with_topics(Some(vec![topic]));
        match self.ask(Request::OffsetFetch(request)) {
            Answer::OffsetFetch(answer) => {
                assert_eq!(answer.error_code, 0);
                assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                answer.topics[0].partitions[0].committed_offset
            }
            answer => panic!("{answer:?}"),
        }
    }

    /// Deletes the offset of partition 0 of topics: the code of the request, then one for each topic.
    fn delete_offsets(&mut self, group: &str, topics: &[&str]) -> (ErrorCode, Vec<ErrorCode>) {
        let topics = topics.iter().map(|topic| {
            OffsetDeleteRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(vec![OffsetDeleteRequestPartition::default()])
        });
        let request = OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.collect());
        match self.ask(Request::OffsetDelete(request)) {
            Answer::OffsetDelete(answer) => {
                let topics = answer.topics.iter();
                let codes = topics.map(|topic| ErrorCode(topic.partitions[0].error_code));
                (ErrorCode(answer.error_code), codes.collect())
            }
            answer => panic!("{answer:?}"),
        }
    }

    fn delete_group(&mut self, group: &str) -> ErrorCode {
        match self.ask(Request::DeleteGroup {
            group: group.into(),
        }) {
            Answer::DeleteGroup(code) => code,
            answer => panic!("{answer:?}"),
        }
    }

    /// Code and state in DescribeGroups.
    fn describe(&mut self, group: &str) -> (ErrorCode, String) {
        match self.ask(Request::DescribeGroup {
            group: group.into(),
        }) {
            Answer::DescribeGroup(answer) => {
                (ErrorCode(answer.error_code), answer.group_state.to_string())
            }
            answer => panic!("{answer:?}"),
        }
    }

    /// Group, protocol type, state and type in ListGroups.
    fn list(&mut self) -> Vec<[String; 4]> {
        match self.ask(Request::ListGroups) {
            Answer::ListGroups(groups) => groups
                .iter()
                .map(|group| {
                    [
                        group.group_id.to_string(),
                        group.protocol_type.to_string(),
                        group.group_state.to_string(),
                        group.group_type.to_string(),
                    ]
                })
                .collect(),
            answer => panic!("{answer:?}"),
        }
    }

    fn join_request(group: &str, member: &str, topics: &[&str]) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription(topics));
        JoinGroupRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(member))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(20_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    }

    fn join(&mut self, request: JoinGroupRequest) -> JoinGroupResponse {
        let ticket = self.send(Request::JoinGroup(request));
        self.pass(0);
        match self.answer(ticket) {
            Answer::JoinGroup(answer) => answer.clone(),
            answer => panic!("{answer:?}"),
        }
    }

    fn sync(
        &mut self,
        group: &str,
        member: &str,
        generation: i32,
        assigned: &[(&str, Bytes)],
    ) -> SyncGroupResponse {
        let assignments = assigned.iter().map(|(member, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(assignment.clone())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(member))
            .with_generation_id(generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        match self.ask(Request::SyncGroup(request)) {
            Answer::SyncGroup(answer) => answer,
            answer => panic!("{answer:?}"),
        }
    }

    /// A classic group of one member that reads topic `a`; gives the member's id and generation.
    fn classic_group(&mut self, group: &str) -> (String, i32) {
        let id = self.join(World::join_request(group, "", &["a"])).member_id;
        let joined = self.join(World::join_request(group, &id, &["a"]));
        assert_eq!(ErrorCode(joined.error_code), ErrorCode::NONE);
        // An assignment of the embedded protocol: version 0, nothing.
        let nothing = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let synced = self.sync(group, &id, joined.generation_id, &[(&id, nothing)]);
        assert_eq!(ErrorCode(synced.error_code), ErrorCode::NONE);
        (id.to_string(), joined.generation_id)
    }

    fn classic_heartbeat(&mut self, group: &str, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(member))
            .with_generation_id(generation);
        match self.ask(Request::Heartbeat(request)) {
            Answer::Heartbeat(answer) => ErrorCode(answer.error_code),
            answer => panic!("{answer:?}"),
        }
    }

    fn leave(&mut self, group: &str, member: &str) -> Answer {
        let who = MemberIdentity::default().with_member_id(text(member));
        let request = LeaveGroupRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(member))
            .with_members(vec![who]);
        self.ask(Request::LeaveGroup(request))
    }

    /// A heartbeat of the consumer protocol; one that joins reads topic `a`.
    fn beat(&mut self, group: &str, member: &str, epoch: i32) -> ConsumerGroupHeartbeatResponse {
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(member))
            .with_member_epoch(epoch)
            .with_topic_partitions(None)
            .with_subscribed_topic_names(None);
        if epoch == 0 {
            request = request
                .with_rebalance_timeout_ms(20_000)
                .with_topic_partitions(Some(Vec::new()))
                .with_subscribed_topic_names(Some(vec![topic_name("a")]));
        }
        let version = std::mem::replace(&mut self.version, 1);
        let answer = self.ask(Request::ConsumerGroupHeartbeat(request));
        self.version = version;
        match answer {
            Answer::ConsumerGroupHeartbeat(answer) => answer,
            answer => panic!("{answer:?}"),
        }
    }
}
