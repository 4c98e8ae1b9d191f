//! Changes of cluster metadata: checked by pure rules, replicated, applied, then answered.
//!
//! One task owns the order of changes. It takes what has queued, lets each change decide
//! against an image that already holds the ones before it, proposes all resulting commands
//! together (one sync for many changes) and answers when they are applied on this node.

mod machine;

use std::sync::Arc;

use klamm_metadata::{Command, Image};
use klamm_protocol::ErrorCode;
use klamm_raft::{Group, Leadership, Proposal};
use klamm_records::{BatchBuilder, BatchHeader, NewRecord};
use klamm_storage::{Batch, Clock};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

pub use machine::MetadataMachine;

/// Changes that may wait; the next caller waits for room.
const QUEUE: usize = 1024;
/// Changes decided before a proposal goes out.
const MAX_CHANGES: usize = 512;
/// Command bytes per batch, well below what a batch may hold.
const MAX_BATCH_BYTES: usize = 512 * 1024;

/// Decides a change: what to replicate. Runs on the controller's task: pure and quick.
type Decide = Box<dyn FnOnce(&Image) -> Vec<Command> + Send>;

struct Change {
    decide: Decide,
    done: oneshot::Sender<Result<(), ErrorCode>>,
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
    pub fn start(group: Group, machine: Arc<MetadataMachine>, clock: Arc<dyn Clock>) -> Controller {
        let (changes, queue) = mpsc::channel(QUEUE);
        let task = Task {
            queue,
            applied: machine.watch(),
            machine: machine.clone(),
            group: group.clone(),
            clock,
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

    /// Lets `decide` check a change against the newest state, replicates its commands and answers
    /// what it answered, once this node has applied them. No commands: nothing is replicated.
    ///
    /// # Errors
    /// `NOT_CONTROLLER` when the change could not be replicated; it may or may not happen yet.
    pub async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Image) -> (Vec<Command>, T) + Send + 'static,
    ) -> Result<T, ErrorCode> {
        let (tell, told) = oneshot::channel();
        let (done, finished) = oneshot::channel();
        let decide: Decide = Box::new(move |image| {
            let (commands, answer) = decide(image);
            // The caller may have gone away; its change stands.
            let _ = tell.send(answer);
            commands
        });
        self.changes
            .send(Change { decide, done })
            .await
            .map_err(|_| ErrorCode::NOT_CONTROLLER)?;
        finished.await.map_err(|_| ErrorCode::NOT_CONTROLLER)??;
        told.await.map_err(|_| ErrorCode::NOT_CONTROLLER)
    }
}

struct Task {
    queue: mpsc::Receiver<Change>,
    machine: Arc<MetadataMachine>,
    applied: watch::Receiver<i64>,
    group: Group,
    clock: Arc<dyn Clock>,
}

impl Task {
    async fn run(mut self) {
        let mut changes = Vec::with_capacity(MAX_CHANGES);
        while self.queue.recv_many(&mut changes, MAX_CHANGES).await > 0 {
            let mut image = (*self.machine.image()).clone();
            let mut commands = Vec::new();
            let mut waiting = Vec::with_capacity(changes.len());
            for change in changes.drain(..) {
                for command in (change.decide)(&image) {
                    (image, _) = image.apply(image.last_offset() + 1, &command);
                    commands.push(command);
                }
                waiting.push(change.done);
            }
            let result = self.replicate(&commands).await;
            for done in waiting {
                // The caller may have gone away.
                let _ = done.send(result);
            }
        }
    }

    /// Proposes commands in as few batches as fit and waits until this node has applied them.
    async fn replicate(&mut self, commands: &[Command]) -> Result<(), ErrorCode> {
        if commands.is_empty() {
            return Ok(());
        }
        let leadership = self.group.leadership();
        if !leadership.serving {
            return Err(ErrorCode::NOT_CONTROLLER);
        }
        let mut end = self.group.log().end_offset();
        let mut committed = Vec::new();
        for batch in batches(commands, self.clock.now_ms()) {
            let (done, result) = oneshot::channel();
            let expected_offset = end;
            end += i64::from(batch.header.record_count);
            self.group.propose(
                leadership.term,
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
        for result in committed {
            match result.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    warn!(%error, "failed to replicate a metadata change");
                    return Err(ErrorCode::NOT_CONTROLLER);
                }
                Err(_) => return Err(ErrorCode::NOT_CONTROLLER),
            }
        }
        self.applied
            .wait_for(|applied| *applied >= end)
            .await
            .map_err(|_| ErrorCode::NOT_CONTROLLER)?;
        Ok(())
    }
}

/// Commands as record batches, one record each.
fn batches(commands: &[Command], now_ms: i64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new();
    let mut size = 0;
    for command in commands {
        let value = command.encode();
        if size > 0 && size + value.len() > MAX_BATCH_BYTES {
            batches.push(finish(std::mem::take(&mut builder)));
            size = 0;
        }
        size += value.len();
        let record = NewRecord {
            timestamp: now_ms,
            key: None,
            value: Some(&value),
            headers: &[],
        };
        builder
            .push(&record)
            .expect("a metadata command fits a batch");
    }
    batches.push(finish(builder));
    batches
}

fn finish(builder: BatchBuilder) -> Batch {
    let bytes = builder.build().expect("metadata commands fit a batch");
    let header = BatchHeader::parse(&bytes).expect("a built batch has a header");
    Batch { header, bytes }
}
