//! The task of one shard: one partition of `__consumer_offsets`, while this node leads it.
//!
//! Invariants
//! - The shard's state is the log up to its end, plus what has been decided and is in flight, in the
//!   order of the batches. Anything that would break this drops the state.
//! - Every request taken from the queue is answered or refused, also when the state is dropped.
//! - Time goes steadily while a shard is active, whatever the wall clock does: a clock that is set must
//!   not end every session. It stands still while nothing can be written.
//! - Nothing is decided while another node may lead: a round of joins that ends there would be answered with a
//!   generation that the next coordinator knows nothing of.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use klamm_coordinator::{Environment, Outcome, Settings, Shard, Ticket};
use klamm_metadata::Image;
use klamm_protocol::ErrorCode;
use klamm_records::plant::{self, Bug};
use klamm_records::{BatchHeader, Codec, Validated};
use klamm_storage::Steady;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::batches::Batches;
use super::release::Releases;
use super::{Ask, CommittedOffset, Door, Look, Phase, Reply, Slot, load};
use crate::node::{Shared, stopped};
use crate::partition::{AppendError, Partition};

/// Requests that may wait for a shard; then their connections do.
const QUEUE: usize = 1024;
/// Requests decided before their records go out.
const MAX_DRAIN: usize = 256;
/// Bytes of records decided before they go out.
const MAX_DRAIN_BYTES: usize = 512 * 1024;
/// Batches on their way to the log. Past that, requests queue.
const MAX_IN_FLIGHT: u64 = 8;
/// Pause before a log that could not be read, or a state that failed, is read again.
const RETRY: Duration = Duration::from_millis(500);
/// How long batches in flight are waited for before the log is read again.
const SETTLE: Duration = Duration::from_secs(5);
/// Shortest pause between two ticks.
const TICK_PAUSE: Duration = Duration::from_millis(1);
/// A shard that could decide nothing for so long did not hear its members: their sessions go on
/// from where they were.
const STALL: Duration = Duration::from_secs(1);
/// Pause of ticks while the disk is full.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// Pause of ticks while this node may have been deposed without having heard of it.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// Longest sleep, so that a deadline far away costs no precision.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Why a shard stopped coordinating.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// This node no longer leads the partition, or leads it in another term.
    Lost,
    /// A batch was not appended.
    Failed,
    /// A rule panicked, or what is around the rules.
    Panicked,
    /// The node stops.
    Stopping,
}

