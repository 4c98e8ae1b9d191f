//! Whatever is asked in whatever order: a shard that is built from the log is the shard that wrote it,
//! and nobody waits for ever.

use klamm_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use klamm_protocol::messages::describe_groups_response::DescribedGroup;
use proptest::prelude::*;

use super::*;
use crate::classic::ClassicState;
use crate::offsets::Committed;
use crate::shard::group::Kind;

const GROUPS: [&str; 2] = ["g", "h"];
const MEMBERS: usize = 4;

/// Something a client or an administrator does.
#[derive(Clone, Debug)]
enum Step {
    Join(usize, usize),
    JoinStatic(usize, usize),
    Sync(usize, usize),
    Heartbeat(usize, usize),
    Leave(usize, usize),
    Beat(usize, usize),
    BeatLeave(usize, usize),
    Commit(usize, usize, i64),
    CommitOutside(usize, i64),
    DeleteOffsets(usize),
    DeleteGroup(usize),
    DeleteTopic,
    Pass(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || (0..GROUPS.len(), 0..MEMBERS);
    prop_oneof![
        6 => who().prop_map(|(group, member)| Step::Join(group, member)),
        1 => who().prop_map(|(group, member)| Step::JoinStatic(group, member)),
        6 => who().prop_map(|(group, member)| Step::Sync(group, member)),
        2 => who().prop_map(|(group, member)| Step::Heartbeat(group, member)),
        2 => who().prop_map(|(group, member)| Step::Leave(group, member)),
        6 => who().prop_map(|(group, member)| Step::Beat(group, member)),
        2 => who().prop_map(|(group, member)| Step::BeatLeave(group, member)),
        4 => (who(), 0..100i64).prop_map(|((group, member), offset)| {
            Step::Commit(group, member, offset)
        }),
        2 => (0..GROUPS.len(), 0..100i64).prop_map(|(group, offset)| {
            Step::CommitOutside(group, offset)
        }),
        1 => (0..GROUPS.len()).prop_map(Step::DeleteOffsets),
        1 => (0..GROUPS.len()).prop_map(Step::DeleteGroup),
        1 => Just(Step::DeleteTopic),
        4 => (0..30_000i64).prop_map(Step::Pass),
        1 => Just(Step::Pass(8 * 24 * 3_600_000)),
        1 => Just(Step::Restart),
    ]
}

/// What a client remembers: as a classic member, and as one of the consumer protocol.
#[derive(Clone, Default)]
struct Client {
    id: StrBytes,
    generation: i32,
    join: Option<Ticket>,
    epoch: i32,
}

struct Clients {
    world: World,
    clients: BTreeMap<(usize, usize), Client>,
}

impl Clients {
    fn client(&mut self, group: usize, member: usize) -> &mut Client {
        self.clients.entry((group, member)).or_default()
    }

    /// Reads the answer to the join that the client waits for, if it is there.
    fn hear(&mut self, group: usize, member: usize) {
        let client = self.clients.entry((group, member)).or_default();
        let answer = client.join.and_then(|join| self.world.answers.get(&join));
        if let Some(Answer::JoinGroup(answer)) = answer {
            client.join = None;
            client.id = answer.member_id.clone();
            client.generation = answer.generation_id;
            if ErrorCode(answer.error_code) == ErrorCode::UNKNOWN_MEMBER_ID {
                client.id = StrBytes::default();
            }
        }
    }

    fn join(&mut self, group: usize, member: usize, instance: Option<&str>) {
        let client = self.client(group, member).clone();
        let request = World::join_request(GROUPS[group], &client.id, &["a"])
            .with_group_instance_id(instance.map(text));
        let ticket = self.world.send(Request::JoinGroup(request));
        self.client(group, member).join = Some(ticket);
    }

    fn sync(&mut self, group: usize, member: usize) {
        let client = self.client(group, member).clone();
        let nothing = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(client.id.clone())
            .with_assignment(nothing);
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(GROUPS[group]))
            .with_member_id(client.id)
            .with_generation_id(client.generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(vec![assignment]);
        self.world.send(Request::SyncGroup(request));
    }

    fn commit(&mut self, group: usize, member: usize, offset: i64) {
        let client = self.client(group, member).clone();
        for (id, generation) in [
            (client.id.to_string(), client.generation),
            (format!("m{member}"), client.epoch),
        ] {
            let request = World::commit_request(GROUPS[group], offset)
                .with_member_id(text(&id))
                .with_generation_id_or_member_epoch(generation);
            self.world.send(Request::OffsetCommit(request));
        }
    }

