//! The store of one node: its logs, its queues, its health.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use klamm_records::GroupId;
use parking_lot::{Mutex, RwLock};

use crate::buffers::Buffers;
use crate::checkpoint::{Checkpointer, Request};
use crate::clock::{Clock, Steady};
use crate::disk::{Disk, DiskLock, FileCache};
use crate::error::{Completion, OpenError, StorageError};
use crate::hands::{Hands, JournalHands};
use crate::health::{Failure, Gate, RoundTimes, SLOW_ROUND, Space};
use crate::index::{Index, IndexStore, Pair, RocksIndexStore};
use crate::journal::{
    Done, Frame, FrameBody, JournalFiles, Message, Op, QUEUE_LEN, Rounds, RoundsContext, Spares,
};
use crate::layout;
use crate::log::{GroupLog, Log, LogState};
use crate::mailbox::{Mailbox, Post, mailbox};
use crate::options::{LogSettings, StoreOptions};
use crate::producers::ProducerStates;
use crate::recovery::{Recovered, RecoveryReport, recover};
use crate::stats::{Counters, StoreStats};
use crate::threads::{self, Threads};

/// Requests to the checkpoint thread that may wait.
const REQUESTS: usize = 64;

/// What the threads and all handles share.
pub(crate) struct Shared {
    pub(crate) options: StoreOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    /// For producers: a wall clock that jumps must not make them forgotten.
    pub(crate) steady: Steady,
    pub(crate) index: Index,
    /// What is beneath `index`.
    pub(crate) pair: Arc<Pair>,
    pub(crate) files: FileCache,
    pub(crate) groups: RwLock<BTreeMap<GroupId, Arc<Log>>>,
    pub(crate) failure: Failure,
    pub(crate) gate: Gate,
    pub(crate) space: Space,
    pub(crate) rounds: RoundTimes,
    pub(crate) counters: Counters,
    /// Fills under way: files that no log has yet.
    pub(crate) fills: AtomicUsize,
    /// Groups deleted since the last checkpoint, with their last operation.
    pub(crate) deleted: Mutex<Vec<(GroupId, u64)>>,
    /// Ids of deleted groups that the journal may still have frames of: not to be used again before the
    /// second checkpoint after, for a replay would take the new group's frames for the old one's.
    pub(crate) retired: Mutex<BTreeSet<GroupId>>,
    /// Held while ids are released.
    releasing: Mutex<()>,
    /// Bytes that the fills under way still need.
    pub(crate) booked: Mutex<u64>,
    /// Directories of deleted groups, to be removed by the checkpoint thread.
    pub(crate) graves: Mutex<Vec<PathBuf>>,
    /// Directories were created, renamed or removed in the store's directory.
    pub(crate) root_unsynced: AtomicBool,
    /// Held while directories are synced.
    pub(crate) dir_sync: Mutex<()>,
    /// Held until the last handle and both threads are gone.
    _lock: DiskLock,
}

impl Shared {
    /// Makes the entries of the store's directory durable, if any changed.
    pub(crate) fn sync_root(&self) -> std::io::Result<()> {
        let _syncing = self.dir_sync.lock();
        if self.options.sync
            && self.root_unsynced.swap(false, Ordering::SeqCst)
            && let Err(e) = self
                .files
                .making_room(|| self.disk.sync_dir(&self.options.dir))
        {
            self.failure.poison(&format!("store directory: {e}"));
            return Err(e);
        }
        Ok(())
    }
}

/// What all handles of a store share: the queues to its threads.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    journal: Post<Message>,
    checkpoints: Sender<Request>,
    workers: Mutex<Option<Workers>>,
    /// Where there are no threads: tells who has to do their work that there is some.
    wake: Option<Wake>,
}

type Wake = Box<dyn Fn() + Send + Sync>;

/// Who does what is queued.
enum Workers {
    Threads(Threads),
    Driven(Hands),
}

