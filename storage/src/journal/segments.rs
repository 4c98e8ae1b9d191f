//! What the journal does to segment files: batches, cuts, removals.
//!
//! Inline batches are written by a thread of their own, after their block is durable and in the
//! order of the blocks, so that a write that waits in the file system (for its own journal, for
//! pages under write-back) does not hold up the next round. Until then readers are served from
//! memory. Never before the block: an overwrite of truncated entries must not reach the disk
//! before the truncation did.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::Sender;
use klamm_records::{GroupId, STAMP_LEN};

use super::Op;
use super::format::{BatchFrame, Frame, FrameBody};
use crate::error::StorageError;
use crate::layout::DELETED;
use crate::log::{FileAction, Log};
use crate::mailbox::Mailbox;
use crate::segment::SegmentFile;
use crate::store::Shared;

/// Batches of one vectored write to a segment: two slices each.
const MAX_RUN: usize = 500;
/// Small rounds are written at the latest when they have so much together.
const ENOUGH_BYTES: u64 = 256 * 1024;
const ENOUGH_OPS: usize = 4096;
/// Of a segment, once all of it is written, the write to the disk begins.
const PIECE: u64 = 1 << 20;
/// Rounds that may wait for the segment writer.
pub(crate) const WAITING_ROUNDS: usize = 16;

/// What the segment writer is told.
pub(super) enum Write {
    /// Operations of some rounds, durable, and the groups whose batches are in their segments already.
    Round(Vec<Op>, HashMap<GroupId, u64>),
    /// Answers when everything before it is written.
    Flush(Sender<Result<(), StorageError>>),
}

/// The segment writer.
pub(crate) struct SegmentWriter {
    shared: Arc<Shared>,
    queue: Mailbox<Write>,
}

impl SegmentWriter {
    pub(super) fn new(shared: Arc<Shared>, queue: Mailbox<Write>) -> SegmentWriter {
        SegmentWriter { shared, queue }
    }

    /// Serves the queue until the journal thread is gone.
    pub(super) fn run(self) {
        while let Ok(write) = self.queue.recv(None) {
            self.take(write);
        }
    }

    /// Does what is to be done now; false if nothing is.
    pub(crate) fn step(&mut self) -> bool {
        let write = self.queue.try_recv();
        write.map(|write| self.take(write)).is_some()
    }

    fn take(&self, next: Write) {
        let shared = &*self.shared;
        match next {
            Write::Round(ops, bulk) => write(shared, &ops, &bulk),
            Write::Flush(answer) => {
                let _ = answer.send(shared.failure.check());
            }
        }
    }
}

/// Rounds that the segment writer does not have yet: small ones wait for each other, so that many small batches of a
/// log are one write, and the thread is not woken for each. Their batches are read from memory meanwhile.
#[derive(Default)]
pub(super) struct SmallRounds {
    ops: Vec<Op>,
    bytes: u64,
    /// When the first of them has waited long enough.
    until: Option<Instant>,
}

impl SmallRounds {
    pub(super) fn add(&mut self, ops: Vec<Op>, delay: Duration) {
        self.until.get_or_insert_with(|| Instant::now() + delay);
        self.bytes += ops.iter().map(|op| op.bytes).sum::<u64>();
        self.ops.extend(ops);
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether they have waited long enough, are worth a write, or somebody waits for what they do to files.
    pub(super) fn are_due(&self) -> bool {
        self.bytes >= ENOUGH_BYTES
            || self.ops.len() >= ENOUGH_OPS
            || self.until.is_some_and(|until| until <= Instant::now())
            || self.ops.iter().any(|op| !op.actions.is_empty())
    }

    /// All of them, as one round.
    pub(super) fn take(&mut self) -> Option<Write> {
        let SmallRounds { ops, .. } = std::mem::take(self);
        (!ops.is_empty()).then(|| Write::Round(ops, HashMap::new()))
    }
}

fn write(shared: &Shared, ops: &[Op], bulk: &HashMap<GroupId, u64>) {
    if shared.failure.check().is_ok()
        && let Err(e) = write_segments(shared, ops, bulk)
    {
        shared.failure.poison(&format!("segment: {e}"));
    }
    shared.gate.release(ops.iter().map(|op| op.bytes).sum());
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
        self.stamps
            .push(header.stamp(header.base_offset, header.partition_leader_epoch));
        self.bodies.push(bytes.slice(STAMP_LEN.min(bytes.len())..));
        self.end += bytes.len() as u64;
    }

