//! The metadata group's state machine: committed commands in, immutable images out.
//!
//! Invariants
//! - Every node applies the same commands in the same order, so images of one log offset are equal.
//! - A record that cannot be read stops the process: skipping it would make nodes differ. So does a snapshot that says
//!   something else than this node's own image.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use klamm_metadata::{Image, Outcome, Replay, ReplayError, Step};
use klamm_raft::{Applied, Leadership, StateMachine};
use klamm_records::{BatchHeader, RecordSet};
use klamm_storage::{Batch, GroupLog, StorageError};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tracing::warn;

/// Records of one batch of commands are far smaller.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Bytes read at once from a log that another replica's was copied to.
const RESTORE_SLICE: usize = 4 << 20;

/// Holds the image and tells who waits for it how far it has come.
pub struct MetadataMachine {
    /// Locked only to take records, and for as long as that takes.
    replay: Mutex<Replay>,
    image: ArcSwap<Image>,
    /// Offset in the metadata log after the last applied record.
    applied: watch::Sender<i64>,
    /// Where the newest snapshot begins.
    newest: watch::Sender<Option<i64>>,
    since: Mutex<Since>,
    leadership: watch::Sender<Leadership>,
}

/// What has come since the newest snapshot, or since the log began.
struct Since {
    bytes: u64,
    /// When that was met, or the process began.
    began: Instant,
    /// Snapshots met.
    met: u64,
}