impl Handle {
    /// Queues an operation; waits while the queue is full. After a failure or close its
    /// completion is called at once.
    pub(crate) fn send(&self, op: Op) {
        // A refused message is dropped, and its completion called by that.
        let _ = self.journal.send(Message::Op(op));
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    /// Where there are no threads: does their work, so that who waits for them next waits for nothing.
    pub(crate) fn help(&self) {
        let driven = match &*self.workers.lock() {
            Some(Workers::Driven(hands)) => hands.clone(),
            _ => return,
        };
        driven.finish();
    }

    /// Waits until everything queued is durable and in the segment files.
    #[cfg(test)]
    pub(crate) fn settle(&self) -> Result<(), StorageError> {
        let (answer, answered) = bounded(1);
        let _ = self.journal.send(Message::Barrier(answer));
        answered.recv().expect("the journal thread runs")
    }

    /// Ends the threads, without a checkpoint. What is queued may or may not become durable.
    fn stop(&self) {
        self.shared.failure.close();
        let Some(Workers::Threads(threads)) = self.workers.lock().take() else {
            return;
        };
        threads.stop(self.journal.clone(), self.checkpoints.clone());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Store of one node: the journal, the index, all group logs. Cheap handle.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

impl Store {
    /// Opens (or founds) the store under `options.dir` with its index in RocksDB, and replays the
    /// journal.
    pub fn open(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        Store::open_with(options, disk, &RocksIndexStore, clock)
    }

    /// Like [`Store::open`] with another index: RocksDB needs a real disk.
    pub fn open_with(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        indexes: &(impl IndexStore + Clone + 'static),
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        let (prepared, report) = Prepared::new(options, disk, indexes, clock)?;
        let (journal, queue) = mailbox(Some(QUEUE_LEN));
        let (checkpoints, requests) = bounded(REQUESTS);
        let queues = (journal.clone(), checkpoints.clone());
        let (shared, context, checkpointer) = prepared.workers(queues, queue, requests);
        let threads = threads::start(context, checkpointer)?;
        let handle = Arc::new(Handle {
            shared,
            journal,
            checkpoints,
            workers: Mutex::new(Some(Workers::Threads(threads))),
            wake: None,
        });
        Ok((Store { handle }, report))
    }

    /// Like [`Store::open_with`], without threads: the caller does their work with the [`Hands`].
    /// `wake` is called when some has come, from wherever that is; it must not do it there.
    pub fn open_driven(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        indexes: &(impl IndexStore + Clone + 'static),
        clock: Arc<dyn Clock>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(Store, RecoveryReport, Hands), OpenError> {
        let (prepared, report) = Prepared::new(options, disk, indexes, clock)?;
        // Nobody could make room in a queue that is full.
        let (journal, queue) = mailbox(None);
        let (checkpoints, requests) = unbounded();
        let queues = (journal.clone(), checkpoints.clone());
        let (shared, context, checkpointer) = prepared.workers(queues, queue, requests);
        let (rounds, segments) = Rounds::driven(context);
        let journal_hands = JournalHands::new(rounds, segments);
        let checkpointer = checkpointer.driving(journal_hands.clone());
        let hands = Hands::new(journal_hands, checkpointer);
        let handle = Arc::new(Handle {
            shared,
            journal,
            checkpoints,
            workers: Mutex::new(Some(Workers::Driven(hands.clone()))),
            wake: Some(wake),
        });
        Ok((Store { handle }, report, hands))
    }

    /// Ids of all groups, ascending.
    pub fn groups(&self) -> Vec<GroupId> {
        self.handle.shared.groups.read().keys().copied().collect()
    }

    /// The log of a group.
    pub fn group(&self, group: GroupId) -> Option<GroupLog> {
        let log = self.handle.shared.groups.read().get(&group).cloned()?;
        Some(GroupLog {
            log,
            store: Arc::clone(&self.handle),
        })
    }

    /// Creates a log. It is usable at once, and durable as soon as anything done to it is. `dir`
    /// is the folder name below the store's directory (never client-chosen text: topic uuid and
    /// partition). A group that is there already is returned as it is, with the new settings.
    pub fn create_group(
        &self,
        group: GroupId,
        dir: &str,
        settings: LogSettings,
    ) -> Result<GroupLog, StorageError> {
        let shared = &self.handle.shared;
        shared.failure.accepts()?;
        if !layout::is_group_dir(dir) {
            return Err(StorageError::Io(
                format!("{dir:?} cannot be a group's directory").into(),
            ));
        }
        if self.is_retired(group) {
            let what = format!("group {group} was deleted, and its id was not released");
            return Err(StorageError::Io(what.into()));
        }
        let state = LogState::new(settings.clone());
        let log = Arc::new(Log::new(group, dir, shared.options.dir.join(dir), state));
        // Taken before anyone else can find the log: its creation is its first operation.
        let _order = log.order.lock();
        if let Some(existing) = self.insert(&log)? {
            existing.set_settings(settings);
            return Ok(existing);
        }
        let body = FrameBody::CreateGroup {
            dir: dir.to_owned(),
            settings,
        };
        let frame = Frame { group, op: 1, body };
        let applied = log.state.lock().apply(&frame, shared.steady.now_ms());
        assert!(
            applied.is_ok(),
            "creation is the first operation: {applied:?}"
        );
        let created = GroupLog {
            log: Arc::clone(&log),
            store: Arc::clone(&self.handle),
        };
        created.queue(vec![frame], Vec::new(), Done::nobody(), 0);
        Ok(created)
    }

    /// Adds a log, unless one of that group is there: then returns that.
    fn insert(&self, log: &Arc<Log>) -> Result<Option<GroupLog>, StorageError> {
        let mut groups = self.handle.shared.groups.write();
        if let Some(existing) = groups.get(&log.group) {
            if existing.dir != log.dir {
                let what = format!("group {} lies in {}", log.group, existing.dir);
                return Err(StorageError::Io(what.into()));
            }
            let (log, store) = (Arc::clone(existing), Arc::clone(&self.handle));
            return Ok(Some(GroupLog { log, store }));
        }
        groups.insert(log.group, Arc::clone(log));
        Ok(None)
    }

    /// Journaled; closes the log, unlinks its files. Readers in progress finish or get GroupGone.
    /// A group that is not there counts as deleted.
    pub fn delete_group(&self, group: GroupId, done: Completion) {
        let shared = &self.handle.shared;
        let done = Done::new(done);
        if let Err(error) = shared.failure.accepts() {
            done.call(Err(error));
            return;
        }
        let Some(log) = shared.groups.read().get(&group).cloned() else {
            done.call(shared.failure.check());
            return;
        };
        let deleted = GroupLog {
            log,
            store: Arc::clone(&self.handle),
        };
        let _order = deleted.log.order.lock();
        let mut state = deleted.log.state.lock();
        if state.deleted {
            drop(state);
            deleted.queue(Vec::new(), Vec::new(), done, 0);
            return;
        }
        let frame = Frame {
            group,
            op: state.op + 1,
            body: FrameBody::DeleteGroup,
        };
        let actions = match state.apply(&frame, shared.steady.now_ms()) {
            Ok(actions) => actions,
            Err(reason) => panic!("deletion of group {group}: {reason}"),
        };
        let op = frame.op;
        drop(state);
        deleted.queue(vec![frame], actions, done, 0);
        // A checkpoint that finds it here finds its frame in the queue. With the order lock held, one
        // that finds the log deleted finds it here.
        shared.deleted.lock().push((group, op));
        shared.retired.lock().insert(group);
        shared.groups.write().remove(&group);
    }

    /// Whether a log of this id was deleted, and [`Store::release_id`] has to come before another.
    pub fn is_retired(&self, group: GroupId) -> bool {
        self.handle.shared.retired.lock().contains(&group)
    }

    /// Lets a log be created with the id of one that was deleted. Blocking: that takes a checkpoint or
    /// two, which serve all ids deleted before.
    ///
    /// # Errors
    /// When a checkpoint fails.
    pub fn release_id(&self, group: GroupId) -> Result<(), StorageError> {
        // Whoever waits here may find that the checkpoint of another was for his id, too.
        let _one_by_one = self.handle.shared.releasing.lock();
        while self.is_retired(group) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// False once free space is below the reserve; true again by itself.
    pub fn writable(&self) -> bool {
        self.handle.shared.space.writable()
    }

    /// The disk is slow: of the last quarter of a minute at least, how long it took for the slowest of what was to be
    /// durable, if that was seconds. True while it still lasts.
    pub fn slow_disk(&self) -> Option<Duration> {
        Some(self.slowest_round()).filter(|took| *took >= SLOW_ROUND)
    }

    fn slowest_round(&self) -> Duration {
        let shared = &self.handle.shared;
        shared.rounds.slowest(shared.clock.monotonic())
    }

    /// Why the store stopped, if it did.
    pub fn failure(&self) -> Option<StorageError> {
        self.handle.shared.failure.check().err()
    }

    /// Called once, from any thread, when the store is poisoned; at once if it is already.
    pub fn on_failure(&self, hook: Box<dyn Fn(&StorageError) + Send + Sync>) {
        self.handle.shared.failure.on_failure(hook);
    }

    /// Gives half of the memory that is kept for use again back. For a caller that comes by now and then.
    pub fn release_memory(&self) {
        Buffers::of_process().release();
    }

    /// Logs of which damage is known, and what, ascending: [`GroupLog::known_damage`].
    pub fn damaged(&self) -> Vec<(GroupId, String)> {
        let groups = self.handle.shared.groups.read();
        let damaged = groups
            .iter()
            .filter_map(|(group, log)| Some((*group, log.known_damage()?)));
        damaged.collect()
    }

    /// Places of stored data found corrupt since the start. Grows whenever a log is found damaged while the store runs.
    pub fn corruptions(&self) -> u64 {
        let shared = &self.handle.shared;
        shared.counters.corruptions.load(Ordering::Relaxed) + shared.pair.damages()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> StoreStats {
        let shared = &self.handle.shared;
        let mut stats = shared.counters.snapshot();
        for log in shared.groups.read().values() {
            let state = log.state.lock();
            stats.segments += state.segments.len() as u64;
            stats.segment_bytes += state.size_bytes();
        }
        stats.corruptions += shared.pair.damages();
        stats.open_files = shared.files.len() as u64;
        (stats.free_bytes, stats.total_bytes) = shared.space.seen();
        stats.slowest_round_seconds = self.slowest_round().as_secs_f64();
        stats
    }

    /// Makes a checkpoint now; blocking. A restart right after it replays next to nothing.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        self.checkpoint_now(false)
    }

    /// Final checkpoint and stop of the threads; blocking. Operations after it fail.
    pub fn close(&self) -> Result<(), StorageError> {
        if self.handle.workers.lock().is_none() {
            return Ok(());
        }
        self.handle.shared.failure.close();
        let result = self.checkpoint_now(true);
        self.handle.stop();
        result
    }

    fn checkpoint_now(&self, last: bool) -> Result<(), StorageError> {
        let (answer, answered) = bounded(1);
        let closed = |_| StorageError::Poisoned("the store was closed".into());
        self.handle
            .checkpoints
            .send(Request::Now { last, answer })
            .map_err(|e| closed(e.to_string()))?;
        self.handle.help();
        answered.recv().map_err(|e| closed(e.to_string()))?
    }
}

/// A store that is recovered and has nobody yet who does its work.
struct Prepared {
    shared: Arc<Shared>,
    files: JournalFiles,
    spares: Arc<Mutex<Spares>>,
    wanted: Option<Request>,
}

impl Prepared {
    fn new(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        indexes: &(impl IndexStore + Clone + 'static),
        clock: Arc<dyn Clock>,
    ) -> Result<(Prepared, RecoveryReport), OpenError> {
        let layout::Opened {
            lock,
            index,
            pair,
            salt,
            findings,
        } = layout::open(disk.as_ref(), Box::new(indexes.clone()), &options.dir)?;
        let space = Space::new(Arc::clone(&disk), Arc::clone(&clock), &options);
        let shared = Arc::new(Shared {
            files: FileCache::new(Arc::clone(&disk), options.max_open_files),
            options,
            disk,
            steady: Steady::new(Arc::clone(&clock)),
            clock,
            index,
            pair,
            groups: RwLock::default(),
            failure: Failure::default(),
            gate: Gate::default(),
            space,
            rounds: RoundTimes::default(),
            counters: Counters::new(),
            fills: AtomicUsize::new(0),
            deleted: Mutex::default(),
            retired: Mutex::default(),
            releasing: Mutex::default(),
            booked: Mutex::default(),
            graves: Mutex::default(),
            root_unsynced: AtomicBool::new(false),
            dir_sync: Mutex::default(),
            _lock: lock,
        });
        let recovered = recover(&shared, salt)?;
        let Recovered {
            mut report,
            files,
            spares,
            wanted,
        } = recovered;
        let damages = findings.len() as u64;
        let counter = &shared.counters.corruptions;
        counter.fetch_add(damages, Ordering::Relaxed);
        report.corrupt.extend(findings);
        let prepared = Prepared {
            shared,
            files,
            spares,
            wanted,
        };
        Ok((prepared, report))
    }

    fn workers(
        self,
        (journal, checkpoints): (Post<Message>, Sender<Request>),
        queue: Mailbox<Message>,
        requests: Receiver<Request>,
    ) -> (Arc<Shared>, RoundsContext, Checkpointer) {
        let shared = self.shared;
        let context = RoundsContext {
            shared: Arc::clone(&shared),
            files: self.files,
            queue,
            checkpoints,
            wanted: self.wanted,
        };
        let checkpointer = Checkpointer::new(Arc::clone(&shared), journal, requests, self.spares);
        (shared, context, checkpointer)
    }
}

/// Row of the producers table: the log end offset they are true for, and their encoding.
pub(crate) fn encode_producers(upto: i64, producers: &ProducerStates) -> Vec<u8> {
    let encoded = producers.encode();
    let mut row = Vec::with_capacity(8 + encoded.len());
    row.put_i64_le(upto);
    row.extend_from_slice(&encoded);
    row
}

/// Reads a row of the producers table; `None` if it cannot be used: then the log tells.
pub(crate) fn decode_producers(mut row: &[u8]) -> Option<(i64, ProducerStates)> {
    let upto = row.try_get_i64_le().ok()?;
    ProducerStates::decode(row)
        .ok()
        .map(|producers| (upto, producers))
}
