//! Members of a consumer group that outlast crashes, and a ledger of what they committed.
//!
//! A [`Consumers`] is a group of the classic protocol: its members join, sync (the leader assigns
//! ranges), read, and commit what they have read. The ledger judges every offset that the broker
//! tells: not below the last commit that was acknowledged, not above the last that was sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use klamm_client::{
    Acks, Client, Connection, ConnectionOptions, NewMessage, Producer, ProducerOptions, Reader,
    ReaderOptions, TopicPartition,
};
use klamm_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use klamm_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use klamm_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use klamm_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use klamm_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest, TopicName,
};
use klamm_protocol::{ApiRequest, ErrorCode, StrBytes};

use crate::load::{PARTITIONS, TOPIC, patient};

/// The group.
pub const GROUP: &str = "crashing";
/// Versions whose layout names topics and knows everything needed here.
const COMMIT_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 8;
const SESSION_MS: i32 = 60_000;
const REBALANCE_MS: i32 = 20_000;
const HEARTBEAT_EVERY: Duration = Duration::from_millis(200);
/// How long members keep trying to reach the broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// Commits of one partition.
#[derive(Clone, Copy, Debug)]
struct Commits {
    acknowledged: i64,
    sent: i64,
}

/// What a member is and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub id: String,
    /// Its generation.
    pub generation: i32,
    /// Its partitions.
    pub partitions: Vec<i32>,
    /// Commits acknowledged so far.
    pub commits: u64,
}

/// What was committed, and by whom.
#[derive(Default)]
pub struct Ledger {
    commits: BTreeMap<i32, Commits>,
    standings: Vec<Standing>,
}

impl Ledger {
    fn sending(&mut self, partition: i32, offset: i64) -> Result<()> {
        let commits = self.commits.entry(partition).or_insert(Commits {
            acknowledged: -1,
            sent: -1,
        });
        ensure!(
            commits.acknowledged <= offset,
            "a test must not commit {offset} after {commits:?}"
        );
        commits.sent = commits.sent.max(offset);
        Ok(())
    }

    fn acknowledged(&mut self, partition: i32, offset: i64) {
        if let Some(commits) = self.commits.get_mut(&partition) {
            commits.acknowledged = commits.acknowledged.max(offset);
        }
    }

    /// The last acknowledged commit of each partition.
    pub fn floor(&self) -> BTreeMap<i32, i64> {
        let floor = |(partition, commits): (&i32, &Commits)| (*partition, commits.acknowledged);
        self.commits.iter().map(floor).collect()
    }

    /// Judges what the broker says is committed against the floor of some moment before it was
    /// asked.
    ///
    /// # Errors
    /// The anomaly: a commit that was lost or went back, or one that nobody made.
    pub fn check(&self, floor: &BTreeMap<i32, i64>, found: &BTreeMap<i32, i64>) -> Result<()> {
        for (partition, least) in floor {
            let told = found.get(partition).copied().unwrap_or(-1);
            ensure!(
                told >= *least,
                "lost-commit: partition {partition}: {least} was acknowledged, {told} is told"
            );
        }
        for (partition, told) in found {
            let sent = self
                .commits
                .get(partition)
                .map_or(-1, |commits| commits.sent);
            ensure!(
                *told <= sent,
                "unsent-commit: partition {partition}: {told} is told, {sent} was the last sent"
            );
        }
        Ok(())
    }
}

type SharedLedger = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &SharedLedger, look: impl FnOnce(&mut Ledger) -> T) -> T {
    look(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text(GROUP))
}

/// Topic and partitions in the consumer protocol's layout of version 0, user data null.
fn assignment(partitions: &[i32]) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0];
    bytes.push(u8::try_from(TOPIC.len()).expect("a short name"));
    bytes.extend_from_slice(TOPIC.as_bytes());
    let count = i32::try_from(partitions.len()).expect("few partitions");
    for number in [count].iter().chain(partitions).chain(&[-1]) {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.into()
}

fn subscription() -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0];
    bytes.push(u8::try_from(TOPIC.len()).expect("a short name"));
    bytes.extend_from_slice(TOPIC.as_bytes());
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes.into()
}

