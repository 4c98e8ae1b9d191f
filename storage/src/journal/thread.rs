//! The journal thread: rounds of "take all, write, sync, complete, write to segments".
//!
//! Order inside a round, and why:
//! 1. large groups' batches go to their segments, synced: the journal then refers to them;
//! 2. one block goes to the journal, synced: all operations of the round are durable;
//! 3. completions run, in the order of the operations;
//! 4. the other batches go to their segments without a sync (the journal has them), cuts and
//!    removals are done. After the sync, never before: an overwrite of truncated entries must not
//!    reach the disk before the truncation did. Readers are served from memory until then.
//!
//! Any failure poisons the store: nothing is retried (R1).

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender};
use klamm_records::{GroupId, STAMP_LEN};

use super::files::JournalFiles;
use super::format::{BatchFrame, BlockBuilder, Frame, FrameBody};
use super::{Done, JournalPlace, Message, Op};
use crate::checkpoint::Request;
use crate::error::StorageError;
use crate::layout::DELETED;
use crate::log::{FileAction, Log};
use crate::store::Shared;

/// A round ends when it holds so many bytes of batches or so many operations.
const MAX_ROUND_BYTES: u64 = 16 * 1024 * 1024;
const MAX_ROUND_OPS: usize = 4096;
/// Batches of one vectored write to a segment: two slices each.
const MAX_RUN: usize = 500;
/// A bulk-written byte counts an eighth of a journal byte towards the next checkpoint: it need not
/// be written again, but a start checks it.
const BULK_SHARE: u64 = 8;

/// What the thread needs.
pub(crate) struct RoundsContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: JournalFiles,
    pub(crate) queue: Receiver<Message>,
    pub(crate) checkpoints: Sender<Request>,
    /// Whether a replay left frames that no checkpoint covers.
    pub(crate) dirty: bool,
}

/// The journal thread's state.
pub(crate) struct Rounds {
    context: RoundsContext,
    /// Bytes since the last rotation, for the next checkpoint.
    since_rotation: u64,
    requested: bool,
}

impl Rounds {
    pub(crate) fn new(context: RoundsContext) -> Rounds {
        if context.dirty {
            // The checkpoint thread is idle at start: there is room for this.
            let _ = context.checkpoints.try_send(Request::Within);
        }
        Rounds { since_rotation: 0, requested: false, context }
    }

    /// Serves the queue until told to stop.
    pub(crate) fn run(mut self) {
        while let Ok(first) = self.context.queue.recv() {
            let mut ops = Vec::new();
            let control = self.collect(first, &mut ops);
            self.round(ops);
            match control {
                Some(Message::Rotate(answer)) => {
                    let _ = answer.send(self.rotate());
                }
                Some(Message::Barrier(answer)) => {
                    let _ = answer.send(self.context.shared.failure.check());
                }
                Some(Message::Stop) => break,
                Some(Message::Op(_)) | None => {}
            }
        }
    }

