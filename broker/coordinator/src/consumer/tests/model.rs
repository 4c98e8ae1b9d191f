//! Clients that follow the protocol, in any order of events, with answers lost and the coordinator
//! restarted.
//!
//! Checked after every step: what clients read, by the assignments that reached them and that they
//! carried out, is disjoint among the members that the group has; a client's epoch never goes back;
//! the records alone make the same group; and, by the bench, no partition is held twice in the
//! group's own books. At the end everybody heartbeats, and all have exactly their target.
//!
//! One thing clients here do that the protocol does not ask of them: before a client says again
//! everything, because an answer was lost, it carries out what it had been told before. Otherwise it
//! could read a partition of the older answer after it said that it does not have it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::consumer::ConsumerState;

const TOPICS: [&str; 3] = ["t", "u", "v"];

#[derive(Clone, Debug)]
enum Event {
    /// A client joins, with a subscription; static ones come back under another id.
    Join(Index, u8),
    /// Any number of clients heartbeat; `lost`: the answer does not arrive.
    Beat {
        client: Index,
        lost: bool,
    },
    /// A client carries out the assignment that it was told.
    Settle(Index),
    /// It subscribes to others at its next heartbeat.
    Subscribe(Index, u8),
    Leave(Index),
    /// It dies without a word.
    Die(Index),
    Wait(i64),
    Grow(Index),
    Recreate(Index),
    Restart {
        compacted: bool,
    },
}

#[derive(Clone, Debug, Default)]
struct Client {
    id: String,
    instance: Option<String>,
    lives: usize,
    /// `None`: not a member.
    epoch: Option<i32>,
    subscription: BTreeSet<&'static str>,
    /// What it reads.
    reads: BTreeSet<(Uuid, i32)>,
    /// What it was told to read, until it does.
    told: Option<BTreeSet<(Uuid, i32)>>,
    /// An answer was lost: the next request says everything.
    full: bool,
    /// It subscribes to other topics: the next request says so.
    renamed: bool,
    /// What it reads changed: the next request says so.
    moved: bool,
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
}

fn some_topics(mask: u8) -> BTreeSet<&'static str> {
    let chosen = TOPICS
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0);
    chosen.map(|(_, topic)| *topic).collect()
}

fn partitions(reads: &BTreeSet<(Uuid, i32)>) -> Vec<Owned> {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in reads {
        topics.entry(*topic).or_default().push(*partition);
    }
    let owned = topics
        .into_iter()
        .map(|(topic, it)| Owned::default().with_topic_id(topic).with_partitions(it));
    owned.collect()
}

impl World {
    fn new(statics: [bool; 4]) -> World {
        let clients = statics
            .iter()
            .enumerate()
            .map(|(number, is_static)| Client {
                id: format!("c{number}"),
                instance: is_static.then(|| format!("i{number}")),
                ..Client::default()
            });
        World {
            bench: Bench::new(&[("t", 3), ("u", 2), ("v", 1)]),
            clients: clients.collect(),
        }
    }

