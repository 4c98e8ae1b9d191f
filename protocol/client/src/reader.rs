//! Reading partitions from given offsets on, by long poll, without a group.
//!
//! One fetch is outstanding per broker, on a connection of its own, for all partitions that the
//! broker leads. Positions move only with what [`Reader::poll`] returns, and dropping its future
//! loses nothing: fetches live in the reader.
//!
//! Deliberately absent: fetch sessions (KIP-227), reading from followers, and hiding aborted
//! transactions: everything below the high watermark is returned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use klamm_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use klamm_protocol::messages::fetch_response::PartitionData;
use klamm_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use klamm_protocol::{ErrorCode, StrBytes};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, leader_of};
use crate::connection::Connection;
use crate::error::{Error, ServerError};
use crate::offsets::TopicPartition;
use crate::record::{Message, decode_batches};

/// First version of Fetch that names topics by id (KIP-516).
const FETCH_BY_TOPIC_ID: i16 = 13;

/// Limits of a fetch.
#[derive(Clone, Debug)]
pub struct ReaderOptions {
    /// How long a broker may hold a fetch while it has less than `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth an answer before `max_wait`.
    pub min_bytes: i32,
    /// Limit of one answer in bytes; the first batch is sent even if it is larger.
    pub max_bytes: i32,
    /// Limit for each partition, likewise.
    pub partition_max_bytes: i32,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 * 1024 * 1024,
            partition_max_bytes: 1024 * 1024,
        }
    }
}

/// What one partition had.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The partition.
    pub at: TopicPartition,
    /// Its messages in order; empty when the broker had nothing new.
    pub messages: Vec<Message>,
    /// Offset that the next fetch asks for.
    pub next_offset: i64,
    /// Offset after the last record that consumers may see.
    pub high_watermark: i64,
    /// First offset that is kept; -1 from a broker that does not say.
    pub log_start_offset: i64,
}

/// Reads several partitions side by side.
pub struct Reader {
    client: Client,
    options: ReaderOptions,
    positions: BTreeMap<TopicPartition, i64>,
    /// Broker that a fetch for the partition is outstanding at.
    busy: HashSet<TopicPartition>,
    /// Not fetched before that time: its last fetch failed.
    paused: HashMap<TopicPartition, Instant>,
    /// When the first of the failures began that nothing has ended yet.
    failing_since: HashMap<TopicPartition, Instant>,
    connections: HashMap<i32, Connection>,
    fetches: JoinSet<FetchOutcome>,
}

struct FetchOutcome {
    leader: i32,
    asked: Vec<(TopicPartition, i64)>,
    topics_by_id: HashMap<uuid::Uuid, String>,
    result: Result<(Connection, FetchResponse), Error>,
}

impl Reader {
    /// A reader of nothing; see [`Reader::assign`].
    pub fn new(client: Client, options: ReaderOptions) -> Reader {
        Reader {
            client,
            options,
            positions: BTreeMap::new(),
            busy: HashSet::new(),
            paused: HashMap::new(),
            failing_since: HashMap::new(),
            connections: HashMap::new(),
            fetches: JoinSet::new(),
        }
    }

    /// Reads a partition from `offset` on, or moves there.
    pub fn assign(&mut self, at: TopicPartition, offset: i64) {
        self.positions.insert(at, offset);
    }

    /// Reads a partition no longer.
    pub fn unassign(&mut self, at: &TopicPartition) {
        self.positions.remove(at);
    }

    /// Offset that will be read next, for every partition.
    pub fn positions(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.positions
    }

    /// Waits for the next answer of some broker: at most about `max_wait` when nothing is new.
    /// Empty when nothing is assigned.
    ///
    /// Failures that may pass are retried until the client's retry timeout.
    ///
    /// # Errors
    /// OFFSET_OUT_OF_RANGE and whatever else cannot pass, as [`Error::Server`];
    /// [`Error::Deadline`]; [`Error::Malformed`] for batches that do not decode. Other partitions
    /// are not affected, and reading may go on, for example after [`Reader::assign`].
    pub async fn poll(&mut self) -> Result<Vec<Fetched>, Error> {
        loop {
            self.start_fetches().await?;
            let resume = self.paused.values().min().copied();
            let outcome = match resume {
                Some(resume) => tokio::select! {
                    biased;
                    Some(outcome) = self.fetches.join_next() => outcome,
                    () = sleep_until(resume) => continue,
                },
                None => match self.fetches.join_next().await {
                    Some(outcome) => outcome,
                    None => return Ok(Vec::new()),
                },
            };
            let outcome = outcome
                .expect("a fetch task does not panic and is not aborted while the reader lives");
            let fetched = self.finish(outcome)?;
            if !fetched.is_empty() {
                return Ok(fetched);
            }
        }
    }