/// The task of one shard.
pub(super) struct Task {
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    slot: Arc<Slot>,
    /// Shards that may read their log at the same time.
    loading: Arc<Semaphore>,
    leadership: Arc<Notify>,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        partition: Arc<Partition>,
        slot: Arc<Slot>,
        loading: Arc<Semaphore>,
    ) -> Task {
        Task {
            shared,
            partition,
            slot,
            loading,
            leadership: Arc::new(Notify::new()),
        }
    }

    /// Coordinates whenever this node leads, until `stopping`.
    pub(super) async fn run(self, mut stopping: watch::Receiver<bool>) {
        let _watch = self.partition.watch_leadership(self.leadership.clone());
        loop {
            let term = tokio::select! {
                () = stopped(&mut stopping) => return,
                term = self.until_serving() => term,
            };
            self.slot.set(Phase::Loading);
            let loaded = tokio::select! {
                () = stopped(&mut stopping) => break,
                loaded = self.load(term) => loaded,
            };
            let end = match loaded {
                Some(shard) => {
                    let mut active = Active::new(&self, term, shard);
                    let ended = AssertUnwindSafe(active.run(&mut stopping)).catch_unwind();
                    let end = ended.await.unwrap_or_else(|_| self.panicked("the task"));
                    // Nobody is sent here any more, before those who wait are told.
                    self.slot.set(match end {
                        End::Lost | End::Stopping => Phase::NotLeading,
                        End::Failed | End::Panicked => Phase::Loading,
                    });
                    active.abandon(end == End::Stopping).await;
                    end
                }
                None if self.serves(term) => End::Failed,
                None => End::Lost,
            };
            match end {
                End::Stopping => break,
                End::Lost => self.slot.set(Phase::NotLeading),
                End::Failed | End::Panicked => tokio::time::sleep(RETRY).await,
            }
        }
        self.slot.set(Phase::NotLeading);
    }

    fn panicked(&self, what: &str) -> End {
        self.shared.metrics.shard_dropped("panic");
        let (topic, index) = (self.partition.topic(), self.partition.index());
        error!(%topic, index, "{what} of the group coordinator panicked; the shard is read again");
        End::Panicked
    }

    async fn until_serving(&self) -> i32 {
        loop {
            if let Some(term) = self.partition.serving_epoch() {
                return term;
            }
            self.leadership.notified().await;
        }
    }

    fn serves(&self, term: i32) -> bool {
        self.partition.serving_epoch() == Some(term)
    }

    /// Reads the log up to where it ends now; `None` if it cannot be read or leadership is lost.
    async fn load(&self, term: i32) -> Option<Shard> {
        let _one_of_few = self.loading.acquire().await.ok()?;
        let began = Instant::now();
        let end_offset = self.partition.log().end_offset();
        let moved = Arc::new(Notify::new());
        let watch = self.partition.watch(moved.clone());
        while self.partition.high_watermark() < end_offset {
            if !self.serves(term) {
                return None;
            }
            moved.notified().await;
        }
        drop(watch);
        let partition = self.partition.clone();
        let work = klamm_raft::blocking::spawn_blocking(move || {
            let mut shard = Shard::new();
            // The rules are run here too: see `guarded`.
            catch_unwind(AssertUnwindSafe(|| {
                let loaded = load::load(&partition, end_offset, &mut shard)?;
                Ok::<_, load::LoadError>((shard, loaded))
            }))
        });
        let (topic, index) = (self.partition.topic(), self.partition.index());
        let result = match work.await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(cause))) => Err(cause.to_string()),
            Ok(Err(_)) => Err("a rule panicked".to_owned()),
            Err(cause) => Err(cause.to_string()),
        };
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok((shard, loaded)) => {
                self.shared.metrics.shard_loaded(seconds, loaded.records);
                info!(%topic, index, term, loaded.records, loaded.bytes, loaded.unknown, seconds, "group coordinator loaded");
                Some(shard)
            }
            Err(cause) => {
                self.shared.metrics.shard_dropped("load");
                error!(%topic, index, term, cause, "failed to load groups and offsets; trying again");
                None
            }
        }
    }
}

/// A batch that was proposed.
type Completion = (u64, Result<(), AppendError>);

/// A shard that coordinates.
struct Active<'a> {
    task: &'a Task,
    term: i32,
    shard: Shard,
    steady: Steady,
    last_tick: Instant,
    queue: mpsc::Receiver<Ask>,
    looks: mpsc::Receiver<Look>,
    /// Requests without an answer yet.
    waiting: HashMap<Ticket, Reply>,
    next_ticket: u64,
    releases: Releases<(Reply, klamm_coordinator::Answer)>,
    completions: mpsc::UnboundedReceiver<Completion>,
    completed: mpsc::UnboundedSender<Completion>,
    /// Batches whose completion has not come.
    unsettled: u64,
    /// Since when nothing may be decided.
    stalled: Option<Instant>,
}

