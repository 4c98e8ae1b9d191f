//! A group on a bench: requests in, answers out, and after each the proof that its records alone
//! make the same group.
#![expect(clippy::unwrap_used, reason = "tests")]

mod classic;
mod heartbeat;
mod migration;
mod model;
mod subscription;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use klamm_metadata::{BrokerRegistration, Command, Image};
use klamm_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as Owned;
use klamm_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, TopicName,
};
use klamm_protocol::{ErrorCode, StrBytes};
use klamm_records::TopicId;
use uuid::Uuid;

use super::ConsumerGroup;
use super::state::each;
use crate::outcome::Outcome;
use crate::records::{GroupRecord, TopicPartitions};
use crate::request::{Answer, Caller, Environment, Ticket};
use crate::settings::Settings;

/// Partitions by topic name, as `["t-0", "t-1"]`.
type Named = Vec<String>;

struct Bench {
    image: Image,
    settings: Settings,
    now_ms: i64,
    group: ConsumerGroup,
    /// What records alone make of the group.
    shadow: ConsumerGroup,
    log: Vec<GroupRecord>,
    /// How many records the last request wrote.
    written: usize,
    ids: u128,
}

impl Bench {
    /// With topics of so many partitions. Assignments are computed at once.
    fn new(topics: &[(&str, usize)]) -> Bench {
        let mut settings = Settings::default();
        settings.group_default.assignment_interval_ms = 0;
        let mut bench = Bench {
            image: Image::new(),
            settings,
            now_ms: 1_000_000,
            group: ConsumerGroup::new(Arc::from("g")),
            shadow: ConsumerGroup::new(Arc::from("g")),
            log: Vec::new(),
            written: 0,
            ids: 0,
        };
        bench.command(Command::Found {
            cluster_id: "test".into(),
        });
        for (id, rack) in [(1, "r1"), (2, "r2")] {
            bench.command(Command::RegisterBroker(BrokerRegistration {
                id,
                incarnation: Uuid::from_u128(9),
                replica: 0,
                rack: Some(rack.into()),
                endpoints: BTreeMap::new(),
                fenced: false,
            }));
        }
        for (name, partitions) in topics {
            bench.create(name, *partitions);
        }
        bench
    }

    fn command(&mut self, command: Command) {
        let (image, outcome) = self.image.apply(self.image.last_offset() + 1, &command);
        assert!(
            !matches!(outcome, klamm_metadata::Outcome::Refused(_)),
            "{outcome:?}"
        );
        self.image = image;
        let (group, env) = self.parts();
        group.topics_changed(&env);
    }

    fn create(&mut self, name: &str, partitions: usize) {
        self.ids += 1;
        let command = Command::CreateTopic {
            name: name.into(),
            id: TopicId(Uuid::from_u128(self.ids)),
            partitions: vec![vec![1]; partitions],
            configs: BTreeMap::new(),
        };
        self.command(command);
    }

    fn grow(&mut self, name: &str, by: usize) {
        let topic = Arc::clone(self.image.topic(name).unwrap());
        self.command(Command::AddPartitions {
            id: topic.id,
            from: i32::try_from(topic.partitions.len()).unwrap(),
            partitions: vec![vec![2]; by],
        });
    }

    fn delete(&mut self, name: &str) {
        let id = self.image.topic(name).unwrap().id;
        self.command(Command::DeleteTopic { id });
    }

    fn parts(&mut self) -> (&mut ConsumerGroup, Environment<'_>) {
        self.ids += 1;
        let env = Environment {
            now_ms: self.now_ms,
            image: &self.image,
            settings: &self.settings,
            fresh_id: Uuid::from_u128(self.ids),
        };
        (&mut self.group, env)
    }