    /// One fetch for every leader that has idle partitions of ours.
    async fn start_fetches(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.paused.retain(|_, until| *until > now);
        let idle: Vec<(TopicPartition, i64)> = self
            .positions
            .iter()
            .filter(|(at, _)| !self.busy.contains(*at) && !self.paused.contains_key(*at))
            .map(|(at, offset)| (at.clone(), *offset))
            .collect();
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, i64)>> = BTreeMap::new();
        for (at, offset) in idle {
            let stale = self.failing_since.contains_key(&at);
            let topic = match stale {
                true => {
                    self.client.doubt();
                    self.client.refresh_topic(&at.topic).await
                }
                false => self.client.topic(&at.topic).await,
            };
            match topic.and_then(|topic| leader_of(&topic, at.partition)) {
                Ok(leader) => by_leader.entry(leader).or_default().push((at, offset)),
                Err(error) => self.failed(&at, error)?,
            }
        }
        for (leader, asked) in by_leader {
            self.busy.extend(asked.iter().map(|(at, _)| at.clone()));
            let connection = self.connections.remove(&leader);
            let fetch = fetch(
                self.client.clone(),
                self.options.clone(),
                leader,
                connection,
                asked,
            );
            self.fetches.spawn(fetch);
        }
        Ok(())
    }

    fn finish(&mut self, outcome: FetchOutcome) -> Result<Vec<Fetched>, Error> {
        let FetchOutcome {
            leader,
            asked,
            topics_by_id,
            result,
        } = outcome;
        for (at, _) in &asked {
            self.busy.remove(at);
        }
        let response = match result {
            Ok((connection, response)) => {
                self.connections.insert(leader, connection);
                response
            }
            Err(error) => {
                for (at, _) in &asked {
                    self.failed(at, error.clone())?;
                }
                return Ok(Vec::new());
            }
        };
        if let Err(error) = ServerError::check(response.error_code, None) {
            let error = Error::server(format!("fetching from broker {leader}"), error);
            for (at, _) in &asked {
                self.failed(at, error.clone())?;
            }
            return Ok(Vec::new());
        }
        let mut fetched = Vec::with_capacity(asked.len());
        let mut failure = None;
        for topic in response.responses {
            let by_id = topics_by_id.get(&topic.topic_id);
            let name = by_id.cloned().unwrap_or_else(|| topic.topic.to_string());
            for partition in topic.partitions {
                let at = TopicPartition {
                    topic: name.clone(),
                    partition: partition.partition_index,
                };
                let Some((_, offset)) = asked.iter().find(|(asked, _)| *asked == at) else {
                    continue;
                };
                match self.accept(at, *offset, partition) {
                    Ok(Some(one)) => fetched.push(one),
                    Ok(None) => {}
                    Err(error) => failure = Some(error),
                }
            }
        }
        // What was read is delivered first; a lasting failure comes again with the next fetch.
        match failure {
            Some(error) if fetched.iter().all(|one| one.messages.is_empty()) => Err(error),
            _ => Ok(fetched),
        }
    }

    /// Takes what a broker had for one partition; `None` when it failed and will be retried, or
    /// when the position was moved meanwhile.
    fn accept(
        &mut self,
        at: TopicPartition,
        asked: i64,
        partition: PartitionData,
    ) -> Result<Option<Fetched>, Error> {
        if self.positions.get(&at) != Some(&asked) {
            return Ok(None);
        }
        if let Err(error) = ServerError::check(partition.error_code, None) {
            let context = format!(
                "topic {} partition {} at offset {asked}",
                at.topic, at.partition
            );
            let error = Error::server(context, error);
            return self.failed(&at, error).map(|()| None);
        }
        let malformed = |reason| Error::Malformed {
            address: format!(
                "the leader of topic {} partition {}",
                at.topic, at.partition
            ),
            what: "record batches",
            reason,
        };
        let decoded =
            decode_batches(partition.records.unwrap_or_default(), asked).map_err(malformed)?;
        if decoded.cut && decoded.next_offset == asked {
            return Err(malformed("not one whole batch".to_owned()));
        }
        self.failing_since.remove(&at);
        self.positions.insert(at.clone(), decoded.next_offset);
        Ok(Some(Fetched {
            at,
            messages: decoded.messages,
            next_offset: decoded.next_offset,
            high_watermark: partition.high_watermark,
            log_start_offset: partition.log_start_offset,
        }))
    }

    /// Pauses a partition whose fetch failed, or returns the error when there is no point in
    /// another try.
    fn failed(&mut self, at: &TopicPartition, error: Error) -> Result<(), Error> {
        if !error.is_retriable() {
            return Err(error);
        }
        let now = Instant::now();
        let since = *self.failing_since.entry(at.clone()).or_insert(now);
        let options = self.client.options();
        if now - since >= options.retry_timeout {
            self.failing_since.remove(at);
            return Err(Error::Deadline {
                after: now - since,
                last: Box::new(error),
            });
        }
        self.paused
            .insert(at.clone(), now + options.retry_backoff * 2);
        Ok(())
    }
}

