//! Length-prefixed frames, and a guess at who is speaking before the first frame is complete.
//!
//! Pure functions over bytes that were read; no I/O. Memory follows what was received, never what
//! a length claims.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the length that precedes every frame.
pub const FRAME_PREFIX_LEN: usize = 4;

/// Room made for the rest of a frame when little of it is there yet.
const MIN_RESERVE: usize = 64 * 1024;

/// Why a connection's bytes are not frames. The only answer is to close it (behaviour 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No request or response is empty, so a length of zero is as wrong as a negative one.
    #[error("frame length {0} is not positive")]
    NotPositive(i32),
    /// The claim exceeds `socket.request.max.bytes` (or the limit before authentication).
    #[error("frame length {len} exceeds the limit of {max} bytes")]
    TooLarge {
        /// Length claimed.
        len: usize,
        /// Limit in force.
        max: usize,
    },
}

/// Takes the next whole frame, without its length, off the front of `buf`; `None` when more bytes
/// must be read first.
///
/// The frame shares `buf`'s allocation: nothing is copied, and whoever keeps a small slice of it
/// keeps that allocation. No room is made for what has to come: see [`next_frame`].
///
/// # Errors
/// The length is refused as soon as its four bytes are there.
pub fn whole_frame(buf: &mut BytesMut, max: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(len) = frame_len(buf, max)?.filter(|len| buf.len() >= FRAME_PREFIX_LEN + len) else {
        return Ok(None);
    };
    buf.advance(FRAME_PREFIX_LEN);
    Ok(Some(buf.split_to(len).freeze()))
}

/// As [`whole_frame`], for a reader that reads into what room there is: when a frame is incomplete,
/// room for more of it is reserved, at most as much as has been received so far (or 64 KiB), so a
/// lie about the length costs its teller.
///
/// # Errors
/// The length is refused as soon as its four bytes are there.
pub fn next_frame(buf: &mut BytesMut, max: usize) -> Result<Option<Bytes>, FrameError> {
    let frame = whole_frame(buf, max)?;
    if frame.is_none()
        && let Some(len) = frame_len(buf, max)?
    {
        let received = buf.len() - FRAME_PREFIX_LEN;
        buf.reserve((len - received).min(received.max(MIN_RESERVE)));
    }
    Ok(frame)
}

/// Length of the frame that begins `buf`, without its prefix; `None` before the prefix is there.
fn frame_len(buf: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buf.first_chunk::<FRAME_PREFIX_LEN>() else {
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*prefix);
    match usize::try_from(claimed) {
        Ok(len) if len > max => Err(FrameError::TooLarge { len, max }),
        Ok(len) if len > 0 => Ok(Some(len)),
        _ => Err(FrameError::NotPositive(claimed)),
    }
}

/// What the first bytes of a connection look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// A plausible frame length.
    Kafka,
    /// An HTTP request line or the HTTP/2 preface.
    Http,
    /// A TLS handshake record.
    Tls,
    /// None of these: close.
    Other,
}

