//! The journal thread: rounds of "take all, write, sync, complete".
//!
//! Order inside a round, and why:
//! 1. large groups' batches go to their segments, synced: the journal then refers to them;
//! 2. one block goes to the journal, synced: all operations of the round are durable;
//! 3. completions run, in the order of the operations;
//! 4. the round goes to the segment writer (`segments.rs`): the other batches, cuts, removals. Small rounds wait here
//!    for each other before.
//!
//! A round with large groups begins by waiting for the segment writer, so that only one of the two
//! threads works on a group's files.
//!
//! Any failure poisons the store: nothing is retried (R1).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};
use klamm_records::GroupId;
use klamm_records::plant::{self, Bug};
use parking_lot::Mutex;

use super::files::JournalFiles;
use super::format::{Frame, FrameBody};
use super::segments::{SegmentWriter, SmallRounds, WAITING_ROUNDS, Write, write_bulk};
use super::{Done, JournalPlace, Message, Op};
use crate::checkpoint::Request;
use crate::error::{OpenError, StorageError};
use crate::health::SLOW_ROUND;
use crate::mailbox::{Mailbox, NoMail, Post, mailbox};
use crate::store::Shared;
use crate::threads::PanicGuard;

/// A round ends when it holds so many bytes of batches or so many operations.
const MAX_ROUND_BYTES: u64 = 16 * 1024 * 1024;
const MAX_ROUND_OPS: usize = 4096;
/// A bulk-written byte counts an eighth of a journal byte towards the next checkpoint: it need not
/// be written again, but a start checks it.
const BULK_SHARE: u64 = 8;

/// What the thread needs.
pub(crate) struct RoundsContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: JournalFiles,
    pub(crate) queue: Mailbox<Message>,
    pub(crate) checkpoints: Sender<Request>,
    /// The checkpoint that is to cover what a replay found.
    pub(crate) wanted: Option<Request>,
}

/// The journal thread's state.
pub(crate) struct Rounds {
    context: RoundsContext,
    /// Bytes since the last rotation, for the next checkpoint.
    since_rotation: u64,
    requested: bool,
    /// What the segment writer will be given.
    small: SmallRounds,
    writes: Option<Post<Write>>,
    writer: Writer,
}

/// Who writes segments.
enum Writer {
    Thread(Option<JoinHandle<()>>),
    /// Whoever drives the store, see `hands.rs`.
    Driven(Arc<Mutex<SegmentWriter>>),
}

impl Rounds {
    /// Starts the segment writer.
    pub(crate) fn new(context: RoundsContext) -> Result<Rounds, OpenError> {
        let (writes, queue) = mailbox(Some(WAITING_ROUNDS));
        let writer = SegmentWriter::new(Arc::clone(&context.shared), queue);
        let guard = PanicGuard::new(&context.shared);
        let writer = std::thread::Builder::new()
            .name("klamm-segments".to_owned())
            .spawn(move || {
                guard.enter();
                writer.run();
            })
            .map_err(|e| OpenError::failed("starting a thread", e))?;
        Ok(Rounds::with(context, writes, Writer::Thread(Some(writer))))
    }

    /// With a segment writer that somebody has to drive, as these rounds.
    pub(crate) fn driven(context: RoundsContext) -> (Rounds, Arc<Mutex<SegmentWriter>>) {
        // Nobody could make room in a queue that is full.
        let (writes, queue) = mailbox(None);
        let writer = SegmentWriter::new(Arc::clone(&context.shared), queue);
        let writer = Arc::new(Mutex::new(writer));
        let rounds = Rounds::with(context, writes, Writer::Driven(Arc::clone(&writer)));
        (rounds, writer)
    }

    fn with(mut context: RoundsContext, writes: Post<Write>, writer: Writer) -> Rounds {
        if let Some(wanted) = context.wanted.take() {
            // The checkpoint thread is idle at start: there is room for this.
            let _ = context.checkpoints.try_send(wanted);
        }
        Rounds {
            context,
            since_rotation: 0,
            requested: false,
            small: SmallRounds::default(),
            writes: Some(writes),
            writer,
        }
    }

    /// Serves the queue until told to stop.
    pub(crate) fn run(mut self) {
        loop {
            match self.context.queue.recv(self.small.until()) {
                Ok(first) => {
                    if !self.serve(first) {
                        return;
                    }
                }
                Err(NoMail::Late) => self.write_small(),
                Err(NoMail::Closed) => return,
            }
        }
    }

    /// One round of what is queued, or what has waited for the segment writer; false if there is neither.
    pub(crate) fn step(&mut self) -> bool {
        if let Some(first) = self.context.queue.try_recv() {
            return self.serve(first);
        }
        let is_due = self.small.are_due();
        if is_due {
            self.write_small();
        }
        is_due
    }

