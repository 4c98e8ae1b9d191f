//! Reading a shard from its log. Blocks: runs off the runtime's threads.

use klamm_coordinator::Shard;
use klamm_coordinator::records::{GroupRecord, RecordError};
use klamm_records::{BatchHeader, ReadError, RecordFormatError, RecordSet};
use klamm_storage::StorageError;
use tracing::debug;

use crate::partition::Partition;

/// Bytes read at once.
const SLICE: usize = 4 << 20;
/// Bytes that one compressed batch may decompress to.
const MAX_BATCH_BYTES: usize = 256 << 20;

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("batch at offset {offset}: {cause}")]
    Batch { offset: i64, cause: ReadError },
    #[error("batch at offset {offset}: {cause}")]
    Format {
        offset: i64,
        cause: RecordFormatError,
    },
    #[error("record in the batch at offset {offset}: {cause}")]
    Record { offset: i64, cause: RecordError },
    #[error("the log has no whole batch at offset {0}")]
    Gap(i64),
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Records replayed.
    pub records: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Records of a kind that this program does not know: a newer one's.
    pub unknown: u64,
}

/// Replays everything from the log's start up to `end_offset`, which is committed.
///
/// # Errors
/// [`LoadError`]; a record that cannot be read is not skipped, since the state would lack it.
pub fn load(
    partition: &Partition,
    end_offset: i64,
    shard: &mut Shard,
) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded::default();
    let mut from = partition.start_offset();
    while from < end_offset {
        let slice = partition.log().read(from, end_offset, SLICE, true)?;
        let mut rest = slice.clone();
        let before = from;
        while let Some(header) = BatchHeader::parse(&rest) {
            let Some(len) = header.total_len().filter(|len| *len <= rest.len()) else {
                break;
            };
            let batch = rest.split_to(len);
            loaded.bytes += len as u64;
            from = header.next_offset();
            if !header.is_control() {
                replay(&batch, &header, shard, &mut loaded)?;
            }
        }
        if from == before {
            return Err(LoadError::Gap(from));
        }
    }
    Ok(loaded)
}

fn replay(
    batch: &bytes::Bytes,
    header: &BatchHeader,
    shard: &mut Shard,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let offset = header.base_offset;
    let records = RecordSet::open(batch, header, MAX_BATCH_BYTES)
        .map_err(|cause| LoadError::Batch { offset, cause })?;
    for record in &records {
        let record = record.map_err(|cause| LoadError::Format { offset, cause })?;
        // Nobody's: only an administrator's tool writes such a thing here.
        let Some(key) = record.key else {
            loaded.unknown += 1;
            continue;
        };
        match GroupRecord::decode(key, record.value) {
            Ok(Some(record)) => {
                shard.replay(record);
                loaded.records += 1;
            }
            Ok(None) => {
                debug!(offset, "a record of a kind that is not known");
                loaded.unknown += 1;
            }
            Err(cause) => return Err(LoadError::Record { offset, cause }),
        }
    }
    Ok(())
}