async fn fetch(
    client: Client,
    options: ReaderOptions,
    leader: i32,
    connection: Option<Connection>,
    asked: Vec<(TopicPartition, i64)>,
) -> FetchOutcome {
    let mut topics_by_id = HashMap::new();
    let result = async {
        let connection = match connection.filter(|connection| connection.closed().is_none()) {
            Some(connection) => connection,
            None => client.connect_to(leader).await?,
        };
        let (version, request) =
            fetch_request(&client, &connection, &options, &asked, &mut topics_by_id)?;
        let response = connection.send_version(version, &request).await?;
        Ok((connection, response))
    }
    .await;
    FetchOutcome {
        leader,
        asked,
        topics_by_id,
        result,
    }
}

/// A fetch outside any session, and the version to send it in. Topics that it names by id are
/// entered into `topics_by_id`.
pub(crate) fn fetch_request(
    client: &Client,
    connection: &Connection,
    options: &ReaderOptions,
    asked: &[(TopicPartition, i64)],
    topics_by_id: &mut HashMap<uuid::Uuid, String>,
) -> Result<(i16, FetchRequest), Error> {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for (at, offset) in asked {
        let partition = FetchPartition::default()
            .with_partition(at.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(*offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(options.partition_max_bytes);
        topics.entry(&at.topic).or_default().push(partition);
    }
    // Without ids on a topic (its cluster is older than the broker asked), names still work.
    let ids: Vec<Option<Arc<crate::cluster::Topic>>> = topics
        .keys()
        .map(|name| client.cached_topic(name))
        .collect();
    let by_id = ids
        .iter()
        .all(|topic| topic.as_ref().is_some_and(|topic| !topic.id.is_zero()));
    let newest = connection.version_of::<FetchRequest>()?;
    let version = if by_id {
        newest
    } else {
        newest.min(FETCH_BY_TOPIC_ID - 1)
    };
    let topics = topics
        .into_iter()
        .zip(ids)
        .map(|((name, partitions), known)| {
            let id = known.map(|topic| topic.id.0).unwrap_or_default();
            if version >= FETCH_BY_TOPIC_ID {
                topics_by_id.insert(id, name.to_owned());
            }
            let topic = TopicName(StrBytes::from_string(name.to_owned()));
            FetchTopic::default()
                .with_topic(topic)
                .with_topic_id(id)
                .with_partitions(partitions)
        });
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(options.min_bytes)
        .with_max_bytes(options.max_bytes)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics.collect());
    Ok((version, request))
}

/// Reads one partition.
pub struct PartitionReader {
    reader: Reader,
    at: TopicPartition,
}

impl PartitionReader {
    /// Reads `topic`'s `partition` from `offset` on.
    pub fn new(
        client: Client,
        topic: &str,
        partition: i32,
        offset: i64,
        options: ReaderOptions,
    ) -> Self {
        let at = TopicPartition {
            topic: topic.to_owned(),
            partition,
        };
        let mut reader = Reader::new(client, options);
        reader.assign(at.clone(), offset);
        PartitionReader { reader, at }
    }

    /// Waits for the next answer of the leader, which may have no messages.
    ///
    /// # Errors
    /// As [`Reader::poll`].
    pub async fn poll(&mut self) -> Result<Fetched, Error> {
        loop {
            if let Some(fetched) = self.reader.poll().await?.pop() {
                return Ok(fetched);
            }
        }
    }

    /// Waits until there are `count` messages and returns them all, perhaps more.
    ///
    /// # Errors
    /// As [`Reader::poll`].
    pub async fn read(&mut self, count: usize) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.extend(self.poll().await?.messages);
        }
        Ok(messages)
    }

    /// Reads on from another offset.
    pub fn seek(&mut self, offset: i64) {
        self.reader.assign(self.at.clone(), offset);
    }

    /// Offset that will be read next.
    pub fn position(&self) -> i64 {
        self.reader
            .positions()
            .get(&self.at)
            .copied()
            .unwrap_or_default()
    }
}

/// Whether an error says that the offset asked for is not (or no longer) in the partition.
pub fn is_offset_out_of_range(error: &Error) -> bool {
    error
        .server_error()
        .is_some_and(|error| error.code == ErrorCode::OFFSET_OUT_OF_RANGE)
}
