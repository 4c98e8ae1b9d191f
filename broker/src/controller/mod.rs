//! Changes of cluster metadata: checked by pure rules, replicated, applied, then answered.
//!
//! One task owns the order of this node's changes. It takes what has queued, lets each change decide
//! against an image that already holds the ones before it, has all resulting commands replicated
//! together (one sync for many changes) and answers when they are applied on this node.
//!
//! Every node decides for its own clients. A node that does not lead the metadata group sends the
//! leader what it decided, together with the offset of the image that it decided on; the leader takes
//! it only if nothing has come in between, else the node waits for the newer image and decides again.
//! So each change is decided on the state that it changes, wherever it came in.
//!
//! The task of the group's leader also writes snapshots into the log when they are due (`snapshots.rs`).

mod machine;
mod snapshots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use klamm_metadata::{Command, Image, Record};
use klamm_protocol::ErrorCode;
use klamm_raft::{Group, Leadership, NodeId, Proposal, ProposeError};
use klamm_records::{BatchBuilder, BatchHeader, NewRecord};
use klamm_storage::{Batch, Clock};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tracing::{info, warn};

use crate::cluster::{Changed, Cluster};
pub use machine::MetadataMachine;
pub use snapshots::SnapshotLimits;

/// Changes that may wait; the next caller waits for room.
const QUEUE: usize = 1024;
/// Changes decided before a proposal goes out.
const MAX_CHANGES: usize = 512;
/// Bytes of records per batch, well below what a batch may hold.
const MAX_BATCH_BYTES: usize = 512 * 1024;
/// A change that finds no leader, or always comes too late, is given up after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a leader is looked for again, unless leadership changes sooner.
const PAUSE: Duration = Duration::from_millis(50);
/// Whether a snapshot is due is looked at so often, and after each change.
const LOOK: Duration = Duration::from_secs(1);

/// Decides a change: what to replicate. Runs on the controller's task: pure and quick. Called again
/// when the state changed before it was replicated; the last time counts.
type Decide = Box<dyn FnMut(&Image) -> Vec<Command> + Send>;

struct Change {
    decide: Decide,
    /// Another node decided, and only this one may replicate.
    forwarded: bool,
    done: oneshot::Sender<Result<i64, ErrorCode>>,
}

/// Handle to the controller.
#[derive(Clone)]
pub struct Controller {
    changes: mpsc::Sender<Change>,
    machine: Arc<MetadataMachine>,
    group: Group,
}

impl Controller {
    /// Starts the controller's task over the opened metadata group.
    pub fn start(
        group: Group,
        machine: Arc<MetadataMachine>,
        clock: Arc<dyn Clock>,
        cluster: Arc<Cluster>,
        limits: SnapshotLimits,
    ) -> Controller {
        let (changes, queue) = mpsc::channel(QUEUE);
        let newest = machine.watch_snapshots();
        let trim = tokio::spawn(snapshots::trim(group.clone(), cluster.clone(), newest));
        let task = Task {
            queue,
            applied: machine.watch(),
            leadership: machine.watch_leadership(),
            machine: machine.clone(),
            group: group.clone(),
            clock,
            cluster,
            limits,
            no_snapshot_before: Instant::now(),
            trim: trim.abort_handle(),
        };
        tokio::spawn(task.run());
        Controller {
            changes,
            machine,
            group,
        }
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.machine.image()
    }