    /// Lets the group do something, and checks what it wrote.
    fn act<T>(
        &mut self,
        rule: impl FnOnce(&mut ConsumerGroup, &Environment<'_>, &mut Outcome) -> T,
    ) -> (T, Vec<Answer>) {
        let mut out = Outcome::new();
        let (group, env) = self.parts();
        let result = rule(group, &env, &mut out);
        self.take(&out);
        (
            result,
            out.answers.into_iter().map(|(_, answer)| answer).collect(),
        )
    }

    fn take(&mut self, out: &Outcome) {
        for record in &out.records {
            self.shadow.replay(record);
        }
        assert_eq!(
            self.shadow.state, self.group.state,
            "the records say it all"
        );
        self.check_owners();
        self.log.extend(out.records.iter().cloned());
        self.written = out.records.len();
    }

    /// No partition is with two members, not even while one has still to give it up.
    fn check_owners(&self) {
        let mut owners = BTreeMap::new();
        for (id, member) in &self.group.state.members {
            let current = &member.current;
            let held = each(&current.assigned_partitions);
            for partition in held.chain(each(&current.partitions_pending_revocation)) {
                assert_eq!(owners.insert(partition, id), None, "{partition:?}");
            }
        }
    }

    fn beat(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        self.beat_as(&caller(1), request)
    }

    fn beat_as(
        &mut self,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let ((), mut answers) = self.act(|group, env, out| {
            group.heartbeat(env, Ticket(7), caller, request, out);
        });
        match answers.pop() {
            Some(Answer::ConsumerGroupHeartbeat(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Joins, and tells the epoch and the assignment.
    fn join(&mut self, member: &str, topics: &[&str]) -> (i32, Named) {
        let response = self.beat(join(member, topics));
        assert_eq!(response.error_code, 0, "{response:?}");
        (response.member_epoch, self.names(&response).unwrap())
    }

    /// A heartbeat that says what the member owns.
    fn own(&mut self, member: &str, epoch: i32, owned: &[&str]) -> (i32, Option<Named>) {
        let request = beat(member, epoch).with_topic_partitions(Some(self.owned(owned)));
        let response = self.beat(request);
        assert_eq!(response.error_code, 0, "{response:?}");
        (response.member_epoch, self.names(&response))
    }

    fn error(&mut self, request: ConsumerGroupHeartbeatRequest) -> ErrorCode {
        let response = self.beat(request);
        if response.error_code != 0 {
            assert_eq!(self.written, 0, "a refused request writes nothing");
        }
        ErrorCode(response.error_code)
    }

    fn owned(&self, names: &[&str]) -> Vec<Owned> {
        let one = |name: &&str| {
            let (topic, partition) = name.rsplit_once('-').unwrap();
            let owned = Owned::default().with_topic_id(self.image.topic(topic).unwrap().id.0);
            owned.with_partitions(vec![partition.parse().unwrap()])
        };
        names.iter().map(one).collect()
    }

    fn names(&self, response: &ConsumerGroupHeartbeatResponse) -> Option<Named> {
        let topics = &response.assignment.as_ref()?.topic_partitions;
        let topics = topics
            .iter()
            .map(|it| (TopicId(it.topic_id), it.partitions.clone()));
        Some(self.named(&topics.collect()))
    }

    fn named(&self, partitions: &TopicPartitions) -> Named {
        let name = |id| self.image.topic_by_id(id).map_or("gone", |it| &*it.name);
        let mut named: Named = each(partitions)
            .map(|(id, it)| format!("{}-{it}", name(id)))
            .collect();
        named.sort();
        named
    }

    fn assigned(&self, member: &str) -> Named {
        self.named(&self.group.state.members[member].current.assigned_partitions)
    }

    fn epoch(&self) -> i32 {
        self.group.state.epoch
    }

    fn tick(&mut self) {
        self.act(ConsumerGroup::tick);
    }

    /// Loads the group from its log. Compacted: only the last record of each key is left.
    fn restart(&mut self, compacted: bool) {
        let mut log = self.log.clone();
        if compacted {
            let mut last = BTreeMap::new();
            for (position, record) in log.iter().enumerate() {
                last.insert(key(record), position);
            }
            let last: std::collections::BTreeSet<usize> = last.into_values().collect();
            let kept = log
                .into_iter()
                .enumerate()
                .filter(|(it, _)| last.contains(it));
            log = kept.map(|(_, record)| record).collect();
        }
        for group in [&mut self.group, &mut self.shadow] {
            *group = ConsumerGroup::new(Arc::from("g"));
            for record in &log {
                group.replay(record);
            }
        }
        self.shadow.state.loaded();
        let (group, env) = self.parts();
        group.loaded(&env);
    }
}

fn key(record: &GroupRecord) -> String {
    match record {
        GroupRecord::ConsumerGroupMemberMetadata { member, .. } => format!("member {member}"),
        GroupRecord::ConsumerGroupTargetAssignmentMember { member, .. } => {
            format!("target {member}")
        }
        GroupRecord::ConsumerGroupCurrentMemberAssignment { member, .. } => {
            format!("current {member}")
        }
        GroupRecord::ConsumerGroupRegularExpression { expression, .. } => {
            format!("regex {expression}")
        }
        GroupRecord::ConsumerGroupMetadata { .. } => "epoch".to_owned(),
        GroupRecord::ConsumerGroupTargetAssignmentMetadata { .. } => "target epoch".to_owned(),
        other => format!("{other:?}"),
    }
}

fn caller(version: i16) -> Caller {
    Caller {
        client_id: Arc::from("client"),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        version,
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn beat(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(-1)
        .with_subscribed_topic_names(None)
        .with_topic_partitions(None)
}

fn topics(names: &[&str]) -> Option<Vec<TopicName>> {
    Some(names.iter().map(|name| TopicName(text(name))).collect())
}

fn join(member: &str, names: &[&str]) -> ConsumerGroupHeartbeatRequest {
    beat(member, 0)
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(topics(names))
        .with_topic_partitions(Some(Vec::new()))
}
