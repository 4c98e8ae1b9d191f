//! The task that owns a producer's queues and decides what goes to which broker when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use klamm_protocol::ErrorCode;
use klamm_protocol::messages::ProduceResponse;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::cluster::Topic;
use crate::error::{Error, ServerError};

use super::ProducerOptions;
use super::answers::{answer_for, leader_of, learn_leaders, may_be_appended};
use super::identity::{Identification, Identity, ask_identity};
use super::link::{Answer, Link, Outcome, Shipment};
use super::partitioner::Partitioner;
use super::queue::{Batch, Limits, PartitionQueue, Pending, Readiness};

/// Commands taken at once.
const COMMAND_RUN: usize = 1024;
/// Answers queued before links wait for the sender.
const ANSWER_QUEUE: usize = 256;

/// What a [`super::Producer`] asks of its sender.
pub(super) enum Command {
    Record {
        topic: Arc<Topic>,
        partition: Option<i32>,
        record: Pending,
    },
    Flush(oneshot::Sender<()>),
}

/// What tasks of the sender report.
enum Report {
    Identified(Result<Identity, Error>),
    Refreshed {
        topic: String,
        result: Result<Arc<Topic>, Error>,
    },
}

struct TopicQueues {
    topic: Arc<Topic>,
    partitions: BTreeMap<i32, PartitionQueue>,
}

struct LinkHandle {
    requests: mpsc::Sender<Vec<Shipment>>,
    in_flight: usize,
}

pub(super) struct Sender {
    client: Client,
    options: ProducerOptions,
    limits: Limits,
    room: Arc<Semaphore>,
    partitioner: Partitioner,
    topics: HashMap<String, TopicQueues>,
    links: HashMap<i32, LinkHandle>,
    identification: Identification,
    refreshing: HashSet<String>,
    next_ordinal: u64,
    /// Batches that are not settled, by ordinal; the halves of a split batch share one.
    unsettled: BTreeMap<u64, u32>,
    /// Everything below goes out without lingering.
    flush_below: u64,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// Where the next request begins to look for batches, so that no partition is starved.
    turn: usize,
    answers: mpsc::Sender<Answer>,
    answered: mpsc::Receiver<Answer>,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
}

impl Sender {
    pub(super) fn new(client: Client, options: ProducerOptions, room: Arc<Semaphore>) -> Sender {
        let (answers, answered) = mpsc::channel(ANSWER_QUEUE);
        let (reports, reported) = mpsc::channel(ANSWER_QUEUE);
        let identification = match options.idempotent {
            true => Identification::Wanted { not_before: None },
            false => Identification::NotNeeded,
        };
        Sender {
            client,
            limits: Limits {
                batch_bytes: options.batch_bytes,
                linger: options.linger,
            },
            options,
            room,
            partitioner: Partitioner::default(),
            topics: HashMap::new(),
            links: HashMap::new(),
            identification,
            refreshing: HashSet::new(),
            next_ordinal: 0,
            unsettled: BTreeMap::new(),
            flush_below: 0,
            flushes: Vec::new(),
            turn: 0,
            answers,
            answered,
            reports,
            reported,
        }
    }