/// Guesses the protocol from the first four bytes of a connection; `None` while fewer are there.
///
/// `max_frame_bytes` is the largest frame the listener would take: a larger first length is not
/// Kafka. HTTP methods and TLS records read as lengths of 369 MB and more, so the default limit
/// already tells them apart and this only gives the refusal a name.
pub fn sniff(first: &[u8], max_frame_bytes: usize) -> Option<Sniffed> {
    let first: &[u8; FRAME_PREFIX_LEN] = first.first_chunk()?;
    let sniffed = match first {
        b"GET " | b"HEAD" | b"POST" | b"PUT " | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC"
        | b"PRI " => Sniffed::Http,
        [0x16, 0x03, ..] => Sniffed::Tls,
        _ => match usize::try_from(i32::from_be_bytes(*first)) {
            Ok(len) if len > 0 && len <= max_frame_bytes => Sniffed::Kafka,
            _ => Sniffed::Other,
        },
    };
    Some(sniffed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(bodies: &[&[u8]]) -> BytesMut {
        let mut buf = BytesMut::new();
        for body in bodies {
            buf.extend_from_slice(&u32::try_from(body.len()).expect("small").to_be_bytes());
            buf.extend_from_slice(body);
        }
        buf
    }

    /// Behaviour 1.
    #[test]
    fn lengths_that_are_not_positive_or_too_large_are_errors() {
        for (prefix, max, expect) in [
            (-1_i32, 100, FrameError::NotPositive(-1)),
            (0, 100, FrameError::NotPositive(0)),
            (i32::MIN, 100, FrameError::NotPositive(i32::MIN)),
            (101, 100, FrameError::TooLarge { len: 101, max: 100 }),
            (
                i32::MAX,
                100,
                FrameError::TooLarge {
                    len: 0x7fff_ffff,
                    max: 100,
                },
            ),
        ] {
            let mut buf = BytesMut::from(&prefix.to_be_bytes()[..]);
            assert_eq!(next_frame(&mut buf, max), Err(expect));
        }
    }

    #[test]
    fn a_frame_of_exactly_the_limit_passes() {
        let mut buf = framed(&[&[7; 100]]);
        assert_eq!(
            next_frame(&mut buf, 100),
            Ok(Some(Bytes::from_static(&[7; 100])))
        );
        assert_eq!(next_frame(&mut buf, 100), Ok(None));
    }

    #[test]
    fn one_byte_at_a_time_and_two_at_once_give_the_same_frames() {
        let wire = framed(&[b"one", b"frames"]);
        let mut buf = BytesMut::new();
        let mut frames = Vec::new();
        for &byte in &wire {
            buf.extend_from_slice(&[byte]);
            frames.extend(next_frame(&mut buf, 100).expect("valid"));
        }
        assert_eq!(frames, [&b"one"[..], b"frames"]);

        let mut buf = wire;
        assert_eq!(
            next_frame(&mut buf, 100),
            Ok(Some(Bytes::from_static(b"one")))
        );
        assert_eq!(
            next_frame(&mut buf, 100),
            Ok(Some(Bytes::from_static(b"frames")))
        );
        assert!(buf.is_empty());
    }

    #[test]
    fn memory_follows_the_bytes_received_not_the_length_claimed() {
        let mut buf = BytesMut::from(&(100_i32 << 20).to_be_bytes()[..]);
        assert_eq!(next_frame(&mut buf, 100 << 20), Ok(None));
        assert!(buf.capacity() <= 2 * MIN_RESERVE, "{}", buf.capacity());
        buf.extend_from_slice(&vec![0; 1 << 20]);
        assert_eq!(next_frame(&mut buf, 100 << 20), Ok(None));
        assert!(buf.capacity() <= 3 << 20, "{}", buf.capacity());
    }

    #[test]
    fn protocols_are_told_apart_by_four_bytes() {
        for (first, expect) in [
            (&b"GET"[..], None),
            (b"GET / HTTP/1.1", Some(Sniffed::Http)),
            (b"PRI * HTTP/2.0", Some(Sniffed::Http)),
            (&[0x16, 0x03, 0x01, 0x02, 0x00], Some(Sniffed::Tls)),
            (&[0, 0, 0, 20, 0, 18], Some(Sniffed::Kafka)),
            (&[6, 0x40, 0, 0], Some(Sniffed::Kafka)),
            (&[6, 0x40, 0, 1], Some(Sniffed::Other)),
            (&[0, 0, 0, 0], Some(Sniffed::Other)),
            (&[0xff, 0xff, 0xff, 0xff], Some(Sniffed::Other)),
            (b"SSH-2.0", Some(Sniffed::Other)),
        ] {
            assert_eq!(sniff(first, 100 << 20), expect, "{first:?}");
        }
    }
}
