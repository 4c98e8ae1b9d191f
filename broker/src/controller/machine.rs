//! The metadata group's state machine: committed commands in, immutable images out.
//!
//! Invariants
//! - Every node applies the same commands in the same order, so images of one log offset are equal.
//! - A command that cannot be read stops the process: skipping it would make nodes differ.

use std::sync::Arc;

use arc_swap::ArcSwap;
use klamm_metadata::{Command, Image, Outcome};
use klamm_raft::{Applied, Leadership, StateMachine};
use klamm_records::{BatchHeader, RecordSet};
use klamm_storage::{Batch, GroupLog, StorageError};
use tokio::sync::watch;
use tracing::warn;

/// Records of one batch of commands are far smaller.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Bytes read at once from a log that another replica's was copied to.
const RESTORE_SLICE: usize = 4 << 20;

/// Holds the image and tells who waits for it how far it has come.
pub struct MetadataMachine {
    image: ArcSwap<Image>,
    /// Offset in the metadata log after the last applied command.
    applied: watch::Sender<i64>,
    leadership: watch::Sender<Leadership>,
}

impl MetadataMachine {
    /// The state before the first command. A machine that wants data is given the whole log
    /// again at every start, so the image needs no storage of its own.
    pub fn new() -> Arc<MetadataMachine> {
        Arc::new(MetadataMachine {
            image: ArcSwap::from_pointee(Image::default()),
            applied: watch::Sender::new(0),
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

    fn apply_batch(&self, batch: &Batch) {
        let mut image = (*self.image.load_full()).clone();
        for (offset, value) in (batch.header.base_offset..).zip(values(batch)) {
            // What was applied before comes again after a restart.
            if offset <= image.last_offset() {
                continue;
            }
            let command = Command::decode(&value)
                .unwrap_or_else(|error| panic!("metadata log, record at offset {offset}: {error}"));
            let (next, outcome) = image.apply(offset, &command);
            image = next;
            if let Outcome::Refused(problem) = outcome {
                warn!(offset, ?command, %problem, "metadata command refused");
            }
        }
        let end = image.last_offset() + 1;
        self.image.store(Arc::new(image));
        self.applied
            .send_if_modified(|applied| std::mem::replace(applied, end) != end);
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
        if let Applied::Batch { batch, .. } = entry {
            self.apply_batch(&batch);
        }
    }

    fn restore(&self, log: &GroupLog) -> Result<(), StorageError> {
        let end = log.entries_start_offset();
        let mut from = self.image().last_offset() + 1;
        while from < end {
            // Commands that the log does not hold any more would make it `OutOfRange`.
            let mut rest = log.read(from, end, RESTORE_SLICE, true)?;
            let before = from;
            while let Some((header, len)) =
                BatchHeader::parse(&rest).and_then(|header| Some((header, header.total_len()?)))
            {
                let bytes = rest.split_to(len.min(rest.len()));
                from = header.next_offset();
                self.apply_batch(&Batch { header, bytes });
            }
            if from == before {
                let what = format!("the metadata log has no whole batch at offset {from}");
                return Err(StorageError::Io(what.into()));
            }
        }
        Ok(())
    }

    fn leadership(&self, now: Leadership) {
        self.leadership.send_replace(now);
    }
}
