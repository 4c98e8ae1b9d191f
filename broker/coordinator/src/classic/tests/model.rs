//! Clients that do anything in any order, and what must hold whatever they do.
//!
//! The clients know only what the answers tell them. What they were told is the model: who leads, who
//! was assigned what, what was settled when the process last died.

use proptest::prelude::*;

use super::*;

const PARTITIONS: u8 = 7;
const MAX_REBALANCE_MS: i64 = 20_000;
const MAX_SESSION_MS: i64 = 30_000;

/// A join or sync may wait for one join or sync phase.
const MAX_WAIT_MS: i64 = MAX_REBALANCE_MS;

/// Silent static members hold a join phase up to the end of their sessions, and one heartbeat each.
const MAX_TRANSITION_MS: i64 = 2 * (MAX_REBALANCE_MS + MAX_SESSION_MS);

/// What happens to a client, or to all.
#[derive(Clone, Debug)]
enum Event {
    /// It takes its answer, if there is one, and does what comes next.
    Act(usize),
    /// It sends again what it waits for.
    Retry(usize),
    /// It subscribes to something else, and joins.
    Change(usize),
    /// It dies without a word; another takes its place.
    Crash(usize),
    Leave(usize),
    /// An administrator removes it.
    Expel(usize),
    Pass(i64),
    Restart,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Join,
    /// With the life of the process that was asked: its answer may come when that is over.
    Joining(Ticket, usize),
    Sync,
    Syncing(Ticket),
    Member,
}

#[derive(Clone, Debug)]
struct Client {
    /// Static clients have one.
    instance: Option<String>,
    version: i16,
    metadata: u8,
    member: String,
    generation: i32,
    /// As leader: who is to be assigned something.
    to_assign: Option<Vec<String>>,
    step: Step,
}

impl Client {
    fn new(index: usize) -> Client {
        Client {
            instance: (index.is_multiple_of(3)).then(|| format!("instance-{index}")),
            version: [9, 3, 7, 6, 9, 9][index % 6],
            metadata: 0,
            member: String::new(),
            generation: -1,
            to_assign: None,
            step: Step::Join,
        }
    }

    fn forget(&mut self) {
        self.member = String::new();
        self.step = Step::Join;
    }

    fn identity(&self) -> String {
        self.instance.clone().unwrap_or_else(|| self.member.clone())
    }
}

/// What the answers add up to.
#[derive(Debug, Default)]
struct Told {
    /// Who was told to assign, by life of the process and generation.
    leaders: BTreeMap<(usize, i32), String>,
    /// What a leader assigned, by generation and member.
    assigned: BTreeMap<i32, BTreeMap<String, Vec<u8>>>,
    /// Who was told that it owns a partition in a generation.
    owners: BTreeMap<(i32, u8), String>,
    /// Member ids of static members, by generation.
    statics: BTreeMap<i32, BTreeMap<String, String>>,
    /// The last generation that got an assignment, or became empty; and its members.
    settled: (i32, BTreeSet<String>),
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
    told: Told,
    life: usize,
    /// When each ticket was given out; without those that died with the process.
    asked: BTreeMap<Ticket, i64>,
}