fn partitions_of(assignment: &[u8]) -> Result<Vec<i32>> {
    let numbers = assignment.get(8 + TOPIC.len()..).context("an assignment")?;
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_be_bytes);
    let numbers: Vec<i32> = numbers
        .chunks_exact(4)
        .map(number)
        .collect::<Result<_, _>>()?;
    let (count, rest) = numbers.split_first().context("a count")?;
    let partitions = rest.get(..usize::try_from(*count)?);
    Ok(partitions.context("as many as counted")?.to_vec())
}

/// Whether to ask again: the coordinator is not there yet.
fn is_not_yet(code: ErrorCode) -> bool {
    [
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_COORDINATOR,
    ]
    .contains(&code)
}

/// A connection that is made anew when it breaks. One broker is all there is.
struct Line {
    bootstrap: String,
    connection: Option<Connection>,
}

impl Line {
    fn new(bootstrap: &str) -> Line {
        Line {
            bootstrap: bootstrap.to_owned(),
            connection: None,
        }
    }

    /// Asks until the answer is one, and not that the coordinator is not there yet.
    async fn ask<R: ApiRequest>(
        &mut self,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.once(version, request).await {
                Ok(answer) if !is_not_yet(ErrorCode(code(&answer))) => return Ok(answer),
                Ok(_) => {}
                Err(error) => {
                    ensure!(Instant::now() < until, "{}: {error}", R::API);
                    self.connection = None;
                }
            }
            ensure!(Instant::now() < until, "{}: no coordinator", R::API);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn once<R: ApiRequest>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, klamm_client::Error> {
        let connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => {
                let options = ConnectionOptions::default();
                let made = Connection::connect(&self.bootstrap, &options).await?;
                self.connection.insert(made).clone()
            }
        };
        connection.send_version(version, request).await
    }
}

/// What the broker says is committed, by partition.
///
/// # Errors
/// Any error in the answer.
pub async fn committed(bootstrap: &str) -> Result<BTreeMap<i32, i64>> {
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(group())
        .with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![asked]);
    let answer = Line::new(bootstrap)
        .ask(FETCH_VERSION, &request, |answer| {
            answer.groups.first().map_or(0, |group| group.error_code)
        })
        .await?;
    let told = answer.groups.first().context("one group")?;
    ensure!(told.error_code == 0, "{}", ErrorCode(told.error_code));
    let partitions = told.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(partitions
        .map(|partition| (partition.partition_index, partition.committed_offset))
        .collect())
}

/// One member: a line for joins and heartbeats, and what the broker made of it.
struct Member {
    number: usize,
    line: Line,
    bootstrap: String,
    ledger: SharedLedger,
    stop: Arc<AtomicBool>,
    standing: Standing,
}

