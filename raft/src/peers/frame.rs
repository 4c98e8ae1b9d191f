//! Frames: what travels on a connection once both ends have proved who they are.
//!
//! ```text
//! u32 length of the rest | u32 length of head | u32 CRC-32C of kind, call and head | u8 kind | u64 call | head | tail
//! ```
//! Big endian. The head is small and ours, the tail is bytes that lie about already (record batches, which bear a checksum of
//! their own) and are written from where they lie. The version of all this is settled in the handshake.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use klamm_storage::Buffers;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::network::Room;

/// Bytes of the length that starts a frame.
const LENGTH_LEN: usize = 4;
/// Bytes between the length and the head.
const FIXED_LEN: usize = 4 + 4 + 1 + 8;
/// Slices handed to one vectored write.
const MAX_SLICES: usize = 64;
/// Frames taken from the queue for one round of writes.
const MAX_FRAMES: usize = 256;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// "Do you hear me?", from the one who dialled.
    Ping,
    /// The answer to it.
    Pong,
    /// A call of a Raft group.
    Raft,
    /// A call to the other node's [`super::PeerService`].
    Service,
    /// The answer to either call.
    Answer,
    /// Why there is no answer, in words.
    Failure,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Ping => 1,
            Kind::Pong => 2,
            Kind::Raft => 3,
            Kind::Service => 4,
            Kind::Answer => 5,
            Kind::Failure => 6,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        let kinds = [
            Kind::Ping,
            Kind::Pong,
            Kind::Raft,
            Kind::Service,
            Kind::Answer,
            Kind::Failure,
        ];
        kinds.into_iter().find(|kind| kind.code() == code)
    }
}

/// A frame that came in.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// Which call this is, or answers.
    pub(super) call: u64,
    pub(super) head: Bytes,
    pub(super) tail: Bytes,
}

impl Frame {
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// What the head of a pong says: nothing, of a node that has room, or this.
const FULL: u8 = 1;

/// The answer to a ping.
pub(super) fn pong(call: u64, full: bool) -> Outgoing {
    let head: &[u8] = if full { &[FULL] } else { &[] };
    Outgoing::new(Kind::Pong, call, head, Vec::new()).expect("a head of one byte is short")
}

/// Whether a pong says that its node's disk is full.
pub(super) fn is_full(pong: &Frame) -> bool {
    pong.head.first().is_some_and(|flags| flags & FULL != 0)
}

/// A frame to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    start: Bytes,
    tail: Vec<Bytes>,
    /// Held until it is written, even if nobody waits for the answer any more.
    room: Room,
}

impl Outgoing {
    /// # Errors
    /// `InvalidInput` when the frame is longer than 32 bits can say.
    pub(super) fn new(
        kind: Kind,
        call: u64,
        head: &[u8],
        tail: Vec<Bytes>,
    ) -> io::Result<Outgoing> {
        let tail_len: usize = tail.iter().map(Bytes::len).sum();
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "frame of over 4 GiB");
        let length = u32::try_from(FIXED_LEN + head.len() + tail_len).map_err(too_long)?;
        let head_len = u32::try_from(head.len()).map_err(too_long)?;
        let mut start = BytesMut::with_capacity(LENGTH_LEN + FIXED_LEN + head.len());
        start.put_u32(length);
        start.put_u32(head_len);
        start.put_u32(checksum(kind.code(), call, head));
        start.put_u8(kind.code());
        start.put_u64(call);
        start.put_slice(head);
        Ok(Outgoing {
            start: start.freeze(),
            tail,
            room: Room::default(),
        })
    }

    pub(super) fn holding(self, room: Room) -> Outgoing {
        Outgoing { room, ..self }
    }

    /// A frame that consists of its kind and call only.
    pub(super) fn bare(kind: Kind, call: u64) -> Outgoing {
        Outgoing::new(kind, call, &[], Vec::new()).expect("an empty head is short")
    }
}