    fn delete_topic(&mut self) {
        let Some(topic) = self.world.image.topic("a").cloned() else {
            self.world
                .create_topic("a", u128::from(self.world.asked) + 100);
            let outcome = self.world.with(|shard, env| shard.topics_changed(env, &[]));
            return self.world.take(outcome);
        };
        self.world.command(&Command::DeleteTopic { id: topic.id });
        let deleted = [Arc::clone(&topic.name)];
        let outcome = self
            .world
            .with(|shard, env| shard.topics_changed(env, &deleted));
        self.world.take(outcome);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Join(group, member) => {
                self.hear(group, member);
                self.join(group, member, None);
            }
            Step::JoinStatic(group, member) => {
                self.clients.remove(&(group, member));
                self.join(group, member, Some("instance"));
            }
            Step::Sync(group, member) => {
                self.hear(group, member);
                self.sync(group, member);
            }
            Step::Heartbeat(group, member) => {
                self.hear(group, member);
                let client = self.client(group, member).clone();
                let group = GROUPS[group];
                self.world
                    .classic_heartbeat(group, &client.id, client.generation);
            }
            Step::Leave(group, member) => {
                self.hear(group, member);
                let id = self.client(group, member).id.to_string();
                self.world.leave(GROUPS[group], &id);
            }
            Step::Beat(group, member) => {
                let epoch = self.client(group, member).epoch;
                let answer = self.world.beat(GROUPS[group], &format!("m{member}"), epoch);
                self.client(group, member).epoch = answer.member_epoch;
            }
            Step::BeatLeave(group, member) => {
                self.world.beat(GROUPS[group], &format!("m{member}"), -1);
                self.client(group, member).epoch = 0;
            }
            Step::Commit(group, member, offset) => {
                self.hear(group, member);
                self.commit(group, member, offset);
            }
            Step::CommitOutside(group, offset) => {
                self.world
                    .commit(World::commit_request(GROUPS[group], offset));
            }
            Step::DeleteOffsets(group) => {
                self.world.delete_offsets(GROUPS[group], &["a", "b"]);
            }
            Step::DeleteGroup(group) => {
                self.world.delete_group(GROUPS[group]);
            }
            Step::DeleteTopic => self.delete_topic(),
            Step::Pass(ms) => self.world.pass(ms),
            Step::Restart => {
                // Whoever waits at the old leader is refused.
                let answers = self.world.shard.abandon(ErrorCode::NOT_COORDINATOR);
                let records = Vec::new();
                self.world.take(Outcome { records, answers });
                self.world.restart();
            }
        }
    }
}

/// What a group is at rest; nothing of a classic group on its way to its next generation.
#[derive(Debug, PartialEq)]
enum AtRest {
    Nothing,
    Classic(Box<DescribedGroup>),
    Consumer(Box<DescribedConsumerGroup>),
    Between,
}

fn at_rest(shard: &Shard, env: &Environment<'_>, id: &str) -> AtRest {
    match shard.groups.get(id).map(|group| &group.kind) {
        None | Some(Kind::Simple) => AtRest::Nothing,
        Some(Kind::Classic(classic)) => match classic.state() {
            ClassicState::Stable | ClassicState::Empty => {
                let mut described = classic.describe();
                described
                    .members
                    .sort_by_key(|member| member.member_id.to_string());
                AtRest::Classic(Box::new(described))
            }
            _ => AtRest::Between,
        },
        Some(Kind::Consumer(consumer)) => AtRest::Consumer(Box::new(consumer.describe(env))),
    }
}

fn offsets(shard: &Shard) -> Vec<(String, String, i32, Committed)> {
    shard
        .committed()
        .map(|(group, topic, partition, committed)| {
            (
                group.to_string(),
                topic.to_string(),
                partition,
                committed.clone(),
            )
        })
        .collect()
}

fn check_rebuilt(world: &World) {
    let rebuilt = world.rebuilt();
    assert_eq!(offsets(&rebuilt), offsets(&world.shard));
    let env = Environment {
        now_ms: world.now_ms,
        image: &world.image,
        settings: &world.settings,
        fresh_id: Uuid::nil(),
    };
    for id in GROUPS {
        let live = at_rest(&world.shard, &env, id);
        let read = at_rest(&rebuilt, &env, id);
        match live {
            AtRest::Between => {}
            // Only ids were given out in it: nothing to remember.
            AtRest::Classic(group) if group.members.is_empty() && read == AtRest::Nothing => {}
            live => assert_eq!(read, live, "{id}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_log_is_the_shard(steps in proptest::collection::vec(step(), 1..120)) {
        let mut clients = Clients { world: World::new(), clients: BTreeMap::new() };
        for step in &steps {
            clients.run(step);
            check_rebuilt(&clients.world);
        }
        let mut world = clients.world;
        let refused = world.shard.abandon(ErrorCode::NOT_COORDINATOR);
        world.take(Outcome { records: Vec::new(), answers: refused });
        prop_assert_eq!(world.answers.len() as u64, world.asked);
    }
}