impl Member {
    async fn run(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(shares) = self.join().await? else {
                continue;
            };
            if !self.sync(shares).await? {
                continue;
            }
            self.consume()
                .await
                .with_context(|| format!("member {}", self.number))?;
        }
        Ok(())
    }

    fn publish(&self) {
        with(&self.ledger, |ledger| {
            if let Some(standing) = ledger.standings.get_mut(self.number) {
                *standing = self.standing.clone();
            }
        });
    }

    /// Joins: what it is to hand out, which is nothing unless it leads. `None` when it must join
    /// again, with the id it was given.
    async fn join(&mut self) -> Result<Option<Vec<SyncGroupRequestAssignment>>> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription());
        let request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_member_id(text(&self.standing.id))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let answer = self
            .line
            .ask(7, &request, |answer| answer.error_code)
            .await?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {
                self.standing.id = answer.member_id.to_string();
                self.standing.generation = answer.generation_id;
                self.standing.partitions.clear();
                let mut ids: Vec<String> = answer
                    .members
                    .iter()
                    .map(|member| member.member_id.to_string())
                    .collect();
                ids.sort();
                shares(&ids).map(Some)
            }
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.standing.id = answer.member_id.to_string();
                Ok(None)
            }
            other => bail!("join of {:?}: {other}", self.standing),
        }
    }

    /// Syncs; false when another rebalance has begun.
    async fn sync(&mut self, assignments: Vec<SyncGroupRequestAssignment>) -> Result<bool> {
        let request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(self.standing.generation)
            .with_member_id(text(&self.standing.id))
            .with_assignments(assignments);
        let answer = self
            .line
            .ask(3, &request, |answer| answer.error_code)
            .await?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {
                self.standing.partitions = partitions_of(&answer.assignment)?;
                self.publish();
                Ok(true)
            }
            ErrorCode::REBALANCE_IN_PROGRESS => Ok(false),
            other => bail!("sync of {:?}: {other}", self.standing),
        }
    }

    /// Whether the generation lasts.
    async fn heartbeat(&mut self) -> Result<bool> {
        let request = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(self.standing.generation)
            .with_member_id(text(&self.standing.id));
        let answer = self
            .line
            .ask(3, &request, |answer| answer.error_code)
            .await?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => Ok(true),
            ErrorCode::REBALANCE_IN_PROGRESS => Ok(false),
            other => bail!("heartbeat of {:?}: {other}", self.standing),
        }
    }

    /// Reads and commits until the generation ends.
    async fn consume(&mut self) -> Result<()> {
        let client = Client::connect(&self.bootstrap, patient()).await?;
        let options = ReaderOptions {
            max_wait: Duration::from_millis(50),
            ..ReaderOptions::default()
        };
        let mut reader = Reader::new(client, options);
        let floor = with(&self.ledger, |ledger| ledger.floor());
        let found = committed(&self.bootstrap).await?;
        with(&self.ledger, |ledger| ledger.check(&floor, &found))?;
        for partition in &self.standing.partitions {
            let from = found.get(partition).copied().unwrap_or(0).max(0);
            reader.assign(at(*partition), from);
        }
        let mut beat = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if beat.elapsed() >= HEARTBEAT_EVERY {
                if !self.heartbeat().await? {
                    return Ok(());
                }
                beat = Instant::now();
            }
            let mut read = BTreeMap::new();
            for fetched in reader.poll().await? {
                if !fetched.messages.is_empty() {
                    read.insert(fetched.at.partition, fetched.next_offset);
                }
            }
            if !read.is_empty() && !self.commit(&read).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Commits; false when the group does not take it because of a rebalance.
    async fn commit(&mut self, read: &BTreeMap<i32, i64>) -> Result<bool> {
        for (partition, offset) in read {
            with(&self.ledger, |ledger| ledger.sending(*partition, *offset))?;
        }
        let partition = |(partition, offset): (&i32, &i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text("")))
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(TOPIC)))
            .with_partitions(read.iter().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(self.standing.generation)
            .with_member_id(text(&self.standing.id))
            .with_topics(vec![topic]);
        let first = |answer: &klamm_protocol::messages::OffsetCommitResponse| {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions
                .map(|told| told.error_code)
                .find(|code| *code != 0)
                .unwrap_or(0)
        };
        let answer = self.line.ask(COMMIT_VERSION, &request, first).await?;
        match ErrorCode(first(&answer)) {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS => return Ok(false),
            other => bail!("commit of {:?}: {other}", self.standing),
        }
        self.standing.commits += 1;
        for (partition, offset) in read {
            with(&self.ledger, |ledger| {
                ledger.acknowledged(*partition, *offset)
            });
        }
        self.publish();
        Ok(true)
    }
}

/// The partitions in ranges, one for each member.
fn shares(ids: &[String]) -> Result<Vec<SyncGroupRequestAssignment>> {
    let count = i32::try_from(ids.len())?;
    let share = |(at, id): (i32, &String)| {
        let range: Vec<i32> = (at * PARTITIONS / count..(at + 1) * PARTITIONS / count).collect();
        SyncGroupRequestAssignment::default()
            .with_member_id(text(id))
            .with_assignment(assignment(&range))
    };
    Ok((0..).zip(ids).map(share).collect())
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TOPIC.to_owned(),
        partition,
    }
}