    fn pick(&self, index: Index) -> usize {
        index.index(self.clients.len())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(index, mask) => {
                let number = self.pick(index);
                let client = &mut self.clients[number];
                if client.epoch.is_none() {
                    if client.instance.is_some() {
                        client.lives += 1;
                        client.id = format!("c{number}.{}", client.lives);
                    }
                    client.subscription = some_topics(mask);
                    client.epoch = Some(0);
                    self.beat(number, false);
                }
            }
            Event::Beat { client, lost } => self.beat(self.pick(client), lost),
            Event::Settle(index) => self.settle(self.pick(index)),
            Event::Subscribe(index, mask) => {
                let number = self.pick(index);
                self.clients[number].subscription = some_topics(mask);
                self.clients[number].renamed = true;
            }
            Event::Leave(index) => self.leave(self.pick(index)),
            Event::Die(index) => {
                let number = self.pick(index);
                self.forget(number);
            }
            Event::Wait(ms) => {
                self.bench.now_ms += ms;
                self.bench.tick();
            }
            Event::Grow(index) => self.bench.grow(TOPICS[index.index(3)], 1),
            Event::Recreate(index) => {
                self.bench.delete(TOPICS[index.index(3)]);
                self.bench.create(TOPICS[index.index(3)], 2);
            }
            Event::Restart { compacted } => self.restart(compacted),
        }
        self.check();
    }

    fn forget(&mut self, number: usize) {
        let client = &mut self.clients[number];
        *client = Client {
            id: client.id.clone(),
            instance: client.instance.clone(),
            lives: client.lives,
            subscription: client.subscription.clone(),
            ..Client::default()
        };
    }

    fn beat(&mut self, number: usize, lost: bool) {
        if self.clients[number].full {
            self.settle(number);
        }
        let client = self.clients[number].clone();
        let Some(epoch) = client.epoch else {
            return;
        };
        let mut request =
            beat(&client.id, epoch).with_instance_id(client.instance.as_deref().map(text));
        if epoch == 0 || client.full || client.renamed {
            let names: Vec<&str> = client.subscription.iter().copied().collect();
            request = request.with_subscribed_topic_names(topics(&names));
        }
        if epoch == 0 || client.full {
            request = request.with_rebalance_timeout_ms(30_000);
        }
        if epoch == 0 || client.full || client.moved {
            request = request.with_topic_partitions(Some(partitions(&client.reads)));
        }
        let response = self.bench.beat(request);
        let client = &mut self.clients[number];
        if lost {
            client.full = true;
            return;
        }
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => {
                assert!(response.member_epoch >= epoch, "epochs do not go back");
                client.epoch = Some(response.member_epoch);
                (client.full, client.moved, client.renamed) = (false, false, false);
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.iter();
                    let told = topics.flat_map(|it| {
                        it.partitions
                            .iter()
                            .map(|partition| (it.topic_id, *partition))
                    });
                    client.told = Some(told.collect());
                }
            }
            // It stops reading and begins again.
            ErrorCode::FENCED_MEMBER_EPOCH | ErrorCode::UNKNOWN_MEMBER_ID => {
                self.forget(number);
                self.clients[number].epoch = Some(0);
            }
            ErrorCode::UNRELEASED_INSTANCE_ID | ErrorCode::FENCED_INSTANCE_ID => {
                self.forget(number)
            }
            code => panic!("{code:?}"),
        }
    }

    fn settle(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if let Some(told) = client.told.take() {
            client.reads = told;
            client.moved = true;
        }
    }

    fn leave(&mut self, number: usize) {
        let client = self.clients[number].clone();
        if client.epoch.is_none_or(|epoch| epoch == 0) {
            return;
        }
        let epoch = if client.instance.is_some() { -2 } else { -1 };
        self.forget(number);
        let request =
            beat(&client.id, epoch).with_instance_id(client.instance.as_deref().map(text));
        self.bench.beat(request);
    }

    fn restart(&mut self, compacted: bool) {
        let told = |bench: &Bench| {
            let state = &bench.group.state;
            let members: Vec<_> = state
                .members
                .iter()
                .map(|(id, it)| (id.clone(), it.clone()))
                .collect();
            (
                state.epoch,
                state.target_epoch,
                state.targets.clone(),
                members,
            )
        };
        let before = told(&self.bench);
        self.bench.restart(compacted);
        assert_eq!(told(&self.bench), before);
        self.bench.tick();
        assert_eq!(told(&self.bench), before, "sessions begin anew");
    }

    fn check(&self) {
        let mut readers = BTreeMap::new();
        for client in &self.clients {
            if self.bench.group.state.members.contains_key(&*client.id) && client.epoch.is_some() {
                for partition in &client.reads {
                    assert_eq!(
                        readers.insert(*partition, &client.id),
                        None,
                        "{partition:?}"
                    );
                }
            }
        }
    }

    /// The living heartbeat until the dead are removed and all have what they shall.
    fn converge(&mut self) {
        for _ in 0..24 {
            for number in 0..self.clients.len() {
                self.beat(number, false);
                self.settle(number);
                self.check();
            }
            self.bench.now_ms += 5_000;
            self.bench.tick();
        }
        let state = &self.bench.group.state;
        let living: Vec<&Client> = self
            .clients
            .iter()
            .filter(|it| it.epoch.is_some())
            .collect();
        assert_eq!(state.members.len(), living.len());
        if living.is_empty() {
            return;
        }
        assert_eq!(self.bench.group.state(), ConsumerState::Stable);
        let mut wanted = BTreeSet::new();
        let mut read = BTreeSet::new();
        for client in living {
            let target = &state.targets[&*client.id];
            let target: BTreeSet<_> = each(target).map(|(topic, it)| (topic.0, it)).collect();
            assert_eq!(client.reads, target, "{}", client.id);
            assert_eq!(client.epoch, Some(state.epoch));
            read.extend(&client.reads);
            for topic in client
                .subscription
                .iter()
                .filter_map(|it| self.bench.image.topic(it))
            {
                wanted.extend(topic.partitions.iter().map(|it| (topic.id.0, it.index)));
            }
        }
        let wanted: BTreeSet<_> = wanted.iter().collect();
        assert_eq!(read, wanted, "everything subscribed to is read");
    }
}

fn event() -> impl Strategy<Value = Event> {
    let client = any::<Index>;
    prop_oneof![
        4 => (client(), any::<u8>()).prop_map(|(client, mask)| Event::Join(client, mask)),
        9 => (client(), prop::bool::weighted(0.2)).prop_map(|(client, lost)| Event::Beat { client, lost }),
        6 => client().prop_map(Event::Settle),
        2 => (client(), any::<u8>()).prop_map(|(client, mask)| Event::Subscribe(client, mask)),
        1 => client().prop_map(Event::Leave),
        1 => client().prop_map(Event::Die),
        2 => (0_i64..30_000).prop_map(Event::Wait),
        1 => client().prop_map(Event::Grow),
        1 => client().prop_map(Event::Recreate),
        1 => any::<bool>().prop_map(|compacted| Event::Restart { compacted }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_partition_is_read_twice_and_everything_is_read_in_the_end(
        statics in any::<[bool; 4]>(),
        range in any::<bool>(),
        interval in prop::sample::select(vec![0, 1_000, 20_000]),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new(statics);
        world.bench.settings.group_default.assignment_interval_ms = interval;
        if range {
            world.bench.settings.consumer_assignors.reverse();
        }
        for event in events {
            world.happen(event);
        }
        world.converge();
    }
}