impl MetadataMachine {
    /// The state before the first record. A machine that wants data is given the whole log
    /// again at every start, so the image needs no storage of its own.
    pub fn new() -> Arc<MetadataMachine> {
        Arc::new(MetadataMachine {
            replay: Mutex::default(),
            image: ArcSwap::from_pointee(Image::default()),
            applied: watch::Sender::new(0),
            newest: watch::Sender::new(None),
            since: Mutex::new(Since {
                bytes: 0,
                began: Instant::now(),
                met: 0,
            }),
            leadership: watch::Sender::new(Leadership {
                term: 0,
                leader: None,
                serving: false,
            }),
        })
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Changes whenever the image has.
    pub fn watch(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    /// Leadership of the metadata group.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Offset of the first record of the newest snapshot.
    pub fn watch_snapshots(&self) -> watch::Receiver<Option<i64>> {
        self.newest.subscribe()
    }

    /// Snapshots that this node has met since it started.
    pub fn snapshots(&self) -> u64 {
        self.since.lock().met
    }

    /// Bytes of log, and time, since the newest snapshot.
    pub fn since_snapshot(&self) -> (u64, Duration) {
        let since = self.since.lock();
        (since.bytes, since.began.elapsed())
    }

    fn apply_batch(&self, replay: &mut Replay, batch: &Batch) -> Result<(), (i64, ReplayError)> {
        let mut is_new = false;
        let mut snapshot = None;
        for (offset, value) in (batch.header.base_offset..).zip(values(batch)) {
            match replay
                .record(offset, &value)
                .map_err(|error| (offset, error))?
            {
                // What was applied before comes again after a restart.
                Step::Known => continue,
                Step::Part | Step::Command(_, Outcome::Done | Outcome::ProducerIds { .. }) => {}
                Step::Command(command, Outcome::Refused(problem)) => {
                    warn!(offset, ?command, %problem, "metadata command refused");
                }
                Step::Snapshot { start } => snapshot = Some(start),
            }
            is_new = true;
        }
        if !is_new {
            return Ok(());
        }
        {
            let mut since = self.since.lock();
            since.bytes += batch.bytes.len() as u64;
            if snapshot.is_some() {
                let met = since.met + 1;
                let began = Instant::now();
                *since = Since {
                    bytes: 0,
                    began,
                    met,
                };
            }
        }
        let end = replay.image().last_offset() + 1;
        self.image.store(Arc::new(replay.image().clone()));
        self.applied
            .send_if_modified(|applied| std::mem::replace(applied, end) != end);
        if snapshot.is_some() {
            self.newest.send_replace(snapshot);
        }
        Ok(())
    }
}

/// Runs what may take long without holding up the runtime's other tasks.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Values of the records of a metadata batch.
fn values(batch: &Batch) -> Vec<Vec<u8>> {
    let at = batch.header.base_offset;
    let records = RecordSet::open(&batch.bytes, &batch.header, MAX_BATCH_BYTES)
        .unwrap_or_else(|error| panic!("metadata batch at offset {at}: {error}"));
    records
        .iter()
        .map(|record| {
            let record =
                record.unwrap_or_else(|error| panic!("metadata batch at offset {at}: {error}"));
            record.value.map(<[u8]>::to_vec).unwrap_or_default()
        })
        .collect()
}

impl StateMachine for MetadataMachine {
    fn wants_data(&self) -> bool {
        true
    }

    fn committed(&self, _end_offset: i64) {}

    fn apply(&self, entry: Applied) {
        let Applied::Batch { batch, .. } = entry else {
            return;
        };
        let mut replay = self.replay.lock();
        let applied = match replay.may_take_long() {
            true => aside(|| self.apply_batch(&mut replay, &batch)),
            false => self.apply_batch(&mut replay, &batch),
        };
        if let Err((offset, error)) = applied {
            panic!("metadata log, record at offset {offset}: {error}");
        }
    }

    fn keeps_for_absent_voters(&self) -> bool {
        false
    }

    fn restore(&self, log: &GroupLog, end: i64) -> Result<(), StorageError> {
        let failed = |what: String| StorageError::Io(what.into());
        let mut replay = self.replay.lock();
        replay.log_begins_at(log.start_offset());
        while replay.next_offset() < end {
            let from = replay.next_offset();
            let mut rest = log.read(from, end, RESTORE_SLICE, true)?;
            while let Some((header, len)) =
                BatchHeader::parse(&rest).and_then(|header| Some((header, header.total_len()?)))
            {
                let bytes = rest.split_to(len.min(rest.len()));
                let applied = self.apply_batch(&mut replay, &Batch { header, bytes });
                applied.map_err(|(offset, error)| {
                    failed(format!("metadata log, record at offset {offset}: {error}"))
                })?;
            }
            if replay.next_offset() == from {
                let what = format!("the metadata log has no whole batch at offset {from}");
                return Err(failed(what));
            }
        }
        Ok(())
    }

    fn leadership(&self, now: Leadership) {
        self.leadership.send_replace(now);
    }
}

#[cfg(test)]
mod tests {
    use klamm_metadata::{Command, Record};
    use klamm_records::EntryId;

    use super::*;
    use crate::controller::batches;

    /// Has a machine apply these records as one batch.
    fn apply(machine: &MetadataMachine, at: i64, records: &[Record]) -> u64 {
        let values: Vec<_> = records.iter().map(Record::encode).collect();
        let mut batch = batches(&values, 0).remove(0);
        batch.header.base_offset = at;
        let bytes = batch.bytes.len() as u64;
        let id = EntryId { term: 1, index: 1 };
        machine.apply(Applied::Batch { id, batch });
        bytes
    }

    fn found(cluster_id: &str) -> Record {
        let cluster_id = cluster_id.to_owned();
        Record::Command(Command::Found { cluster_id })
    }

    #[test]
    fn bytes_are_counted_from_the_newest_snapshot_on() {
        let machine = MetadataMachine::new();
        let first = apply(&machine, 0, &[found("x"), found("x")]);
        assert_eq!(machine.since_snapshot().0, first);
        assert_eq!(apply(&machine, 0, &[found("x"), found("x")]), first);
        assert_eq!(machine.since_snapshot().0, first, "it came before");
        let newest = machine.watch_snapshots();
        apply(&machine, 2, &machine.image().snapshot());
        assert_eq!(machine.since_snapshot().0, 0);
        assert_eq!((*newest.borrow(), machine.snapshots()), (Some(2), 1));
        assert_eq!(*machine.watch().borrow(), 3);
        let next = apply(&machine, 3, &[found("x")]);
        assert_eq!(machine.since_snapshot().0, next);
        assert_eq!(machine.image().last_offset(), 3);
    }

    #[test]
    #[should_panic(expected = "the snapshot at offset 1 differ")]
    fn a_snapshot_of_another_image_ends_the_group() {
        let (machine, other) = (MetadataMachine::new(), MetadataMachine::new());
        apply(&machine, 0, &[found("x")]);
        apply(&other, 0, &[found("y")]);
        apply(&machine, 1, &other.image().snapshot());
    }
}