impl World {
    fn new(clients: usize) -> World {
        World {
            bench: Bench::new(),
            clients: (0..clients).map(Client::new).collect(),
            told: Told::default(),
            life: 0,
            asked: BTreeMap::new(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Act(index) => self.act(index),
            Event::Retry(index) => self.retry(index),
            Event::Change(index) => {
                self.clients[index].metadata = self.clients[index].metadata.wrapping_add(1);
                if self.clients[index].step == Step::Member {
                    self.clients[index].step = Step::Join;
                }
                self.act(index);
            }
            Event::Crash(index) => self.clients[index].forget(),
            Event::Leave(index) => {
                let member = self.clients[index].member.clone();
                self.bench.leave(&[(&member, None)]);
                self.clients[index].forget();
            }
            Event::Expel(index) => {
                let instance = self.clients[index].instance.clone();
                self.bench.leave(&[("", instance.as_deref())]);
            }
            Event::Pass(ms) => {
                // In small steps, so that waits are looked at.
                for _ in 0..ms / 500 {
                    self.bench.advance(500);
                    self.check();
                }
            }
            Event::Restart => self.restart(),
        }
        self.check();
    }

    fn act(&mut self, index: usize) {
        match self.clients[index].step.clone() {
            Step::Joining(ticket, life) => {
                if let Some(answer) = self.bench.join_answer(ticket) {
                    self.joined(index, life, &answer);
                }
            }
            Step::Syncing(ticket) => {
                if let Some(answer) = self.bench.sync_answer(ticket) {
                    self.synced(index, &answer);
                }
            }
            Step::Join => self.join(index),
            Step::Sync => self.sync(index),
            Step::Member => self.heartbeat(index),
        }
    }

    fn retry(&mut self, index: usize) {
        match self.clients[index].step {
            Step::Joining(..) => self.join(index),
            Step::Syncing(_) => self.sync(index),
            _ => self.act(index),
        }
    }

    fn join(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let mut join = Join::new()
            .version(client.version)
            .member(&client.member)
            .session(MAX_SESSION_MS as i32 - 1_000 * index as i32)
            .rebalance(MAX_REBALANCE_MS as i32 - 1_000 * index as i32)
            .metadata(&[client.metadata]);
        join.instance = client.instance.clone();
        let written = self.bench.log.len();
        let ticket = self.bench.join(&join);
        self.asked.insert(ticket, self.bench.now);
        self.clients[index].step = Step::Joining(ticket, self.life);
        if let Some(instance) = client.instance.filter(|_| client.member.is_empty()) {
            self.replaced(&instance, ticket, self.bench.log.len() > written);
        }
    }

    /// A static client has come under a new id, and `at_once` taken over what the old one had.
    fn replaced(&mut self, instance: &str, ticket: Ticket, at_once: bool) {
        if !at_once {
            return;
        }
        let answer = self.bench.joined(ticket);
        let (generation, new) = (answer.generation_id, answer.member_id.to_string());
        assert_eq!(generation, self.told.settled.0);
        let statics = self.told.statics.get_mut(&generation).unwrap();
        let old = statics.insert(instance.to_owned(), new.clone()).unwrap();
        let parts = self.told.assigned.get_mut(&generation).unwrap();
        let part = parts.remove(&old).unwrap();
        parts.insert(new.clone(), part);
        assert!(self.told.settled.1.remove(&old));
        self.told.settled.1.insert(new);
        let fenced = self.bench.heartbeat_as(&old, Some(instance), generation);
        assert_eq!(fenced, ErrorCode::FENCED_INSTANCE_ID);
    }

    fn joined(&mut self, index: usize, life: usize, answer: &JoinGroupResponse) {
        let client = &mut self.clients[index];
        client.step = Step::Join;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                client.member = answer.member_id.to_string();
                return;
            }
            ErrorCode::REBALANCE_IN_PROGRESS => return,
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID => {
                return client.forget();
            }
            other => panic!("{other:?}"),
        }
        client.member = answer.member_id.to_string();
        client.generation = answer.generation_id;
        client.step = Step::Sync;
        client.to_assign = None;
        if answer.members.is_empty() || answer.skip_assignment {
            return;
        }
        assert_eq!(answer.leader, answer.member_id);
        let turn = (life, answer.generation_id);
        let leader = self
            .told
            .leaders
            .entry(turn)
            .or_insert(client.member.clone());
        assert_eq!(*leader, client.member, "two leaders in {turn:?}");
        let ids = answer
            .members
            .iter()
            .map(|member| member.member_id.to_string());
        client.to_assign = Some(ids.collect());
        let statics = answer.members.iter().filter_map(|member| {
            let instance = member.group_instance_id.as_ref()?;
            Some((instance.to_string(), member.member_id.to_string()))
        });
        if life < self.life {
            return;
        }
        let statics = statics.collect();
        self.told.statics.insert(answer.generation_id, statics);
    }

    fn sync(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let parts: BTreeMap<String, Vec<u8>> = client
            .to_assign
            .iter()
            .flat_map(|ids| {
                let share = |turn: usize| (turn as u8..PARTITIONS).step_by(ids.len()).collect();
                ids.iter()
                    .enumerate()
                    .map(move |(turn, id)| (id.clone(), share(turn)))
            })
            .collect();
        let sent = parts.iter().map(|(id, part)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(id))
                .with_assignment(part.clone().into())
        });
        let request = sync_request(&client.member, client.generation, &[])
            .with_assignments(sent.collect())
            .with_group_instance_id(client.instance.as_deref().map(text));
        let written = self.bench.log.len();
        let ticket = self.bench.sync_with(4, request);
        self.asked.insert(ticket, self.bench.now);
        self.clients[index].step = Step::Syncing(ticket);
        if self.bench.log.len() > written {
            let turn = (self.life, client.generation);
            assert_eq!(self.told.leaders.get(&turn), Some(&client.member));
            self.told.settled = (client.generation, parts.keys().cloned().collect());
            let twice = self.told.assigned.insert(client.generation, parts);
            assert!(twice.is_none(), "generation {} twice", client.generation);
        }
    }

    fn synced(&mut self, index: usize, answer: &SyncGroupResponse) {
        let client = &mut self.clients[index];
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {
                let generation = client.generation;
                let part = answer.assignment.to_vec();
                // A part that a later id of the same static member has taken over is no longer its own.
                let parts = &self.told.assigned[&generation];
                if let Some(expected) = parts.get(&client.member) {
                    assert_eq!(part, *expected);
                } else {
                    assert!(client.instance.is_some(), "{client:?} was assigned nothing");
                }
                for partition in part {
                    let owner = self
                        .told
                        .owners
                        .entry((generation, partition))
                        .or_insert(client.identity());
                    assert_eq!(*owner, client.identity(), "two owners of {partition}");
                }
                client.step = Step::Member;
            }
            ErrorCode::REBALANCE_IN_PROGRESS => client.step = Step::Join,
            ErrorCode::ILLEGAL_GENERATION => client.step = Step::Join,
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID => client.forget(),
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let code = self.bench.heartbeat_as(
            &client.member,
            client.instance.as_deref(),
            client.generation,
        );
        let client = &mut self.clients[index];
        match code {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => {
                client.step = Step::Join;
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID => client.forget(),
            other => panic!("{other:?}"),
        }
    }

    fn restart(&mut self) {
        self.bench.restart();
        self.life += 1;
        let ids = self.bench.member_ids();
        assert_eq!((self.bench.group.generation(), ids), self.told.settled);
        let unanswered = |ticket: &Ticket| self.bench.waits(*ticket);
        let lost: BTreeSet<Ticket> = self.asked.keys().copied().filter(unanswered).collect();
        self.asked.retain(|ticket, _| !lost.contains(ticket));
        for client in &mut self.clients {
            match client.step {
                Step::Joining(ticket, _) if lost.contains(&ticket) => client.step = Step::Join,
                Step::Syncing(ticket) if lost.contains(&ticket) => client.step = Step::Sync,
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        let now = self.bench.now;
        if self.bench.group.is_empty() {
            self.told.settled = (self.bench.group.generation(), BTreeSet::new());
        }
        let answers = &self.bench.answers;
        self.asked.retain(|ticket, _| !answers.contains_key(ticket));
        for (ticket, asked) in &self.asked {
            let waited = now - asked;
            assert!(waited <= MAX_WAIT_MS, "{ticket:?} waits {waited} ms");
        }
        // Each event may begin another rebalance; without, the one there is must end.
        if self.bench.group.is_in_transition() {
            let since = self.bench.group.state_since_ms().unwrap();
            assert!(now - since <= MAX_TRANSITION_MS, "no end since {since}");
        }
    }

    /// Nobody does anything any more.
    fn fall_silent(&mut self) {
        for _ in 0..10 {
            self.bench.advance(MAX_TRANSITION_MS);
            self.check();
        }
        assert_eq!(self.asked.len(), 0, "tickets without answer");
        assert_eq!(self.bench.state(), ClassicState::Empty);
        assert_eq!(self.bench.group.deadline(), None);
    }

    /// Everybody does what a sound client does: the group comes to rest with all of them in it.
    fn behave(&mut self) {
        for _ in 0..200 {
            for index in 0..self.clients.len() {
                self.act(index);
            }
            self.bench.advance(1_000);
            self.check();
        }
        assert_eq!(self.bench.state(), ClassicState::Stable);
        let ids = self.clients.iter().map(|client| client.member.clone());
        assert_eq!(self.bench.member_ids(), ids.collect());
        let generation = self.bench.group.generation();
        let owned = self.told.owners.range((generation, 0)..);
        assert_eq!(owned.count(), usize::from(PARTITIONS), "all are read");
    }
}

const CLIENTS: usize = 6;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let client = 0..CLIENTS;
    let event = prop_oneof![
        30 => client.clone().prop_map(Event::Act),
        3 => client.clone().prop_map(Event::Retry),
        2 => client.clone().prop_map(Event::Change),
        2 => client.clone().prop_map(Event::Crash),
        1 => client.clone().prop_map(Event::Leave),
        1 => client.prop_map(Event::Expel),
        8 => (0i64..4_000).prop_map(Event::Pass),
        1 => (0i64..40_000).prop_map(Event::Pass),
        1 => Just(Event::Restart),
    ];
    proptest::collection::vec(event, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_clients_do(events in events(), end_well in any::<bool>()) {
        let mut world = World::new(CLIENTS);
        for event in &events {
            world.happen(event);
        }
        if end_well {
            world.behave();
        }
        world.fall_silent();
    }
}