/// A group at work, and a producer that gives every partition something to read.
pub struct Consumers {
    stop: Arc<AtomicBool>,
    ledger: SharedLedger,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Consumers {
    /// Starts so many members and waits until each has partitions.
    ///
    /// # Errors
    /// What a member failed with.
    pub async fn start(bootstrap: &str, count: usize) -> Result<Consumers> {
        // Whoever asks for the coordinator first has the offsets topic made.
        let client = Client::connect(bootstrap, patient()).await?;
        client.coordinator(GROUP).await?;
        let mut consumers = Consumers {
            stop: Arc::default(),
            ledger: Arc::default(),
            tasks: Vec::new(),
        };
        with(&consumers.ledger, |ledger| {
            ledger.standings = vec![Standing::default(); count];
        });
        let produce = trickle(bootstrap.to_owned(), consumers.stop.clone());
        consumers.tasks.push(tokio::spawn(produce));
        for number in 0..count {
            let member = Member {
                number,
                line: Line::new(bootstrap),
                bootstrap: bootstrap.to_owned(),
                ledger: consumers.ledger.clone(),
                stop: consumers.stop.clone(),
                standing: Standing::default(),
            };
            consumers.tasks.push(tokio::spawn(member.run()));
        }
        let partitions = usize::try_from(PARTITIONS)?;
        consumers
            .until(PATIENCE, |standings| {
                let owned: usize = standings
                    .iter()
                    .map(|standing| standing.partitions.len())
                    .sum();
                let together = standings
                    .windows(2)
                    .all(|pair| pair[0].generation == pair[1].generation);
                owned == partitions
                    && together
                    && standings.iter().all(|standing| standing.commits > 0)
            })
            .await
            .context("the group forms")?;
        Ok(consumers)
    }

    /// All members as they stand.
    pub fn standings(&self) -> Vec<Standing> {
        with(&self.ledger, |ledger| ledger.standings.clone())
    }

    /// The ledger up to now.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        with(&self.ledger, |ledger| look(ledger))
    }

    /// Waits until the members stand as wanted; how long it took.
    ///
    /// # Errors
    /// What a member failed with, or that it takes longer than `patience`.
    pub async fn until(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&[Standing]) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        while !wanted(&self.standings()) {
            if let Some(ended) = self.tasks.iter().position(|task| task.is_finished()) {
                self.tasks.swap_remove(ended).await??;
                bail!("a member ended before it was told to");
            }
            ensure!(
                began.elapsed() < patience,
                "not within {patience:?}: {:?}",
                self.standings()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }

    /// Ends all members, whose last commits must be acknowledged.
    ///
    /// # Errors
    /// What a member failed with.
    pub async fn finish(self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(with(&self.ledger, std::mem::take))
    }
}

/// Writes a little to every partition.
async fn trickle(bootstrap: String, stop: Arc<AtomicBool>) -> Result<()> {
    let client = Client::connect(&bootstrap, patient()).await?;
    let options = ProducerOptions {
        acks: Acks::All,
        idempotent: true,
        delivery_timeout: PATIENCE,
        retry_backoff: Duration::from_millis(20),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        for partition in 0..PARTITIONS {
            let message = NewMessage {
                value: Some(Bytes::from(number.to_string())),
                ..NewMessage::default()
            };
            drop(producer.send(TOPIC, Some(partition), message).await?);
        }
        number += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    producer.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Ledger, assignment, partitions_of};

    #[test]
    fn assignments_are_read_back() {
        for partitions in [&[][..], &[2], &[0, 1, 3]] {
            assert_eq!(
                partitions_of(&assignment(partitions)).ok().as_deref(),
                Some(partitions)
            );
        }
    }

    #[test]
    fn each_planted_anomaly_is_found_and_none_invented() {
        let mut ledger = Ledger::default();
        for offset in [5, 9] {
            ledger.sending(0, offset).expect("ascending");
            ledger.acknowledged(0, offset);
        }
        ledger.sending(0, 12).expect("ascending");
        let floor = ledger.floor();
        let check = |told: &[(i32, i64)]| {
            let told: BTreeMap<i32, i64> = told.iter().copied().collect();
            ledger
                .check(&floor, &told)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert_eq!(check(&[(0, 9)]), "");
        assert_eq!(check(&[(0, 12)]), "", "sent, and perhaps stored");
        assert!(check(&[(0, 5)]).starts_with("lost-commit"));
        assert!(check(&[]).starts_with("lost-commit"));
        assert!(check(&[(0, 13)]).starts_with("unsent-commit"));
        assert!(check(&[(0, 9), (1, 1)]).starts_with("unsent-commit"));
    }
}