    /// False when told to stop.
    fn serve(&mut self, first: Message) -> bool {
        let mut ops = Vec::new();
        let control = self.collect(first, &mut ops);
        self.round(ops);
        match control {
            Some(Message::Rotate(answer)) => {
                let _ = answer.send(self.rotate());
            }
            Some(Message::Barrier(answer)) => {
                self.write_small();
                self.write(Write::Flush(answer));
            }
            Some(Message::Stop) => return false,
            Some(Message::Op(_)) | None => {}
        }
        true
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
            next = self.context.queue.try_recv();
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
        shared.rounds.begin(shared.clock.monotonic());
        let result = match shared.failure.check() {
            Ok(()) => self
                .make_durable(&ops, &bulk)
                .map_err(|e| shared.failure.poison(&format!("journal: {e}"))),
            Err(error) => Err(error),
        };
        let took = shared.rounds.end(shared.clock.monotonic());
        if took >= SLOW_ROUND {
            tracing::warn!(?took, bytes = queued, "the disk is slow");
        }
        for op in &mut ops {
            std::mem::replace(&mut op.done, Done::nobody()).call(result.clone());
        }
        if result.is_ok() {
            self.write_round(ops, bulk);
        } else {
            shared.gate.release(queued);
        }
        self.request_checkpoint();
    }

    fn write_round(&mut self, ops: Vec<Op>, bulk: HashMap<GroupId, u64>) {
        if !bulk.is_empty() {
            self.write_small();
            return self.write(Write::Round(ops, bulk));
        }
        self.small
            .add(ops, self.context.shared.options.segment_delay);
        if self.small.are_due() {
            self.write_small();
        }
    }

    fn write_small(&mut self) {
        if let Some(round) = self.small.take() {
            self.write(round);
        }
    }

    /// Hands work to the segment writer; waits while much of it is waiting.
    fn write(&self, write: Write) {
        if let Some(writes) = &self.writes {
            // It ends before this thread only by a panic, which has poisoned the store.
            let _ = writes.send(write);
        }
    }

    /// Waits until everything that was handed to the segment writer is written.
    fn flush_segments(&mut self) -> io::Result<()> {
        self.write_small();
        let (answer, answered) = bounded(1);
        self.write(Write::Flush(answer));
        if let Writer::Driven(writer) = &self.writer {
            let mut writer = writer.lock();
            while writer.step() {}
        }
        answered
            .recv()
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }

    fn make_durable(&mut self, ops: &[Op], bulk: &HashMap<GroupId, u64>) -> io::Result<()> {
        if !bulk.is_empty() {
            self.flush_segments()?;
            write_bulk(&self.context.shared, ops, bulk)?;
        }
        let shared = &self.context.shared;
        let mut block = self.context.files.block();
        for op in ops {
            for frame in &op.frames {
                let is_bulk = bulk.contains_key(&frame.group);
                match &frame.body {
                    FrameBody::Truncate { .. } if plant::is(Bug::TruncationForgotten) => {
                        let body = FrameBody::StartOffset(0);
                        block.push(&Frame { body, ..*frame }, is_bulk);
                    }
                    _ => block.push(frame, is_bulk),
                }
            }
        }
        if block.frames() == 0 {
            // Only waiters for what is durable already.
            return Ok(());
        }
        let len = self.context.files.write(&mut block)?;
        if shared.options.sync && !is_left_unsynced(ops) {
            let before = shared.clock.monotonic();
            let synced = self.context.files.sync();
            match plant::is(Bug::SyncRetried) {
                true => synced.or_else(|_| self.context.files.sync())?,
                false => synced?,
            }
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

/// Planted: a round of nothing but entries, or nothing but votes, that is not synced.
fn is_left_unsynced(ops: &[Op]) -> bool {
    let mut bodies = ops
        .iter()
        .flat_map(|op| &op.frames)
        .map(|frame| &frame.body);
    let is_entry = |body: &FrameBody| {
        matches!(
            body,
            FrameBody::Batch(_) | FrameBody::Blank(_) | FrameBody::Command(..)
        )
    };
    (plant::is(Bug::AckBeforeSync) && bodies.clone().all(is_entry))
        || (plant::is(Bug::VoteUnsynced) && bodies.all(|body| matches!(body, FrameBody::Vote(_))))
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

impl Drop for Rounds {
    fn drop(&mut self) {
        self.write_small();
        self.writes = None;
        if let Writer::Thread(writer) = &mut self.writer
            && let Some(writer) = writer.take()
        {
            let _ = writer.join();
        }
    }
}
