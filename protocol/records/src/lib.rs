//! Record batch v2 as a checked view over `Bytes`, identifiers, compression, validation, builder.

mod header;
mod ids;

pub use header::{BATCH_HEADER_LEN, BATCH_LENGTH_OVERHEAD, BatchHeader, STAMP_LEN};
pub use ids::{EntryId, GroupId, TopicId};