impl<'a> Active<'a> {
    fn new(task: &'a Task, term: i32, shard: Shard) -> Active<'a> {
        let (asks, queue) = mpsc::channel(QUEUE);
        let (look, looks) = mpsc::channel(1);
        let (completed, completions) = mpsc::unbounded_channel();
        // From now on; what changed before is in the image that the shard is given.
        *task.slot.topics.lock() = super::TopicChanges::default();
        task.slot.set(Phase::Active(Door {
            asks,
            looks: look,
            partition: task.partition.clone(),
        }));
        Active {
            task,
            term,
            shard,
            steady: task.shared.steady.clone(),
            last_tick: Instant::now(),
            queue,
            looks,
            waiting: HashMap::new(),
            next_ticket: 0,
            releases: Releases::new(),
            completions,
            completed,
            unsettled: 0,
            stalled: None,
        }
    }

    async fn run(&mut self, stopping: &mut watch::Receiver<bool>) -> End {
        match self.turn(stopping).await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn turn(
        &mut self,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<std::convert::Infallible, End> {
        let task = self.task;
        self.decide(Vec::new(), |shard, env| shard.loaded(env))?;
        let mut asks = Vec::with_capacity(MAX_DRAIN);
        // Once each: what waits anew in every turn registers anew, too.
        let stopped = stopped(stopping);
        let alarm = tokio::time::sleep(LONGEST_SLEEP);
        let mut led = std::pin::pin!(task.leadership.notified());
        tokio::pin!(stopped, alarm);
        loop {
            let has_room = self.releases.in_flight() < MAX_IN_FLIGHT;
            // Nothing is decided that could not be written: sessions that end wait for the disk, too.
            let pause = match (task.shared.store.writable(), self.is_fresh()) {
                (false, _) => Some(DISK_PAUSE),
                (true, false) => Some(DOUBT_PAUSE),
                (true, true) => None,
            };
            let may_decide = has_room && pause.is_none();
            self.note_stall(may_decide);
            if may_decide && self.is_due() {
                self.last_tick = Instant::now();
                self.decide(Vec::new(), |shard, env| shard.tick(env))?;
                self.release();
                continue;
            }
            let wake_at = self.wake_at(pause);
            // An alarm too early costs a turn and no more: only an earlier moment moves it.
            if wake_at + TICK_PAUSE < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            tokio::select! {
                biased;
                () = &mut stopped => return Err(End::Stopping),
                () = &mut led => {
                    led.set(task.leadership.notified());
                    if !task.serves(self.term) {
                        return Err(End::Lost);
                    }
                }
                Some(completion) = self.completions.recv() => self.complete(completion)?,
                Some(look) = self.looks.recv() => {
                    // Who looks may have lost patience.
                    let _ = look.send(self.committed());
                }
                () = task.slot.topics_changed.notified(), if may_decide => {
                    let changes = std::mem::take(&mut *task.slot.topics.lock());
                    if changes.any {
                        self.decide(Vec::new(), |shard, env| shard.topics_changed(env, &changes.deleted))?;
                    }
                }
                () = &mut alarm => alarm.as_mut().reset(Instant::now() + LONGEST_SLEEP),
                _ = self.queue.recv_many(&mut asks, MAX_DRAIN), if has_room => {
                    let asked = std::mem::replace(&mut asks, Vec::with_capacity(MAX_DRAIN));
                    self.decide(asked, |_, _| Outcome::new())?;
                }
            }
            self.release();
        }
    }

    /// Members that could not be heard lose no time by it.
    fn note_stall(&mut self, may_decide: bool) {
        if !may_decide {
            self.stalled.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.stalled.take()
            && since.elapsed() >= STALL
        {
            self.steady.hold(since.elapsed());
        }
    }

    fn committed(&self) -> Vec<CommittedOffset> {
        let committed = self.shard.committed();
        committed
            .map(|(group, topic, partition, value)| CommittedOffset {
                group: group.clone(),
                topic: topic.clone(),
                partition,
                offset: value.offset,
            })
            .collect()
    }

    /// Whether the shard has something to do by itself. What it leaves for the next time waits a little,
    /// so that requests have their turn.
    fn is_due(&self) -> bool {
        let now_ms = self.steady.now_ms();
        self.shard
            .deadline()
            .is_some_and(|deadline| deadline <= now_ms)
            && self.last_tick.elapsed() >= TICK_PAUSE
    }

    /// Whether no other node has taken over unnoticed.
    fn is_fresh(&self) -> bool {
        plant::is(Bug::DeposedAnswers)
            || self.task.shared.cluster.is_alone()
            || self.task.partition.check_fresh().is_ok()
    }

    /// When the shard has something to do by itself, or it has to be seen whether it may decide again.
    fn wake_at(&self, pause: Option<Duration>) -> Instant {
        let after = self.shard.deadline().map_or(LONGEST_SLEEP, |deadline| {
            let wait_ms = deadline.saturating_sub(self.steady.now_ms()).max(0);
            Duration::from_millis(wait_ms.unsigned_abs()).clamp(TICK_PAUSE, LONGEST_SLEEP)
        });
        Instant::now() + pause.unwrap_or(after)
    }

    /// Runs `first` and then the requests through the rules, and hands what they write to the log.
    fn decide(
        &mut self,
        asks: Vec<Ask>,
        first: impl FnOnce(&mut Shard, &Environment<'_>) -> Outcome,
    ) -> Result<(), End> {
        let shared = &self.task.shared;
        let image = shared.controller.image();
        let settings = shared.coordinators.settings();
        let writable = shared.store.writable();
        // Much time may have passed since they came.
        let fresh = asks.is_empty() || self.is_fresh();
        let mut batches = self.batches();
        let env = environment(self.steady.now_ms(), &image, &settings);
        let outcome = self.guarded(|shard| first(shard, &env))?;
        self.take(outcome, &mut batches)?;
        for ask in asks {
            if !fresh {
                let _ = ask.reply.send(Err(ErrorCode::NOT_COORDINATOR));
                continue;
            }
            if !writable && ask.writes() {
                let _ = ask.reply.send(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
                continue;
            }
            let env = environment(self.steady.now_ms(), &image, &settings);
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let Ask {
                caller,
                request,
                reply,
            } = ask;
            self.waiting.insert(ticket, reply);
            let outcome = match self.guarded(|shard| shard.handle(&env, ticket, &caller, request)) {
                Ok(outcome) => outcome,
                Err(end) => {
                    // Asking again would only do the same again.
                    self.refuse(ticket, ErrorCode::UNKNOWN_SERVER_ERROR);
                    return Err(end);
                }
            };
            self.take(outcome, &mut batches)?;
            if batches.open_bytes() > MAX_DRAIN_BYTES {
                let full = std::mem::replace(&mut batches, self.batches());
                self.propose(full)?;
            }
        }
        self.propose(batches)
    }

    fn batches(&self) -> Batches {
        let settings = self.task.partition.settings();
        let codec = match self
            .task
            .shared
            .settings()
            .int("offsets.topic.compression.codec")
        {
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => Codec::None,
        };
        Batches::new(settings.max_message_bytes, codec, self.steady.now_ms())
    }

    /// A rule that panics leaves a state nobody knows: the shard is dropped and read again.
    fn guarded(&mut self, rule: impl FnOnce(&mut Shard) -> Outcome) -> Result<Outcome, End> {
        let shard = &mut self.shard;
        let ran = catch_unwind(AssertUnwindSafe(|| rule(shard)));
        ran.map_err(|_| self.task.panicked("a rule"))
    }

    /// Gathers an outcome's records and keeps its answers until they are committed.
    fn take(&mut self, outcome: Outcome, batches: &mut Batches) -> Result<(), End> {
        let Outcome { records, answers } = outcome;
        if !records.is_empty() {
            self.task.shared.metrics.group_records(&records);
            batches
                .add(&records)
                .map_err(|cause| self.unwritten(&cause))?;
        }
        if answers.is_empty() {
            return Ok(());
        }
        let after = match batches.count() as u64 {
            _ if plant::is(Bug::CommitAnsweredEarly) => None,
            0 => None,
            count => Some(self.releases.next_batch() + count - 1),
        };
        for (ticket, answer) in answers {
            match self.waiting.remove(&ticket) {
                Some(reply) => self.releases.hold(after, (reply, answer)),
                None => warn!(?ticket, "an answer to nobody"),
            }
        }
        Ok(())
    }

    fn unwritten(&self, cause: &dyn std::fmt::Display) -> End {
        let (topic, index) = (self.task.partition.topic(), self.task.partition.index());
        self.task.shared.metrics.shard_dropped("append");
        error!(%topic, index, %cause, "failed to write groups and offsets; the shard is read again");
        End::Failed
    }

    fn propose(&mut self, batches: Batches) -> Result<(), End> {
        let batches = batches.finish().map_err(|cause| self.unwritten(&cause))?;
        let now_ms = self.steady.now_ms();
        for bytes in batches {
            let header = BatchHeader::parse(&bytes).expect("a built batch has a header");
            let (batch, completed) = (self.releases.proposed(), self.completed.clone());
            self.unsettled += 1;
            // Fenced: what other shards wrote since this one's term was not there when it decided.
            let validated = Validated { header, bytes };
            let partition = &self.task.partition;
            let handed = partition.append_in(self.term, validated, now_ms, move |result| {
                // The shard may be gone; the batch stands.
                let _ = completed.send((batch, result.map(|_| ())));
            });
            if let Err(error) = handed {
                // No completion will come for it.
                let _ = self.completed.send((batch, Err(error)));
            }
        }
        Ok(())
    }

    fn complete(&mut self, completion: Completion) -> Result<(), End> {
        let mut next = Some(completion);
        while let Some((batch, result)) = next {
            self.unsettled -= 1;
            if let Err(error) = result {
                // The append knows of a lost term before this task is told.
                if error.code == ErrorCode::NOT_LEADER_OR_FOLLOWER || !self.task.serves(self.term) {
                    return Err(End::Lost);
                }
                self.releases.committed(batch - 1);
                return Err(self.unwritten(&error.message));
            }
            self.releases.committed(batch);
            next = self.completions.try_recv().ok();
        }
        Ok(())
    }

    fn release(&mut self) {
        while let Some((reply, answer)) = self.releases.pop() {
            // Who asked may have gone.
            let _ = reply.send(Ok(answer));
        }
    }

    fn refuse(&mut self, ticket: Ticket, code: ErrorCode) {
        if let Some(reply) = self.waiting.remove(&ticket) {
            let _ = reply.send(Err(code));
        }
    }

    /// Refuses everybody who waits. When the node stops, what is in flight is answered first.
    async fn abandon(mut self, is_stopping: bool) {
        self.release();
        for (_, reply) in self.waiting.drain() {
            let _ = reply.send(Err(ErrorCode::NOT_COORDINATOR));
        }
        self.queue.close();
        while let Ok(ask) = self.queue.try_recv() {
            let _ = ask.reply.send(Err(ErrorCode::NOT_COORDINATOR));
        }
        if !is_stopping {
            let answered = std::mem::replace(&mut self.releases, Releases::new());
            for (reply, _) in answered.into_waiting() {
                let _ = reply.send(Err(ErrorCode::NOT_COORDINATOR));
            }
            self.settle().await;
            return;
        }
        let until = Instant::now() + RETRY;
        while self.releases.in_flight() > 0 {
            let completion = tokio::time::timeout_at(until, self.completions.recv()).await;
            let Ok(Some(completion)) = completion else {
                break;
            };
            if self.complete(completion).is_err() {
                break;
            }
            self.release();
        }
    }

    /// Waits until nothing of this shard can enter the log any more.
    async fn settle(&mut self) {
        let until = Instant::now() + SETTLE;
        while self.unsettled > 0 {
            let completion = tokio::time::timeout_at(until, self.completions.recv()).await;
            let Ok(Some(_)) = completion else {
                return;
            };
            self.unsettled -= 1;
        }
    }
}

fn environment<'a>(now_ms: i64, image: &'a Image, settings: &'a Settings) -> Environment<'a> {
    Environment {
        now_ms,
        image,
        settings,
        fresh_id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
    }
}
