//! The clients of a run, on a host of their own: producers, readers, committers. All they do and see
//! goes into the history.

mod commits;
mod fenced;
mod members;
mod operate;
mod produce;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use klamm_client::{Client, ClientOptions, ConnectionOptions, NewTopic};
use klamm_tests::checker::{COMPACTED, Event, Logs, Place};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::coverage::Coverage;
use crate::kernel::{self, Stamp};
use crate::rng::Rng;
use crate::world::{CLIENTS, Misfortune, Plan};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The cluster starts, topics are made.
    Setup,
    /// Clients at work, and faults.
    Load,
    /// No more faults, no new work: all that is under way ends, all is read.
    Heal,
    /// It is over.
    Done,
}

/// A topic of the workload.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// As in the history.
    pub number: u16,
    /// Partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replicas: i16,
}

impl Topic {
    /// Its name.
    pub fn name(self) -> String {
        name_of(self.number)
    }
}

/// Name of a topic by its number.
pub fn name_of(number: u16) -> String {
    format!("topic-{number}")
}

/// What the clients of a run share.
#[derive(Clone)]
pub(crate) struct Desk {
    history: Arc<Mutex<Vec<Event>>>,
    logs: Arc<Mutex<Logs>>,
    phase: watch::Sender<Phase>,
    /// What whom is waited for, by who.
    doing: Arc<Mutex<BTreeMap<String, String>>>,
    counts: Arc<Mutex<Coverage>>,
    /// Whose disk is gone, and whether the cluster has been told.
    lost: watch::Sender<(Option<usize>, bool)>,
    bootstrap: String,
    seed: u64,
    log: bool,
}

impl Desk {
    pub(crate) fn count(&self, what: &str) {
        self.counts.lock().count(what);
    }

    pub(crate) fn tell(&self, event: Event) {
        if self.log {
            eprintln!("{} {event:?}", Stamp(now()));
        }
        self.history.lock().push(event);
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.phase.borrow() >= Phase::Heal
    }

    pub(crate) fn does(&self, who: &str, what: &str) {
        self.doing.lock().insert(who.to_owned(), what.to_owned());
    }

    /// Ends when the faults do, at the latest after so long.
    pub(crate) async fn rest(&self, time: Duration) {
        let mut phase = self.phase.subscribe();
        let over = phase.wait_for(|phase| *phase >= Phase::Heal);
        let _ = tokio::time::timeout(time, over).await;
    }

    pub(crate) fn rng(&self, name: u64) -> Rng {
        Rng::new(self.seed, name)
    }

    /// A client, as soon as there is somebody to talk to.
    pub(crate) async fn client(&self, patience: Duration) -> Client {
        self.patient_client(patience, Duration::from_secs(15)).await
    }

    /// A client that waits so long for an answer.
    pub(crate) async fn patient_client(
        &self,
        patience: Duration,
        request_timeout: Duration,
    ) -> Client {
        let options = ClientOptions {
            connection: ConnectionOptions {
                request_timeout,
                connect_timeout: Duration::from_secs(5),
                ..ConnectionOptions::default()
            },
            retry_timeout: patience,
            retry_backoff: Duration::from_millis(100),
            ..ClientOptions::default()
        };
        loop {
            match Client::connect(&self.bootstrap, options.clone()).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }
}

/// The time, for the history.
pub(crate) fn now() -> u64 {
    kernel::with(|kernel| kernel.now())
}

/// The clients.
pub struct Workload {
    desk: Desk,
}

impl Workload {
    /// Starts them.
    pub fn start(
        runtime: &Runtime,
        plan: &Plan,
        nodes: usize,
        history: Arc<Mutex<Vec<Event>>>,
    ) -> Workload {
        let bootstrap: Vec<String> = (0..nodes)
            .map(|host| format!("{}:{CLIENTS}", kernel::address(host)))
            .collect();
        let desk = Desk {
            history,
            logs: Arc::default(),
            phase: watch::Sender::new(Phase::Setup),
            doing: Arc::default(),
            counts: Arc::default(),
            lost: watch::Sender::new((None, false)),
            bootstrap: bootstrap.join(","),
            seed: plan.seed,
            log: plan.log,
        };
        runtime.spawn(run(desk.clone(), nodes, plan.misfortune()));
        Workload { desk }
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        *self.desk.phase.borrow()
    }