    /// Changes whenever the image has.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.machine.watch()
    }

    /// The metadata group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Leadership of the metadata group.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.machine.watch_leadership()
    }

    /// How many snapshots of the metadata this node has met, and the offset at which the newest begins.
    pub fn snapshots(&self) -> (u64, Option<i64>) {
        let newest = *self.machine.watch_snapshots().borrow();
        (self.machine.snapshots(), newest)
    }

    /// Lets `decide` check a change against the newest state, has its commands replicated and answers
    /// what it answered, once this node has applied them. `decide` may be called several times: what it
    /// said last counts. No commands: nothing is replicated.
    ///
    /// # Errors
    /// `NOT_CONTROLLER` when the change could not be replicated; it may or may not happen yet.
    pub async fn change<T: Send + 'static>(
        &self,
        mut decide: impl FnMut(&Image) -> (Vec<Command>, T) + Send + 'static,
    ) -> Result<T, ErrorCode> {
        let answer = Arc::new(Mutex::new(None));
        let last = answer.clone();
        let decide: Decide = Box::new(move |image| {
            let (commands, answer) = decide(image);
            *last.lock() = Some(answer);
            commands
        });
        self.submit(decide, false).await?;
        let answer = answer.lock().take();
        answer.ok_or(ErrorCode::NOT_CONTROLLER)
    }

    /// Replicates what another node decided on the image of offset `after`, if that is still the newest.
    pub async fn accept(&self, after: i64, commands: Vec<Command>) -> Changed {
        if !self.group.leadership().serving {
            return Changed::NotLeader;
        }
        let in_time = Arc::new(AtomicBool::new(false));
        let decided = in_time.clone();
        let decide: Decide = Box::new(move |image| {
            let is_newest = image.last_offset() == after;
            decided.store(is_newest, Ordering::Release);
            if is_newest {
                commands.clone()
            } else {
                Vec::new()
            }
        });
        match self.submit(decide, true).await {
            Ok(end) if in_time.load(Ordering::Acquire) => Changed::Done { end },
            Ok(end) => Changed::Stale { end },
            Err(_) if in_time.load(Ordering::Acquire) => Changed::Unknown,
            Err(_) => Changed::NotLeader,
        }
    }

    /// Answers the offset up to which the change is applied here.
    async fn submit(&self, decide: Decide, forwarded: bool) -> Result<i64, ErrorCode> {
        let (done, finished) = oneshot::channel();
        let change = Change {
            decide,
            forwarded,
            done,
        };
        let sent = self.changes.send(change).await;
        sent.map_err(|_| ErrorCode::NOT_CONTROLLER)?;
        finished.await.map_err(|_| ErrorCode::NOT_CONTROLLER)?
    }
}

/// What became of an attempt to replicate.
enum Attempt {
    /// Everything before this offset is applied here, the changes too.
    Done(i64),
    /// Nothing was replicated: decide again, once everything before the offset is applied.
    Again(Option<i64>),
    /// It may or may not have been replicated.
    Unknown,
}

struct Task {
    queue: mpsc::Receiver<Change>,
    machine: Arc<MetadataMachine>,
    applied: watch::Receiver<i64>,
    leadership: watch::Receiver<Leadership>,
    group: Group,
    clock: Arc<dyn Clock>,
    cluster: Arc<Cluster>,
    limits: SnapshotLimits,
    /// One did not come about just now.
    no_snapshot_before: Instant,
    trim: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.trim.abort();
    }
}

