//! Zstandard (KIP-110): frames with or without content size, windows up to 8 MiB.

use std::cell::Cell;

use zstd::bulk::Compressor;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{
    CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_frame_content_size,
};
use zstd::{DEFAULT_COMPRESSION_LEVEL, compression_level_range};

use super::{Codec, CompressError, DecompressError, first_capacity, next_capacity};

/// Binary logarithm of the largest window that is decompressed: 8 MiB, what a decoder must
/// support by RFC 8878 and what compression up to level 19 uses. A larger one would let a few
/// bytes claim up to 2 GiB of memory.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// From this level on the compressor chooses windows above [`ZSTD_WINDOW_LOG_MAX`] by itself.
const LEVEL_OF_LARGE_WINDOWS: i32 = 20;
/// A decoder larger than this is freed after use: it holds a window.
const KEPT_SIZE: usize = 1 << 20;

thread_local! {
    /// A decoder of this thread, as creating one costs more than most batches do.
    static KEPT: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// A claimed content size beyond so many times the input is not allocated at once.
const TRUSTED_EXPANSION: u64 = 64;

fn corrupt(what: &'static str) -> DecompressError {
    DecompressError::Corrupt {
        codec: Codec::Zstd,
        what,
    }
}

fn refused(code: usize) -> DecompressError {
    // The library returns an error as the two's complement of its number.
    let number = code.wrapping_neg();
    if number == ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge as usize {
        DecompressError::WindowTooLarge
    } else {
        corrupt("a frame does not unpack")
    }
}

/// The window that the first frame asks for, in bytes; nothing when its header is cut short.
/// The library checks windows only where it has to allocate one, so that the same frame would
/// pass or fail by the size of the output buffer.
fn window_of(input: &[u8], content_size: Option<u64>) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 0x20;
    let descriptor = *input.strip_prefix(&MAGIC)?.first()?;
    if descriptor & SINGLE_SEGMENT != 0 {
        return content_size;
    }
    let window = *input.get(MAGIC.len() + 1)?;
    let base = 1u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 0x07))
}

pub(super) fn decompress(input: &[u8], budget: usize) -> Result<Vec<u8>, DecompressError> {
    let claimed = get_frame_content_size(input).map_err(|_| corrupt("it is not a zstd frame"))?;
    if window_of(input, claimed).is_some_and(|window| window > 1 << ZSTD_WINDOW_LOG_MAX) {
        return Err(DecompressError::WindowTooLarge);
    }
    let capacity = match claimed {
        Some(size) if size > budget as u64 => return Err(DecompressError::TooLarge { budget }),
        Some(size) if size <= TRUSTED_EXPANSION * input.len() as u64 => size as usize,
        _ => first_capacity(input.len(), budget),
    };
    let mut context = match KEPT.take() {
        Some(context) => context,
        None => DCtx::try_create().ok_or(corrupt("no memory for a decoder"))?,
    };
    context
        .reset(ResetDirective::SessionAndParameters)
        .map_err(refused)?;
    context
        .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
        .map_err(refused)?;
    let out = stream(&mut context, input, capacity, budget);
    if out.is_ok() && context.sizeof() <= KEPT_SIZE {
        KEPT.set(Some(context));
    }
    out
}

/// Decompresses all frames into at most `budget` bytes, beginning with space for `capacity`.
fn stream(
    context: &mut DCtx<'static>,
    input: &[u8],
    capacity: usize,
    budget: usize,
) -> Result<Vec<u8>, DecompressError> {
    let mut out: Vec<u8> = Vec::with_capacity(capacity);
    let mut source = InBuffer::around(input);
    loop {
        let (read, written) = (source.pos(), out.len());
        if written == out.capacity() {
            // One byte beyond the budget shows whether there is more.
            let capacity = next_capacity(written, budget).unwrap_or(budget.saturating_add(1));
            out.reserve_exact(capacity - written);
        }
        let mut sink = OutBuffer::around_pos(&mut out, written);
        let hint = context
            .decompress_stream(&mut sink, &mut source)
            .map_err(refused)?;
        if out.len() > budget {
            return Err(DecompressError::TooLarge { budget });
        }
        // Zero says that a frame is complete and flushed; the next one may follow at once.
        if hint == 0 && source.pos() == input.len() {
            return Ok(out);
        }
        if source.pos() == read && out.len() == written {
            return Err(corrupt("it ends within a frame"));
        }
    }
}

/// Levels as `compression.zstd.level` (KIP-390) has them: -131072 to 22.
pub(super) fn compress(input: &[u8], level: Option<i32>) -> Result<Vec<u8>, CompressError> {
    let codec = Codec::Zstd;
    let level = level.unwrap_or(DEFAULT_COMPRESSION_LEVEL);
    if !compression_level_range().contains(&level) {
        return Err(CompressError::Level { codec, level });
    }
    let failed = |error: std::io::Error| CompressError::Failed {
        codec,
        cause: error.to_string(),
    };
    let mut compressor = Compressor::new(level).map_err(failed)?;
    if level >= LEVEL_OF_LARGE_WINDOWS {
        let window = CParameter::WindowLog(ZSTD_WINDOW_LOG_MAX);
        compressor.set_parameter(window).map_err(failed)?;
    }
    compressor.compress(input).map_err(failed)
}