    /// Runs until every producer handle is dropped and everything is settled.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(COMMAND_RUN);
        let mut open = true;
        while open || !self.unsettled.is_empty() {
            let wake = self.dispatch();
            tokio::select! {
                biased;
                Some(answer) = self.answered.recv() => self.on_answer(answer),
                Some(report) = self.reported.recv() => self.on_report(report),
                count = commands.recv_many(&mut taken, COMMAND_RUN), if open => {
                    if count == 0 {
                        open = false;
                        self.flush_below = u64::MAX;
                    }
                    for command in taken.drain(..) {
                        self.on_command(command);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Record {
                topic,
                partition,
                record,
            } => self.on_record(topic, partition, record),
            Command::Flush(done) => {
                self.flush_below = self.flush_below.max(self.next_ordinal);
                self.flushes.push((self.next_ordinal, done));
                self.answer_flushes();
            }
        }
    }

    fn on_record(&mut self, topic: Arc<Topic>, partition: Option<i32>, record: Pending) {
        let partition = partition.unwrap_or_else(|| {
            let key = record.message.key.as_deref();
            self.partitioner
                .choose(&topic, key, record.size, self.limits.batch_bytes)
        });
        if !self.topics.contains_key(&topic.name) {
            let queues = TopicQueues {
                topic: Arc::clone(&topic),
                partitions: BTreeMap::new(),
            };
            self.topics.insert(topic.name.clone(), queues);
        }
        let queues = self.topics.get_mut(&topic.name).expect("inserted above");
        queues.topic = topic;
        let queue = queues.partitions.entry(partition).or_default();
        if queue.push(record, self.limits.batch_bytes, self.next_ordinal) {
            self.unsettled.insert(self.next_ordinal, 1);
            self.next_ordinal += 1;
        }
    }

    /// Sends everything that is ready, and returns when to look again if nothing happens before.
    fn dispatch(&mut self) -> Option<Instant> {
        self.expire();
        if let Some(wait) = self.identify() {
            return wait.into_iter().chain(self.next_expiry()).min();
        }
        loop {
            let now = Instant::now();
            let (ready, wake) = self.ready(now);
            let mut sent = false;
            for (node, partitions) in ready {
                sent |= self.send_request(node, partitions);
            }
            if !sent {
                return wake.into_iter().chain(self.next_expiry()).min();
            }
        }
    }

    /// The partitions that have something to send, by leader, and when the next will have.
    #[expect(clippy::type_complexity, reason = "named nowhere else")]
    fn ready(&mut self, now: Instant) -> (BTreeMap<i32, Vec<(Arc<Topic>, i32)>>, Option<Instant>) {
        let cluster = self.client.cluster();
        let mut ready: BTreeMap<i32, Vec<(Arc<Topic>, i32)>> = BTreeMap::new();
        let mut wake: Option<Instant> = None;
        let mut leaderless = Vec::new();
        for (name, queues) in &mut self.topics {
            if let Some(topic) = cluster.topics.get(name) {
                queues.topic = Arc::clone(topic);
            }
            for (index, queue) in &mut queues.partitions {
                match queue.readiness(now, &self.limits, self.flush_below) {
                    Readiness::Blocked => {}
                    Readiness::At(time) => wake = Some(wake.map_or(time, |wake| wake.min(time))),
                    Readiness::Now => {
                        let partition = queues.topic.partition(*index);
                        if let Some(leader) = partition.and_then(|partition| partition.leader) {
                            // It may lead no more: whoever knows is being asked.
                            if self.refreshing.contains(name) && self.client.was_silent(leader) {
                                continue;
                            }
                            ready
                                .entry(leader)
                                .or_default()
                                .push((Arc::clone(&queues.topic), *index));
                        } else {
                            let time = now + self.options.retry_backoff;
                            queue.paused_until = Some(time);
                            wake = Some(wake.map_or(time, |wake| wake.min(time)));
                            leaderless.push(name.clone());
                        }
                    }
                }
            }
        }
        for name in leaderless {
            self.refresh(name);
        }
        (ready, wake)
    }

    /// One request to a broker with at most one batch of each partition. `false` if the broker
    /// has enough in flight.
    fn send_request(&mut self, node: i32, mut partitions: Vec<(Arc<Topic>, i32)>) -> bool {
        let (client, options, answers) = (&self.client, &self.options, &self.answers);
        let link = self.links.entry(node).or_insert_with(|| {
            let (requests, queue) = mpsc::channel(options.max_in_flight);
            tokio::spawn(Link::new(client.clone(), node, options, answers.clone()).run(queue));
            LinkHandle {
                requests,
                in_flight: 0,
            }
        });
        if link.in_flight >= self.options.max_in_flight {
            return false;
        }
        let count = partitions.len();
        partitions.rotate_left(self.turn % count);
        self.turn = self.turn.wrapping_add(1);
        let identity = match self.identification {
            Identification::Known(identity) => Some(identity),
            _ => None,
        };
        let mut shipments: Vec<Shipment> = Vec::new();
        let mut bytes = 0;
        for (topic, partition) in partitions {
            let queues = self
                .topics
                .get_mut(&topic.name)
                .expect("found among the queues");
            let queue = queues
                .partitions
                .get_mut(&partition)
                .expect("found among the queues");
            if !shipments.is_empty() && bytes + queue.next_bytes() > self.options.request_bytes {
                break;
            }
            bytes += queue.next_bytes();
            let batch = queue.take(identity).expect("a ready partition has a batch");
            shipments.push(Shipment {
                topic,
                partition,
                batch,
            });
        }
        link.in_flight += 1;
        let queued = link.requests.try_send(shipments);
        assert!(
            queued.is_ok(),
            "a link's queue holds as much as may be in flight"
        );
        true
    }

    fn on_answer(
        &mut self,
        Answer {
            node,
            shipments,
            outcome,
        }: Answer,
    ) {
        let link = self
            .links
            .get_mut(&node)
            .expect("links live as long as the sender");
        link.in_flight -= 1;
        match &outcome {
            Outcome::Answered(response) => learn_leaders(&self.client, &shipments, response),
            Outcome::NotSent(_) | Outcome::Lost(_) => self.client.found_silent(node),
            Outcome::Written => {}
        }
        for shipment in shipments {
            self.queue(&shipment.topic, shipment.partition).answered();
            match &outcome {
                Outcome::Written => self.succeed(shipment, -1, -1),
                Outcome::Answered(response) => self.on_partition_answer(shipment, response, node),
                Outcome::NotSent(error) => self.retry_or_fail(shipment, error.clone(), false),
                Outcome::Lost(error) => self.retry_or_fail(shipment, error.clone(), true),
            }
        }
        self.answer_flushes();
    }

    fn on_partition_answer(
        &mut self,
        mut shipment: Shipment,
        response: &ProduceResponse,
        node: i32,
    ) {
        let Some(answer) = answer_for(&shipment, response) else {
            let what = "Produce";
            let reason = "a partition is left out".to_owned();
            let error = Error::Malformed {
                address: format!("broker {node}"),
                what,
                reason,
            };
            return self.fail(shipment, &error);
        };
        let code = ErrorCode(answer.error_code);
        if code.is_none() || code == ErrorCode::DUPLICATE_SEQUENCE_NUMBER {
            return self.succeed(shipment, answer.base_offset, answer.log_append_time_ms);
        }
        let mut message = answer.error_message.as_ref().map(|text| text.to_string());
        if let Some(record) = answer.record_errors.first() {
            // The first offending record says more than the summary.
            message = record
                .batch_index_error_message
                .as_ref()
                .map(|text| text.to_string())
                .or(message);
        }
        let context = format!(
            "topic {} partition {}",
            shipment.topic.name, shipment.partition
        );
        let error = Error::server(context, ServerError { code, message });
        if code == ErrorCode::MESSAGE_TOO_LARGE && shipment.batch.records.len() > 1 {
            let Shipment {
                topic,
                partition,
                batch,
            } = shipment;
            *self.unsettled.entry(batch.ordinal).or_default() += 1;
            return self.queue(&topic, partition).put_back_split(batch);
        }
        let sequence_lost = matches!(
            code,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                | ErrorCode::UNKNOWN_PRODUCER_ID
                | ErrorCode::INVALID_PRODUCER_EPOCH
        );
        if sequence_lost && shipment.batch.sequence.is_some() {
            let (topic, partition) = (Arc::clone(&shipment.topic), shipment.partition);
            let ordinal = shipment.batch.ordinal;
            shipment.batch.last_error = Some(error.clone());
            if !self.queue(&topic, partition).has_others_before(ordinal) {
                // The broker has forgotten this producer, or an older batch is lost for good.
                self.want_identity();
                if shipment.batch.maybe_appended {
                    return self.fail(shipment, &error);
                }
            }
            return self.put_back(shipment);
        }
        let leader = leader_of(&self.client.cluster(), &shipment);
        if code == ErrorCode::NOT_LEADER_OR_FOLLOWER && leader.is_some_and(|leader| leader != node)
        {
            // Known by now: it goes there at once.
            shipment.batch.maybe_appended = true;
            shipment.batch.last_error = Some(error);
            let queue = self.queue(&shipment.topic, shipment.partition);
            return queue.put_back(shipment.batch);
        }
        self.retry_or_fail(shipment, error, may_be_appended(code));
    }

    fn retry_or_fail(&mut self, mut shipment: Shipment, error: Error, may_be_appended: bool) {
        shipment.batch.maybe_appended |= may_be_appended;
        if !error.is_retriable() {
            return self.fail(shipment, &error);
        }
        tracing::debug!(topic = shipment.topic.name, partition = shipment.partition, %error, "sending again");
        shipment.batch.last_error = Some(error);
        self.refresh(shipment.topic.name.clone());
        self.put_back(shipment);
    }

    fn put_back(&mut self, shipment: Shipment) {
        let until = Instant::now() + self.options.retry_backoff;
        let queue = self.queue(&shipment.topic, shipment.partition);
        queue.paused_until = Some(until);
        queue.put_back(shipment.batch);
    }

    fn queue(&mut self, topic: &Topic, partition: i32) -> &mut PartitionQueue {
        let queues = self.topics.get_mut(&topic.name);
        let queue = queues.and_then(|queues| queues.partitions.get_mut(&partition));
        queue.expect("queues live as long as the sender")
    }

    fn succeed(&mut self, shipment: Shipment, base_offset: i64, append_time: i64) {
        self.queue(&shipment.topic, shipment.partition).is_written();
        let ordinal = shipment.batch.ordinal;
        let bytes = shipment
            .batch
            .succeed(shipment.partition, base_offset, append_time);
        self.settle(ordinal, bytes);
    }

    fn fail(&mut self, shipment: Shipment, error: &Error) {
        self.give_up(shipment.batch, error);
    }

    /// Reports a batch as lost. If it had a place in the sequence, the sequence now has a gap that
    /// no broker would accept.
    fn give_up(&mut self, batch: Batch, error: &Error) {
        if batch.sequence.is_some() {
            self.want_identity();
        }
        let ordinal = batch.ordinal;
        let bytes = batch.fail(error);
        self.settle(ordinal, bytes);
    }

    fn settle(&mut self, ordinal: u64, bytes: usize) {
        self.room.add_permits(bytes);
        let left = self
            .unsettled
            .get_mut(&ordinal)
            .expect("every batch is settled once");
        *left -= 1;
        if *left == 0 {
            self.unsettled.remove(&ordinal);
        }
    }

    fn answer_flushes(&mut self) {
        let oldest = self.unsettled.keys().next().copied().unwrap_or(u64::MAX);
        for (_, done) in self.flushes.extract_if(.., |(below, _)| *below <= oldest) {
            _ = done.send(());
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let timeout = self.options.delivery_timeout;
        let mut expired = Vec::new();
        for queue in self
            .topics
            .values_mut()
            .flat_map(|queues| queues.partitions.values_mut())
        {
            expired.extend(std::iter::from_fn(|| queue.take_expired(now, timeout)));
        }
        for batch in expired {
            let waited = || Error::Closed {
                address: "the leader".to_owned(),
                reason: "records were not sent in time".to_owned(),
            };
            let last = batch.last_error.clone().unwrap_or_else(waited);
            let error = Error::Deadline {
                after: now - batch.created,
                last: Box::new(last),
            };
            self.give_up(batch, &error);
            self.answer_flushes();
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let queues = self
            .topics
            .values()
            .flat_map(|queues| queues.partitions.values());
        queues
            .filter_map(|queue| queue.expiry(self.options.delivery_timeout))
            .min()
    }

    fn want_identity(&mut self) {
        if matches!(self.identification, Identification::Known(_)) {
            self.identification = Identification::Wanted { not_before: None };
        }
    }

    /// Sees to the producer's identity. `Some` when nothing may be sent yet, with the time of the
    /// next try if there is one.
    fn identify(&mut self) -> Option<Option<Instant>> {
        let Identification::Wanted { not_before } = self.identification else {
            return matches!(self.identification, Identification::Asked).then_some(None);
        };
        if self.unsettled.is_empty() || self.links.values().any(|link| link.in_flight > 0) {
            return Some(None);
        }
        if let Some(time) = not_before.filter(|time| *time > Instant::now()) {
            return Some(Some(time));
        }
        self.identification = Identification::Asked;
        let (client, reports) = (self.client.clone(), self.reports.clone());
        tokio::spawn(async move {
            let identity = ask_identity(&client).await;
            drop(reports.send(Report::Identified(identity)).await);
        });
        Some(None)
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Identified(Ok(identity)) => {
                self.identification = Identification::Known(identity);
                let queues = self
                    .topics
                    .values_mut()
                    .flat_map(|queues| queues.partitions.values_mut());
                let doubtful: Vec<Batch> =
                    queues.flat_map(PartitionQueue::restart_sequence).collect();
                for mut batch in doubtful {
                    let error = batch.last_error.take().unwrap_or(Error::ProducerClosed);
                    batch.sequence = None;
                    self.give_up(batch, &error);
                }
            }
            Report::Identified(Err(error)) => {
                let not_before = Some(Instant::now() + self.options.retry_backoff);
                self.identification = Identification::Wanted { not_before };
                if !error.is_retriable() && !matches!(error, Error::Deadline { .. }) {
                    self.give_up_everything(&error);
                }
            }
            Report::Refreshed { topic, result } => {
                self.refreshing.remove(&topic);
                if let Err(error) = result {
                    tracing::debug!(topic, %error, "metadata not refreshed");
                }
            }
        }
        self.answer_flushes();
    }

    fn give_up_everything(&mut self, error: &Error) {
        let queues = self
            .topics
            .values_mut()
            .flat_map(|queues| queues.partitions.values_mut());
        let waiting: Vec<Batch> = queues.flat_map(PartitionQueue::take_all).collect();
        for batch in waiting {
            self.give_up(batch, error);
        }
    }

    /// Asks for a topic's leaders, unless that is being done.
    fn refresh(&mut self, topic: String) {
        if self.refreshing.insert(topic.clone()) {
            let (client, reports) = (self.client.clone(), self.reports.clone());
            tokio::spawn(async move {
                client.doubt();
                let result = client.refresh_topic(&topic).await;
                drop(reports.send(Report::Refreshed { topic, result }).await);
            });
        }
    }
}
