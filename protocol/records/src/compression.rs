//! The codecs of record batches: bounded decompression of bytes from outside, and compression
//! that Java's clients and librdkafka read.
//!
//! Invariants:
//! - output never grows beyond the caller's budget, and a size that the input merely claims is
//!   never allocated unless the codec could produce it from so little input;
//! - hostile input is an error, never a panic;
//! - a batch is one stream: bytes behind its end are corruption, not slack.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use std::fmt;
use std::io::Read;

use bytes::Bytes;

pub use self::zstd::ZSTD_WINDOW_LOG_MAX;

const CODEC_MASK: i16 = 0x07;

/// Compression of a batch's records, as bits 0 to 2 of its attributes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// Snappy in the framing of xerial's snappy-java, or as one raw block.
    Snappy,
    /// LZ4 frame format, independent blocks.
    Lz4,
    /// Zstandard (KIP-110, Produce version 7 and later).
    Zstd,
}

/// A compression code that no codec has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression code {0} is not known")]
pub struct UnsupportedCodec(pub u8);

impl Codec {
    /// Every codec, in the order of their codes.
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    /// The codec in a batch's attributes.
    ///
    /// # Errors
    /// [`UnsupportedCodec`] for the codes 5 to 7.
    pub fn from_attributes(attributes: i16) -> Result<Codec, UnsupportedCodec> {
        match attributes & CODEC_MASK {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            code => Err(UnsupportedCodec(code as u8)),
        }
    }

    /// The attributes with this codec in their bits 0 to 2.
    pub(crate) fn into_attributes(self, attributes: i16) -> i16 {
        attributes & !CODEC_MASK | self as i16
    }

    /// Kafka's name, as `compression.type` spells it for producers.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why compressed bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The output would exceed the budget, in bytes.
    #[error("decompressed records exceed {budget} bytes")]
    TooLarge {
        /// The budget that was given.
        budget: usize,
    },
    /// A zstd frame needs a larger window than [`ZSTD_WINDOW_LOG_MAX`] allows.
    #[error("zstd window exceeds {} bytes", 1u64 << ZSTD_WINDOW_LOG_MAX)]
    WindowTooLarge,
    /// The bytes are no whole stream of this codec.
    #[error("corrupt {codec} data: {what}")]
    Corrupt {
        /// The codec that refused them.
        codec: Codec,
        /// What is wrong.
        what: &'static str,
    },
}

/// Why bytes could not be compressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The codec has no such level.
    #[error("{codec} has no compression level {level}")]
    Level {
        /// The codec asked for.
        codec: Codec,
        /// The level asked for.
        level: i32,
    },
    /// The codec's library failed.
    #[error("{codec} compression failed: {cause}")]
    Failed {
        /// The codec that failed.
        codec: Codec,
        /// The library's message.
        cause: String,
    },
}

/// Decompresses `input` into at most `budget` bytes. With [`Codec::None`] this copies; a whole
/// batch is better read through [`RecordSet`](crate::RecordSet), which then copies nothing.
///
/// # Errors
/// [`DecompressError`]; none of them leaves more than `budget` bytes allocated on the way.
pub fn decompress(codec: Codec, input: &[u8], budget: usize) -> Result<Bytes, DecompressError> {
    match codec {
        Codec::None if input.len() > budget => Err(DecompressError::TooLarge { budget }),
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => gzip::decompress(input, budget),
        Codec::Snappy => snappy::decompress(input, budget),
        Codec::Lz4 => lz4::decompress(input, budget),
        Codec::Zstd => zstd::decompress(input, budget),
    }
    .map(Bytes::from)
}

/// Compresses `input` at `level`, or at the codec's default level. Snappy has no levels; those
/// of LZ4 are checked but all mean the fast one, as its compressor here knows no other.
///
/// # Errors
/// [`CompressError::Level`] outside Kafka's range for the codec.
pub fn compress(codec: Codec, level: Option<i32>, input: &[u8]) -> Result<Vec<u8>, CompressError> {
    match codec {
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => gzip::compress(input, level),
        Codec::Snappy => snappy::compress(input),
        Codec::Lz4 => lz4::compress(input, level),
        Codec::Zstd => zstd::compress(input, level),
    }
}

/// Output space to begin with: four times the input is what records usually unpack to. Larger
/// output grows by doubling, so that memory follows what was really unpacked.
fn first_capacity(input_len: usize, budget: usize) -> usize {
    input_len.saturating_mul(4).clamp(1024, 1 << 20).min(budget)
}

/// The next capacity after `len` bytes are full, or nothing when the budget is used up.
fn next_capacity(len: usize, budget: usize) -> Option<usize> {
    (len < budget).then(|| {
        len.saturating_mul(2)
            .clamp(1024, budget.max(1024))
            .min(budget)
    })
}

/// Lengthens `out` to `len` bytes, at most `budget`. Space doubles as a `Vec` does by itself, but
/// never beyond the budget.
fn lengthen(out: &mut Vec<u8>, len: usize, budget: usize) {
    if len > out.capacity() {
        let capacity = out.capacity().saturating_mul(2).min(budget).max(len);
        out.reserve_exact(capacity - out.len());
    }
    out.resize(len, 0);
}

/// Reads `source` to its end into at most `budget` bytes.
fn read_bounded(
    codec: Codec,
    mut source: impl Read,
    input_len: usize,
    budget: usize,
) -> Result<Vec<u8>, DecompressError> {
    let corrupt = |_| DecompressError::Corrupt {
        codec,
        what: "its stream is broken or ends early",
    };
    let mut out = vec![0; first_capacity(input_len, budget)];
    let mut len = 0;
    loop {
        let Some(space) = out.get_mut(len..).filter(|space| !space.is_empty()) else {
            match next_capacity(len, budget) {
                Some(capacity) => lengthen(&mut out, capacity, budget),
                None => {
                    return match source.read(&mut [0]).map_err(corrupt)? {
                        0 => Ok(out),
                        _ => Err(DecompressError::TooLarge { budget }),
                    };
                }
            }
            continue;
        };
        match source.read(space).map_err(corrupt)? {
            0 => break,
            read => len += read,
        }
    }
    out.truncate(len);
    Ok(out)
}

#[cfg(test)]
mod tests;
