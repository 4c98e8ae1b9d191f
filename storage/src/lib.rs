#![doc = include_str!("../README.md")]

mod buffers;
mod checkpoint;
pub mod clock;
pub mod disk;
mod entry;
mod error;
mod hands;
mod health;
pub mod index;
mod journal;
mod layout;
mod log;
mod mailbox;
mod options;
pub mod producers;
mod recovery;
mod segment;
mod stats;
mod store;
mod threads;

pub use buffers::{Buffer, Buffers};
pub use clock::{Clock, ManualClock, Steady, SystemClock};
pub use disk::{Disk, DiskFile, FaultDisk, OpenMode, RealDisk};
pub use entry::{Batch, Entry, Payload, RaftState, Vote};
pub use error::{Completion, OpenError, StorageError};
pub use hands::Hands;
pub use index::{Index, IndexBatch, IndexStore, MemoryIndexStore, RocksIndexStore};
pub use log::{
    Chunk, Compaction, CompactionError, CompactionRules, Fill, FillError, FillPlace, FillSource,
    GroupLog, Manifest, ManifestError, Pace, TimestampOffset,
};
pub use options::{LogSettings, StoreOptions};
pub use producers::{ProducerStates, SequenceCheck};
pub use recovery::RecoveryReport;
pub use segment::{NO_TIMESTAMP, SegmentInfo};
pub use stats::StoreStats;
pub use store::Store;

#[cfg(test)]
mod tests;