    /// Takes what is queued, up to a control message.
    fn collect(&self, first: Message, ops: &mut Vec<Op>) -> Option<Message> {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Op(op) => {
                    bytes += op.bytes;
                    ops.push(op);
                }
                control => return Some(control),
            }
            if bytes >= MAX_ROUND_BYTES || ops.len() >= MAX_ROUND_OPS {
                return None;
            }
            next = self.context.queue.try_recv().ok();
        }
        None
    }

    fn rotate(&mut self) -> Result<JournalPlace, StorageError> {
        let shared = &self.context.shared;
        shared.failure.check()?;
        let place = self
            .context
            .files
            .rotate()
            .map_err(|e| shared.failure.poison(&format!("new journal file: {e}")))?;
        self.since_rotation = 0;
        self.requested = false;
        Ok(place)
    }

    fn round(&mut self, mut ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        let queued: u64 = ops.iter().map(|op| op.bytes).sum();
        let shared = Arc::clone(&self.context.shared);
        let bulk = bulk_groups(&ops, shared.options.bypass_bytes as u64);
        let result = match shared.failure.check() {
            Ok(()) => self
                .make_durable(&ops, &bulk)
                .map_err(|e| shared.failure.poison(&format!("journal: {e}"))),
            Err(error) => Err(error),
        };
        for op in &mut ops {
            std::mem::replace(&mut op.done, Done::nobody()).call(result.clone());
        }
        if result.is_ok()
            && let Err(e) = write_segments(&shared, &ops, &bulk)
        {
            shared.failure.poison(&format!("segment: {e}"));
        }
        shared.gate.release(queued);
        self.request_checkpoint();
    }

    fn make_durable(&mut self, ops: &[Op], bulk: &HashMap<GroupId, u64>) -> io::Result<()> {
        let shared = &self.context.shared;
        write_bulk(shared, ops, bulk)?;
        let mut block = BlockBuilder::new();
        for op in ops {
            for frame in &op.frames {
                block.push(frame, bulk.contains_key(&frame.group));
            }
        }
        if block.frames() == 0 {
            // Only waiters for what is durable already.
            return Ok(());
        }
        let len = self.context.files.write(&mut block)?;
        if shared.options.sync {
            let before = shared.clock.monotonic();
            self.context.files.sync()?;
            let after = shared.clock.monotonic();
            shared.counters.journal_synced(after.saturating_sub(before));
        }
        shared.counters.round(len, u64::from(block.frames()));
        let bulk_bytes: u64 = bulk.values().sum();
        let batch_bytes: u64 = ops.iter().map(|op| op.bytes).sum();
        shared.space.wrote(len + batch_bytes);
        if self.since_rotation == 0 {
            let _ = self.context.checkpoints.try_send(Request::Within);
        }
        self.since_rotation += len + bulk_bytes / BULK_SHARE;
        Ok(())
    }

    fn request_checkpoint(&mut self) {
        let due = self.since_rotation >= self.context.shared.options.checkpoint_bytes;
        if due && !self.requested {
            // A full queue holds a request already; the next round asks again.
            self.requested = self.context.checkpoints.try_send(Request::Due).is_ok();
        }
    }
}

/// Groups with so much in this round that it goes to their segments directly, with the bytes.
fn bulk_groups(ops: &[Op], bypass_bytes: u64) -> HashMap<GroupId, u64> {
    let mut bytes = HashMap::new();
    if ops.iter().map(|op| op.bytes).sum::<u64>() < bypass_bytes {
        return bytes;
    }
    for op in ops.iter().filter(|op| op.bytes > 0 && op.log.may_bypass()) {
        *bytes.entry(op.log.group).or_insert(0) += op.bytes;
    }
    bytes.retain(|_, bytes| *bytes >= bypass_bytes);
    bytes
}

/// Contiguous batches of one segment, to be written at once.
struct Run {
    log: Arc<Log>,
    segment_base: i64,
    start: u64,
    end: u64,
    stamps: Vec<[u8; STAMP_LEN]>,
    bodies: Vec<Bytes>,
}

impl Run {
    /// Whether `batch` goes right behind.
    fn takes(&self, batch: &BatchFrame) -> bool {
        self.segment_base == batch.segment_base
            && self.end == batch.position
            && self.bodies.len() < MAX_RUN
    }

    fn push(&mut self, batch: &BatchFrame, bytes: &Bytes) {
        let header = &batch.header;
        self.stamps.push(header.stamp(header.base_offset, header.partition_leader_epoch));
        self.bodies.push(bytes.slice(STAMP_LEN.min(bytes.len())..));
        self.end += bytes.len() as u64;
    }

    fn write(&self, shared: &Shared) -> io::Result<()> {
        let pairs = self.stamps.iter().zip(&self.bodies);
        let slices: Vec<IoSlice<'_>> = pairs
            .flat_map(|(stamp, body)| [IoSlice::new(stamp), IoSlice::new(body)])
            .collect();
        let file = self.log.file_for_write(shared, self.segment_base, self.start)?;
        file.write_at(&slices, self.start)?;
        self.log.unsynced.lock().segments.insert(self.segment_base);
        Ok(())
    }
}

/// Collects batches into runs, one per group at a time.
#[derive(Default)]
struct Runs(HashMap<GroupId, Run>);