    /// Whose disk is gone.
    pub fn lacks(&self, host: Option<usize>) {
        self.desk.lost.send_if_modified(|(lost, told)| {
            let changed = *lost != host;
            if changed {
                (*lost, *told) = (host, false);
            }
            changed
        });
    }

    /// Whether the cluster has been told of it.
    pub fn is_told(&self) -> bool {
        self.desk.lost.borrow().1
    }

    /// The faults are over.
    pub fn heal(&self) {
        self.desk.phase.send_replace(Phase::Heal);
    }

    /// What the logs hold, once it is done.
    pub fn logs(&self) -> Logs {
        self.desk.logs.lock().clone()
    }

    /// What is waited for.
    pub fn doing(&self) -> String {
        format!("{:?}", self.desk.doing.lock())
    }

    /// Counts what the history holds.
    pub fn count(&self, history: &[Event], coverage: &mut Coverage) {
        coverage.merge(&self.desk.counts.lock());
        for event in history {
            match event {
                Event::Sent { .. } => coverage.count("sent"),
                Event::Acked { offset, .. } => {
                    coverage.count("acked");
                    coverage.add("acked as repeated", u64::from(*offset < 0));
                }
                Event::Failed { surely, .. } => {
                    coverage.count(if *surely { "refused" } else { "ambiguous" });
                }
                Event::Read { records, .. } => coverage.add("read", records.len() as u64),
                Event::Committed { .. } => coverage.count("commits"),
                Event::Fetched { .. } => coverage.count("commits fetched"),
                Event::Joined { .. } => coverage.count("generations"),
                Event::CommittedIn { .. } => coverage.count("commits of members"),
                Event::Committing { .. } | Event::Resumed { .. } | Event::Zombie { .. } => {}
            }
        }
    }
}

/// The group that has members.
const MEMBERS: u32 = 10;

/// Makes the topics, has clients work, and reads all in the end.
async fn run(desk: Desk, nodes: usize, misfortune: Misfortune) {
    let mut rng = desk.rng(10);
    let topics = topics(&mut rng, &mut desk.rng(11), nodes, misfortune);
    desk.does("setup", "topics");
    make_topics(&desk, &topics).await;
    let places: Vec<Place> = topics
        .iter()
        .flat_map(|topic| (0..topic.partitions).map(|partition| (topic.number, partition)))
        .collect();
    desk.doing.lock().clear();
    desk.phase.send_replace(Phase::Load);
    let mut work = JoinSet::new();
    for number in 0..rng.between(2, 5) {
        work.spawn(produce::run(
            desk.clone(),
            u32::try_from(number).unwrap_or(0),
            places.clone(),
        ));
    }
    let mut reader = 0;
    for place in &places {
        work.spawn(read::follow(desk.clone(), reader, *place));
        reader += 1;
    }
    work.spawn(read::browse(desk.clone(), reader, places.clone()));
    let mut groups: Vec<(u32, Place)> = (0..=commits::SELDOM)
        .map(|group| (group, places[0]))
        .collect();
    for (group, place) in &groups {
        work.spawn(commits::run(desk.clone(), *group, *place));
    }
    if rng.chance(400) {
        let pause = *rng.pick(&[5_000, 20_000, 60_000]);
        let fewest = match misfortune {
            Misfortune::None => 2,
            _ => 3,
        };
        work.spawn(operate::moves(
            desk.clone(),
            places.clone(),
            nodes,
            (pause, fewest),
        ));
    }
    if matches!(misfortune, Misfortune::Lost | Misfortune::RottenJournal) {
        work.spawn(operate::replace(desk.clone()));
    }
    if rng.chance(300) {
        work.spawn(operate::churn(desk.clone(), *rng.pick(&[3_000, 20_000])));
    }
    if rng.chance(350) {
        for (number, place) in (0..).zip(&places[..2]) {
            work.spawn(members::run(desk.clone(), number, *place));
            groups.push((MEMBERS, *place));
        }
    }
    if rng.chance(300) {
        work.spawn(fenced::run(desk.clone(), places[0]));
    }
    if rng.chance(400) {
        for node in (1..).take(nodes) {
            work.spawn(commits::ask(desk.clone(), node, groups.clone()));
        }
    }
    while let Some(ended) = work.join_next().await {
        ended.expect("clients do not panic");
    }
    desk.doing.lock().clear();
    let has_members = groups.iter().any(|(group, _)| *group == MEMBERS);
    for (group, place) in groups {
        desk.does("end", &format!("commits of {group}"));
        commits::look(&desk, group, place).await;
    }
    for place in &places {
        desk.does("end", &format!("reading {place:?}"));
        let log = read::all(&desk, *place).await;
        desk.logs.lock().insert(*place, log);
    }
    settle(&desk, &topics, nodes).await;
    // Followers hear of the last commit; and that the sessions of members end is written, too.
    let rest = if has_members { 20 } else { 5 };
    tokio::time::sleep(Duration::from_secs(rest)).await;
    desk.phase.send_replace(Phase::Done);
}

/// The topics of a run.
fn topics(rng: &mut Rng, other: &mut Rng, nodes: usize, misfortune: Misfortune) -> Vec<Topic> {
    let most = i16::try_from(nodes).unwrap_or(3);
    let few = [1, 3, most];
    let topic = |number, partitions, replicas| Topic {
        number,
        partitions,
        replicas,
    };
    // What has one replica is lost with its disk.
    let few = match misfortune {
        Misfortune::None => &few[..],
        _ => &few[1..],
    };
    let mut topics = vec![topic(0, 2, 3), topic(1, 1, *rng.pick(few))];
    if other.chance(250) {
        topics.push(topic(COMPACTED, 1, 3));
    }
    topics
}

/// All nodes are there, and all replicas have all.
async fn settle(desk: &Desk, topics: &[Topic], nodes: usize) {
    let client = desk.client(Duration::from_secs(10)).await;
    loop {
        let there = client.describe_cluster().await;
        let mut settled = there.is_ok_and(|there| there.nodes.len() == nodes);
        for topic in topics {
            let topic = client.refresh_topic(&topic.name()).await;
            settled &= topic.is_ok_and(|topic| {
                let whole = |partition: &klamm_client::Partition| {
                    partition.leader.is_some()
                        && partition.in_sync.len() == partition.replicas.len()
                };
                desk.does("settle", &format!("{:?}", topic.partitions));
                topic.partitions.iter().all(whole)
            });
        }
        if settled {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Small segments; smaller ones where they have to be sealed to be compacted.
fn configs(topic: Topic) -> Vec<(String, String)> {
    let segments = "internal.segment.bytes".to_owned();
    if topic.number != COMPACTED {
        return vec![(segments, (32 << 10).to_string())];
    }
    vec![
        (segments, (8 << 10).to_string()),
        ("cleanup.policy".to_owned(), "compact".to_owned()),
        ("min.cleanable.dirty.ratio".to_owned(), "0.1".to_owned()),
    ]
}

async fn make_topics(desk: &Desk, topics: &[Topic]) {
    let client = desk.client(Duration::from_secs(60)).await;
    let topics: Vec<NewTopic> = topics
        .iter()
        .map(|topic| NewTopic {
            name: topic.name(),
            partitions: Some(topic.partitions),
            replication_factor: Some(topic.replicas),
            configs: configs(*topic),
        })
        .collect();
    // Nodes that have not registered yet are missing.
    let missing = topics
        .iter()
        .filter_map(|topic| topic.replication_factor)
        .max()
        .unwrap_or(1);
    loop {
        let there = client.describe_cluster().await;
        if there.is_ok_and(|there| there.nodes.len() >= usize::try_from(missing).unwrap_or(1)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for topic in topics {
        loop {
            let made = client
                .create_topics(std::slice::from_ref(&topic), false)
                .await;
            match made.map(|mut made| made.pop()) {
                Ok(Some(Ok(_))) => break,
                Ok(Some(Err(error))) if error.to_string().contains("already exists") => break,
                other => {
                    desk.does("setup", &format!("{other:?}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        while !client
            .refresh_topic(&topic.name)
            .await
            .is_ok_and(|topic| topic.has_all_leaders())
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
