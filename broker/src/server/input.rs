//! What of a connection's requests has come in and is not a whole frame yet.
//!
//! A small request is copied out of a buffer of the thread that reads: its memory is then as large as itself, and as what came
//! with it, however long it is kept. A large one comes into memory of its own, which from 64 KiB on is used again
//! ([`Buffers`]) and grows with what was received, never with what a length field claims (R21).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use klamm_protocol::{FRAME_PREFIX_LEN, FrameError, whole_frame};
use klamm_storage::{Buffer, Buffers};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Read at once, and the most that a small request has.
const READ_CHUNK: usize = 16 * 1024;

const MIB: usize = 1024 * 1024;
/// How much a buffer grows while it is small.
const FIRST_STEPS: usize = 8;

thread_local! {
    /// Where small requests arrive, before they get memory of their own.
    static ARRIVALS: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into());
}

/// See the module.
#[derive(Default)]
pub(super) struct Input {
    /// Frames, and the beginning of another. Empty while a large one comes in.
    small: BytesMut,
    large: Option<Large>,
}

/// A frame that is coming in, its length before it.
struct Large {
    memory: Buffer,
    filled: usize,
    /// Of all of it, with the length that precedes it.
    len: usize,
}

impl Large {
    fn begin(received: &[u8], len: usize) -> Large {
        Large {
            memory: memory_for(received, len),
            filled: received.len(),
            len,
        }
    }

    /// Where the next bytes go.
    fn rest(&mut self) -> &mut [u8] {
        if self.filled == self.memory.len() && self.filled < self.len {
            self.memory = memory_for(&self.memory, self.len);
        }
        self.memory
            .as_mut()
            .get_mut(self.filled..)
            .unwrap_or_default()
    }

    fn received(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}

impl Input {
    /// Takes what the socket has, at most up to the end of the frame plus one chunk; 0 at its end.
    /// Nothing is lost if it is dropped.
    ///
    /// # Errors
    /// The socket's.
    pub(super) async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<usize> {
        let large = match &mut self.large {
            Some(large) => large,
            None => {
                let len = self.claimed_len() + FRAME_PREFIX_LEN;
                if self.small.len() < READ_CHUNK || len <= self.small.len() {
                    return self.read_small(stream).await;
                }
                let small = std::mem::take(&mut self.small);
                self.large.insert(Large::begin(&small, len))
            }
        };
        let read = stream.read(large.rest()).await?;
        large.filled += read;
        Ok(read)
    }

    async fn read_small(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        // Polled, not tried: a read that fills less than the buffer has emptied the socket, and the
        // stream remembers that instead of asking again.
        poll_fn(|cx| {
            ARRIVALS.with_borrow_mut(|buffer| {
                let mut arriving = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut arriving))?;
                self.small.extend_from_slice(arriving.filled());
                Poll::Ready(Ok(arriving.filled().len()))
            })
        })
        .await
    }

    /// All that has come in and was not taken.
    pub(super) fn received(&self) -> &[u8] {
        match &self.large {
            Some(large) => large.received(),
            None => &self.small,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.received().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the frame that is coming in, as its first bytes claim; 0 while that is unknown.
    pub(super) fn claimed_len(&self) -> usize {
        self.received()
            .first_chunk::<FRAME_PREFIX_LEN>()
            .and_then(|prefix| usize::try_from(i32::from_be_bytes(*prefix)).ok())
            .unwrap_or(0)
    }

    /// Takes the next whole frame, without its length; `None` when more bytes must be read first.
    ///
    /// # Errors
    /// The length is refused as soon as its four bytes are there.
    pub(super) fn take_frame(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        if let Some(large) = self.large.take_if(|large| large.filled == large.len) {
            return Ok(Some(Bytes::from(large.memory).split_off(FRAME_PREFIX_LEN)));
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let frame = whole_frame(&mut self.small, max);
        if self.small.is_empty() {
            // Next to nothing between requests.
            self.small = BytesMut::new();
        }
        frame
    }
}

/// Memory for more of a frame of `len` bytes than was received, which it begins with.
fn memory_for(received: &[u8], len: usize) -> Buffer {
    let mut memory = Buffers::of_process().take(room(received.len(), len));
    if let Some(begin) = memory.as_mut().get_mut(..received.len()) {
        begin.copy_from_slice(received);
    }
    memory
}

/// Bytes to have memory for, when `received` of a frame of `len` are there: few steps, since each
/// copies. Never more than [`FIRST_STEPS`] times what was received up to a mebibyte, and twice beyond.
fn room(received: usize, len: usize) -> usize {
    let steps = match received {
        0..MIB => (received * FIRST_STEPS).min(MIB),
        _ => received * 2,
    };
    steps.min(len).max(received)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 100 * MIB;

    #[test]
    fn memory_follows_what_was_received() {
        for (received, len, expect) in [
            (READ_CHUNK, 20_000, 20_000),
            (READ_CHUNK, 900_000, FIRST_STEPS * READ_CHUNK),
            (FIRST_STEPS * READ_CHUNK, 900_000, 900_000),
            (FIRST_STEPS * READ_CHUNK, 100 * MIB, MIB),
            (MIB, 100 * MIB, 2 * MIB),
            (64 * MIB, 100 * MIB, 100 * MIB),
        ] {
            assert_eq!(room(received, len), expect, "{received} of {len}");
        }
    }

    /// A socket that has so many bytes at a time.
    struct Socket {
        bytes: Vec<u8>,
        at: usize,
        most: usize,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let len = buffer
                .remaining()
                .min(self.most)
                .min(self.bytes.len() - self.at);
            buffer.put_slice(&self.bytes[self.at..self.at + len]);
            self.at += len;
            Poll::Ready(Ok(()))
        }
    }

    fn frame(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + seed) as u8).collect()
    }

    /// All frames that come out of `frames` written one after the other.
    fn read_all(frames: &[Vec<u8>], most: usize) -> Vec<Bytes> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(i32::try_from(frame.len()).unwrap().to_be_bytes());
            bytes.extend(frame);
        }
        let mut socket = Socket { bytes, at: 0, most };
        let mut input = Input::default();
        let mut taken = Vec::new();
        loop {
            while let Some(frame) = input.take_frame(MAX).unwrap() {
                taken.push(frame);
            }
            let read = futures::executor::block_on(input.read(&mut socket)).unwrap();
            if read == 0 {
                assert!(input.is_empty(), "{} bytes are left", input.len());
                return taken;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_come_out_as_they_went_in(
            lens in prop::collection::vec(prop_oneof![1usize..300, 1usize..70_000, 15_000usize..18_000, 1usize..3_000_000], 1..6),
            most in prop_oneof![1_000usize..20_000, 100_000usize..2_000_000],
        ) {
            let frames: Vec<Vec<u8>> =
                lens.iter().enumerate().map(|(seed, len)| frame(*len, seed)).collect();
            prop_assert!(read_all(&frames, most) == frames);
        }
    }

    #[test]
    fn a_length_that_is_no_length_is_refused_before_there_is_memory_for_it() {
        for claimed in [0, -1, i32::try_from(MAX).unwrap() + 1] {
            let mut socket = Socket {
                bytes: claimed.to_be_bytes().into(),
                at: 0,
                most: 4,
            };
            let mut input = Input::default();
            futures::executor::block_on(input.read(&mut socket)).unwrap();
            assert!(input.take_frame(MAX).is_err());
        }
    }
}