    /// `is_synced_next`: by the caller, who otherwise leaves that to a checkpoint.
    fn write(&self, shared: &Shared, is_synced_next: bool) -> io::Result<()> {
        let pairs = self.stamps.iter().zip(&self.bodies);
        let slices: Vec<IoSlice<'_>> = pairs
            .flat_map(|(stamp, body)| [IoSlice::new(stamp), IoSlice::new(body)])
            .collect();
        let file = self
            .log
            .file_for_write(shared, self.segment_base, self.start)?;
        file.write_at(&slices, self.start)?;
        self.log.unsynced.lock().segments.insert(self.segment_base);
        if !shared.options.sync {
            return Ok(());
        }
        let written = if is_synced_next {
            self.start..self.end
        } else {
            whole_pieces(self.start, self.end)
        };
        file.begin_writeback(written.start, written.end.saturating_sub(written.start))
    }
}

/// The pieces of a file that a write from `start` to `end` completes: a checkpoint that found all of a file
/// unwritten would keep the disk busy for long, in front of the journal's small writes.
fn whole_pieces(start: u64, end: u64) -> Range<u64> {
    start / PIECE * PIECE..end / PIECE * PIECE
}

/// Collects batches into runs, one per group at a time.
#[derive(Default)]
struct Runs {
    by_group: HashMap<GroupId, Run>,
    /// The files are synced at once, and not by a checkpoint.
    are_synced_next: bool,
}

impl Runs {
    fn push(&mut self, shared: &Shared, log: &Arc<Log>, frame: &Frame) -> io::Result<()> {
        let FrameBody::Batch(batch) = &frame.body else {
            return Ok(());
        };
        let Some(bytes) = &batch.bytes else {
            return Ok(());
        };
        if self
            .by_group
            .get(&frame.group)
            .is_some_and(|run| !run.takes(batch))
        {
            self.flush(shared, frame.group)?;
        }
        let run = self.by_group.entry(frame.group).or_insert_with(|| Run {
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
        let run = self.by_group.remove(&group);
        run.map_or(Ok(()), |run| run.write(shared, self.are_synced_next))
    }

    fn flush_all(self, shared: &Shared) -> io::Result<()> {
        let mut runs = self.by_group.into_values();
        runs.try_for_each(|run| run.write(shared, self.are_synced_next))
    }
}

/// Writes the batches of bulk groups and makes them durable.
pub(super) fn write_bulk(
    shared: &Shared,
    ops: &[Op],
    bulk: &HashMap<GroupId, u64>,
) -> io::Result<()> {
    let mut runs = Runs {
        are_synced_next: true,
        ..Runs::default()
    };
    let mut touched: HashMap<GroupId, (&Arc<Log>, BTreeSet<i64>)> = HashMap::new();
    for op in ops.iter().filter(|op| bulk.contains_key(&op.log.group)) {
        let (_, segments) = touched
            .entry(op.log.group)
            .or_insert_with(|| (&op.log, BTreeSet::new()));
        for frame in &op.frames {
            if let FrameBody::Batch(batch) = &frame.body {
                segments.insert(batch.segment_base);
            }
            runs.push(shared, &op.log, frame)?;
        }
    }
    runs.flush_all(shared)?;
    for (log, segments) in touched.values() {
        for segment_base in segments {
            log.sync_segment(shared, *segment_base)?;
            shared.counters.segment_synced();
        }
        log.sync_dir(shared)?;
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
            op.frames
                .iter()
                .try_for_each(|frame| runs.push(shared, &op.log, frame))?;
        }
        if !op.actions.is_empty() {
            runs.flush(shared, group)?;
            op.actions
                .iter()
                .try_for_each(|action| act(shared, &op.log, *action))?;
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
            let file = SegmentFile::appended(segment_base);
            missing_is_fine(log.file(shared, file).and_then(|file| {
                if file.len()? > len {
                    file.set_len(len)?;
                }
                // Even if it was short enough: a cut by a former process may not be durable.
                log.unsynced.lock().segments.insert(segment_base);
                Ok(())
            }))
        }
        FileAction::Unlink(file) => {
            if !file.is_compacted() {
                log.unsynced.lock().segments.remove(&file.base_offset);
            }
            missing_is_fine(shared.disk.remove_file(&log.segment_path(file)))?;
            log.unsynced.lock().dir = true;
            // Not before: a reader or the checkpoint might open it once more, and a segment that
            // is created under the same name would be written to the file that is gone.
            shared.files.remove(log.key(file));
            Ok(())
        }
        FileAction::RemoveGroup => {
            *log.unsynced.lock() = crate::log::Unsynced::default();
            let grave = grave_of(log);
            if shared.disk.exists(&grave)? {
                shared.disk.remove_dir_all(&grave)?;
            }
            missing_is_fine(shared.disk.rename(&log.path, &grave))?;
            shared.files.remove_group(log.group);
            shared.root_unsynced.store(true, Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_written_back_once_and_when_it_is_whole() {
        assert!(whole_pieces(0, PIECE - 1).is_empty());
        assert_eq!(whole_pieces(PIECE - 1, PIECE), 0..PIECE);
        assert!(whole_pieces(PIECE, PIECE + 9).is_empty());
        assert_eq!(whole_pieces(PIECE + 9, 3 * PIECE + 1), PIECE..3 * PIECE);
    }
}
