//! Gzip, RFC 1952. A stream may have several members (KIP-98 clients that concatenate); they
//! share one budget.

use std::io::Write;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{Codec, CompressError, DecompressError, read_bounded};

pub(super) fn decompress(input: &[u8], budget: usize) -> Result<Vec<u8>, DecompressError> {
    read_bounded(Codec::Gzip, MultiGzDecoder::new(input), input.len(), budget)
}

/// Levels 1 to 9, and -1 for the default, as `compression.gzip.level` (KIP-390) has them.
pub(super) fn compress(input: &[u8], level: Option<i32>) -> Result<Vec<u8>, CompressError> {
    let codec = Codec::Gzip;
    let level = match level {
        None | Some(-1) => Compression::default(),
        Some(level @ 1..=9) => Compression::new(level.unsigned_abs()),
        Some(level) => return Err(CompressError::Level { codec, level }),
    };
    let mut encoder = GzEncoder::new(Vec::with_capacity(input.len() / 2 + 64), level);
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .map_err(|error| CompressError::Failed {
            codec,
            cause: error.to_string(),
        })
}