impl Task {
    async fn run(mut self) {
        let mut changes = Vec::with_capacity(MAX_CHANGES);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                came = self.queue.recv_many(&mut changes, MAX_CHANGES) => {
                    if came == 0 {
                        return;
                    }
                    let result = self.settle(&mut changes).await;
                    for change in changes.drain(..) {
                        // The caller may have gone away; its change stands.
                        let _ = change.done.send(result);
                    }
                }
                _ = look.tick() => {}
            }
            let (bytes, elapsed) = self.machine.since_snapshot();
            if self.limits.are_reached(bytes, elapsed) {
                self.snapshot().await;
            }
        }
    }

    /// Writes a snapshot, if this node leads. Nothing else is written meanwhile: this task writes all there is.
    async fn snapshot(&mut self) {
        let now = self.group.leadership();
        let is_time = Instant::now() >= self.no_snapshot_before;
        if !now.serving || !is_time || !self.group.hears_quorum() {
            return;
        }
        self.no_snapshot_before = Instant::now() + LOOK;
        let image = self.machine.image();
        // What may have been written before a leadership was lost is not applied yet.
        if image.last_offset() + 1 != self.group.log().end_offset() {
            return;
        }
        // So that what lies before the snapshot is whole segments.
        if let Err(error) = snapshots::roll(self.group.log()).await {
            warn!(%error, "no snapshot of the metadata: its log takes nothing");
            return;
        }
        let start = image.last_offset() + 1;
        let encode = move || image.snapshot().iter().map(Record::encode).collect();
        let values: Vec<Vec<u8>> = match klamm_raft::blocking::spawn_blocking(encode).await {
            Ok(values) => values,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let bytes: usize = values.iter().map(Vec::len).sum();
        if let Attempt::Done(_) = self.replicate(now.term, &values).await {
            self.no_snapshot_before = Instant::now();
            info!(start, bytes, "wrote a snapshot of the metadata");
        }
    }

    /// Decides the changes and has them replicated, as often as it takes.
    async fn settle(&mut self, changes: &mut Vec<Change>) -> Result<i64, ErrorCode> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.group.leadership();
            let attempt = match now.leader {
                // Without a majority a proposal would wait for one, and all changes behind it.
                _ if now.serving && self.group.hears_quorum() => {
                    let (_, commands) = self.decide(changes);
                    let values: Vec<_> = commands.iter().map(Command::encode).collect();
                    self.replicate(now.term, &values).await
                }
                Some(leader) if self.cluster.hears(leader) && leader != self.group.node() => {
                    refuse_forwarded(changes);
                    let (after, commands) = self.decide(changes);
                    self.forward(leader, after, commands).await
                }
                _ => {
                    refuse_forwarded(changes);
                    Attempt::Again(None)
                }
            };
            match attempt {
                Attempt::Done(end) => return Ok(end),
                Attempt::Unknown => return Err(ErrorCode::NOT_CONTROLLER),
                Attempt::Again(_) if changes.is_empty() || Instant::now() >= deadline => {
                    return Err(ErrorCode::NOT_CONTROLLER);
                }
                Attempt::Again(Some(end)) => {
                    if !self.wait_applied(end, deadline).await {
                        return Err(ErrorCode::NOT_CONTROLLER);
                    }
                }
                Attempt::Again(None) => {
                    let _ = timeout_at(Instant::now() + PAUSE, self.leadership.changed()).await;
                }
            }
        }
    }

    /// What the changes come to on the newest image, and the offset of that image.
    fn decide(&self, changes: &mut [Change]) -> (i64, Vec<Command>) {
        let mut image = (*self.machine.image()).clone();
        let after = image.last_offset();
        let mut commands = Vec::new();
        for change in changes {
            for command in (change.decide)(&image) {
                (image, _) = image.apply(image.last_offset() + 1, &command);
                commands.push(command);
            }
        }
        (after, commands)
    }

    /// Has the leader replicate commands. It is asked without any, too: it may know more than this node,
    /// and then what was found wrong here may be right.
    async fn forward(&mut self, leader: NodeId, after: i64, commands: Vec<Command>) -> Attempt {
        match self.cluster.forward(leader, after, commands).await {
            Changed::Done { end } => {
                let deadline = Instant::now() + PATIENCE;
                match self.wait_applied(end, deadline).await {
                    true => Attempt::Done(end),
                    false => Attempt::Unknown,
                }
            }
            Changed::Stale { end } => Attempt::Again(Some(end)),
            Changed::NotLeader => Attempt::Again(None),
            Changed::Unknown => Attempt::Unknown,
        }
    }

    async fn wait_applied(&mut self, end: i64, deadline: Instant) -> bool {
        let applied = self.applied.wait_for(|applied| *applied >= end);
        timeout_at(deadline, applied).await.is_ok_and(|r| r.is_ok())
    }

    /// Proposes records in as few batches as fit and waits until this node has applied them.
    async fn replicate(&mut self, term: u64, values: &[Vec<u8>]) -> Attempt {
        let mut end = self.group.log().end_offset();
        if values.is_empty() {
            return Attempt::Done(end);
        }
        let mut committed = Vec::new();
        for batch in batches(values, self.clock.now_ms()) {
            let (done, result) = oneshot::channel();
            let expected_offset = end;
            end += i64::from(batch.header.record_count);
            self.group.propose(
                term,
                Proposal::Batch {
                    batch,
                    expected_offset,
                },
                Box::new(move |result| {
                    let _ = done.send(result);
                }),
            );
            committed.push(result);
        }
        for (at, result) in committed.into_iter().enumerate() {
            match result.await {
                Ok(Ok(_)) => {}
                Ok(Err(ProposeError::NotLeader {
                    maybe_appended: false,
                    ..
                })) if at == 0 => return Attempt::Again(None),
                Ok(Err(error)) => {
                    warn!(%error, "failed to replicate a metadata change");
                    return Attempt::Unknown;
                }
                Err(_) => return Attempt::Unknown,
            }
        }
        let applied = self.applied.wait_for(|applied| *applied >= end).await;
        match applied {
            Ok(_) => Attempt::Done(end),
            Err(_) => Attempt::Unknown,
        }
    }
}

/// What another node decided is its own to bring to whoever leads.
fn refuse_forwarded(changes: &mut Vec<Change>) {
    for change in changes.extract_if(.., |change| change.forwarded) {
        let _ = change.done.send(Err(ErrorCode::NOT_CONTROLLER));
    }
}

/// Record batches with these values, one record each.
fn batches(values: &[Vec<u8>], now_ms: i64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new();
    let mut size = 0;
    for value in values {
        if size > 0 && size + value.len() > MAX_BATCH_BYTES {
            batches.push(finish(std::mem::take(&mut builder)));
            size = 0;
        }
        size += value.len();
        let record = NewRecord {
            timestamp: now_ms,
            key: None,
            value: Some(value),
            headers: &[],
        };
        builder
            .push(&record)
            .expect("a metadata record fits a batch");
    }
    batches.push(finish(builder));
    batches
}

fn finish(builder: BatchBuilder) -> Batch {
    let bytes = builder.build().expect("metadata records fit a batch");
    let header = BatchHeader::parse(&bytes).expect("a built batch has a header");
    Batch { header, bytes }
}