impl Runs {
    fn push(&mut self, shared: &Shared, log: &Arc<Log>, frame: &Frame) -> io::Result<()> {
        let FrameBody::Batch(batch) = &frame.body else { return Ok(()) };
        let Some(bytes) = &batch.bytes else { return Ok(()) };
        if self.0.get(&frame.group).is_some_and(|run| !run.takes(batch)) {
            self.flush(shared, frame.group)?;
        }
        let run = self.0.entry(frame.group).or_insert_with(|| Run {
            log: Arc::clone(log),
            segment_base: batch.segment_base,
            start: batch.position,
            end: batch.position,
            stamps: Vec::new(),
            bodies: Vec::new(),
        });
        run.push(batch, bytes);
        Ok(())
    }

    fn flush(&mut self, shared: &Shared, group: GroupId) -> io::Result<()> {
        self.0.remove(&group).map_or(Ok(()), |run| run.write(shared))
    }

    fn flush_all(self, shared: &Shared) -> io::Result<()> {
        self.0.into_values().try_for_each(|run| run.write(shared))
    }
}

/// Writes the batches of bulk groups and makes them durable.
fn write_bulk(shared: &Shared, ops: &[Op], bulk: &HashMap<GroupId, u64>) -> io::Result<()> {
    if bulk.is_empty() {
        return Ok(());
    }
    let mut runs = Runs::default();
    let mut logs: HashMap<GroupId, Arc<Log>> = HashMap::new();
    for op in ops.iter().filter(|op| bulk.contains_key(&op.log.group)) {
        for frame in &op.frames {
            runs.push(shared, &op.log, frame)?;
        }
        logs.entry(op.log.group).or_insert_with(|| Arc::clone(&op.log));
    }
    runs.flush_all(shared)?;
    for log in logs.values() {
        let synced = log.sync_files(shared)?;
        (0..synced).for_each(|_| shared.counters.segment_synced());
    }
    Ok(())
}

/// Brings the segment files to what the journal says, without syncing them.
fn write_segments(shared: &Shared, ops: &[Op], bulk: &HashMap<GroupId, u64>) -> io::Result<()> {
    let mut runs = Runs::default();
    let mut written: HashMap<GroupId, (&Arc<Log>, u64)> = HashMap::new();
    for op in ops {
        let group = op.log.group;
        if !bulk.contains_key(&group) {
            op.frames.iter().try_for_each(|frame| runs.push(shared, &op.log, frame))?;
        }
        if !op.actions.is_empty() {
            runs.flush(shared, group)?;
            op.actions.iter().try_for_each(|action| act(shared, &op.log, *action))?;
        }
        if let Some(frame) = op.frames.last() {
            written.insert(group, (&op.log, frame.op));
        }
    }
    runs.flush_all(shared)?;
    for (log, op) in written.into_values() {
        log.state.lock().tail.mark_written(op);
    }
    Ok(())
}

/// Does what an operation asks for on the group's files. Also used by replay.
pub(crate) fn act(shared: &Shared, log: &Log, action: FileAction) -> io::Result<()> {
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match action {
        FileAction::Cut { segment_base, len } => {
            missing_is_fine(log.file(shared, segment_base).and_then(|file| {
                if file.len()? > len {
                    file.set_len(len)?;
                    log.unsynced.lock().segments.insert(segment_base);
                }
                Ok(())
            }))
        }
        FileAction::Unlink { segment_base } => {
            shared.files.remove(log.key(segment_base));
            let mut unsynced = log.unsynced.lock();
            unsynced.segments.remove(&segment_base);
            unsynced.dir = true;
            drop(unsynced);
            missing_is_fine(shared.disk.remove_file(&log.segment_path(segment_base)))
        }
        FileAction::RemoveGroup => {
            shared.files.remove_group(log.group);
            *log.unsynced.lock() = crate::log::Unsynced::default();
            let grave = grave_of(log);
            if shared.disk.exists(&grave)? {
                shared.disk.remove_dir_all(&grave)?;
            }
            missing_is_fine(shared.disk.rename(&log.path, &grave))?;
            shared.root_unsynced.store(true, std::sync::atomic::Ordering::SeqCst);
            shared.graves.lock().push(grave);
            Ok(())
        }
    }
}

fn grave_of(log: &Log) -> PathBuf {
    let mut name = log.path.clone().into_os_string();
    name.push(DELETED);
    PathBuf::from(name)
}