fn checksum(kind: u8, call: u64, head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[kind]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &call.to_be_bytes()), head)
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads one frame of at most `max` bytes, into memory of its own: who keeps a part of it keeps
/// nothing of its neighbours.
///
/// # Errors
/// `InvalidData` for a frame that is too long, inconsistent, of unknown kind or damaged.
pub(super) async fn read_frame<R>(reader: &mut R, max: usize) -> io::Result<Frame>
where
    R: AsyncRead + Unpin,
{
    let length = usize::try_from(reader.read_u32().await?).unwrap_or(usize::MAX);
    if length < FIXED_LEN || length > max {
        return Err(damaged(format!(
            "frame of {length} bytes, between {FIXED_LEN} and {max} are allowed"
        )));
    }
    let mut buffer = Buffers::of_process().take(length);
    reader.read_exact(buffer.as_mut()).await?;
    let mut rest = Bytes::from(buffer);
    let head_len = usize::try_from(rest.get_u32()).unwrap_or(usize::MAX);
    let crc = rest.get_u32();
    let code = rest.get_u8();
    let call = rest.get_u64();
    if head_len > rest.len() {
        return Err(damaged("frame whose head is longer than the frame"));
    }
    let head = rest.split_to(head_len);
    if checksum(code, call, &head) != crc {
        return Err(damaged("frame with a wrong checksum"));
    }
    let kind = Kind::from_code(code).ok_or_else(|| damaged(format!("frame of kind {code}")))?;
    Ok(Frame {
        kind,
        call,
        head,
        tail: rest,
    })
}

/// Writes what is queued, as much as there is in one go, until the queue's senders are gone.
/// `wrote` hears of the frames and bytes of each round.
///
/// # Errors
/// When a write fails, or makes no progress for `stall`.
pub(super) async fn write_frames<W>(
    writer: &mut W,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    stall: Duration,
    wrote: impl Fn(usize, usize),
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut frames = Vec::new();
    let mut slices: Vec<Bytes> = Vec::new();
    let mut rooms = Vec::new();
    while queue.recv_many(&mut frames, MAX_FRAMES).await > 0 {
        let count = frames.len();
        for frame in frames.drain(..) {
            rooms.push(frame.room);
            slices.push(frame.start);
            slices.extend(frame.tail.into_iter().filter(|part| !part.is_empty()));
        }
        wrote(count, slices.iter().map(Bytes::len).sum());
        let mut done = 0;
        while let Some(rest) = slices.get(done..).filter(|rest| !rest.is_empty()) {
            let written = {
                let parts: Vec<IoSlice<'_>> = rest
                    .iter()
                    .take(MAX_SLICES)
                    .map(|part| IoSlice::new(part))
                    .collect();
                tokio::time::timeout(stall, writer.write_vectored(&parts)).await??
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += advance(slices.get_mut(done..).unwrap_or_default(), written);
        }
        slices.clear();
        rooms.clear();
    }
    Ok(())
}

/// Takes `written` bytes off the front; how many slices that finishes.
fn advance(slices: &mut [Bytes], mut written: usize) -> usize {
    let mut finished = 0;
    for slice in slices {
        if slice.len() > written {
            slice.advance(written);
            break;
        }
        written -= slice.len();
        finished += 1;
    }
    finished
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn write(frames: Vec<Outgoing>) -> Vec<u8> {
        let (sender, mut queue) = mpsc::unbounded_channel();
        frames
            .into_iter()
            .for_each(|frame| sender.send(frame).unwrap());
        drop(sender);
        let mut out = Vec::new();
        let writing = write_frames(&mut out, &mut queue, Duration::from_secs(1), |_, _| {});
        runtime().block_on(writing).unwrap();
        out
    }

    fn read(mut bytes: &[u8], max: usize) -> io::Result<Frame> {
        runtime().block_on(read_frame(&mut bytes, max))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn reads_what_was_written(
            call: u64,
            head in proptest::collection::vec(any::<u8>(), 0..100),
            tail in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..200),
        ) {
            let parts = tail.iter().cloned().map(Bytes::from).collect();
            let frame = Outgoing::new(Kind::Raft, call, &head, parts).unwrap();
            let bytes = write(vec![frame, Outgoing::bare(Kind::Ping, 7)]);
            let read = read(&bytes, 1 << 20).unwrap();
            prop_assert_eq!(read.kind, Kind::Raft);
            prop_assert_eq!(read.call, call);
            prop_assert_eq!(&read.head[..], &head[..]);
            prop_assert_eq!(&read.tail[..], &tail.concat()[..]);
        }

        #[test]
        fn refuses_garbage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes, 1 << 20).is_err());
        }

        #[test]
        fn notices_a_flipped_bit_of_the_head(at in 4usize..30, bit in 0u8..8) {
            let frame = Outgoing::new(Kind::Raft, 9, b"thirteen bytes", Vec::new()).unwrap();
            let mut bytes = write(vec![frame]);
            bytes[at] ^= 1 << bit;
            prop_assert!(read(&bytes, 1 << 20).is_err());
        }
    }

    #[test]
    fn refuses_a_frame_longer_than_allowed_before_reading_it() {
        let error = read(&0x7fff_ffffu32.to_be_bytes(), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
