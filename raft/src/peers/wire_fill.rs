//! Calls that fill a replica, and their answers, as bytes.
//!
//! ```text
//! request  u64 group | u8 5 | u8 what | u32 CRC-32C of the tail | by what:
//!   1 begin    vote                                            tail: the manifest
//!   2 data     u64 number | u32 segment, u64 position, i64 offset   tail: whole batches
//!   3 end      vote | u64 number
//! answer   u8 4 | u8 0 over, vote | 1 wanted: u64 number, u64 bytes there, u8 more? [u32 segment, u64 position, i64 offset]
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use klamm_storage::FillPlace;

use super::wire::{get_flag, get_vote, invalid, put_vote};
use crate::fill::{FillAnswer, FillRequest};

mod what {
    pub(super) const BEGIN: u8 = 1;
    pub(super) const DATA: u8 = 2;
    pub(super) const END: u8 = 3;
}

/// Puts a request into the head, behind its type; its tail.
pub(super) fn put_request(head: &mut BytesMut, request: &FillRequest) -> Bytes {
    let (code, tail) = match request {
        FillRequest::Begin { manifest, .. } => (what::BEGIN, manifest.clone()),
        FillRequest::Data { bytes, .. } => (what::DATA, bytes.clone()),
        FillRequest::End { .. } => (what::END, Bytes::new()),
    };
    head.put_u8(code);
    // Kafka's CRCs leave out the first bytes of each batch.
    head.put_u32(crc32c::crc32c(&tail));
    match request {
        FillRequest::Begin { vote, .. } => put_vote(head, vote),
        FillRequest::Data { number, at, .. } => {
            head.put_u64(*number);
            put_place(head, *at);
        }
        FillRequest::End { vote, number } => {
            put_vote(head, vote);
            head.put_u64(*number);
        }
    }
    tail
}

/// Reads what [`put_request`] wrote.
///
/// # Errors
/// `InvalidData`, also for a damaged tail.
pub(super) fn get_request(input: &mut Bytes, tail: Bytes) -> io::Result<FillRequest> {
    let code = input.try_get_u8().map_err(invalid)?;
    if input.try_get_u32().map_err(invalid)? != crc32c::crc32c(&tail) {
        return Err(invalid("a fill with a wrong checksum"));
    }
    match code {
        what::BEGIN => Ok(FillRequest::Begin {
            vote: get_vote(input)?,
            manifest: tail,
        }),
        what::DATA => Ok(FillRequest::Data {
            number: input.try_get_u64().map_err(invalid)?,
            at: get_place(input)?,
            bytes: tail,
        }),
        what::END if tail.is_empty() => Ok(FillRequest::End {
            vote: get_vote(input)?,
            number: input.try_get_u64().map_err(invalid)?,
        }),
        other => Err(invalid(format!("call {other} of a fill"))),
    }
}

/// Puts an answer behind its type.
pub(super) fn put_answer(head: &mut BytesMut, answer: &FillAnswer) {
    match answer {
        FillAnswer::Over(vote) => {
            head.put_u8(0);
            put_vote(head, vote);
        }
        FillAnswer::Wanted {
            number,
            place,
            there,
        } => {
            head.put_u8(1);
            head.put_u64(*number);
            head.put_u64(*there);
            head.put_u8(u8::from(place.is_some()));
            if let Some(place) = place {
                put_place(head, *place);
            }
        }
    }
}

/// Reads what [`put_answer`] wrote.
///
/// # Errors
/// `InvalidData`.
pub(super) fn get_answer(input: &mut Bytes) -> io::Result<FillAnswer> {
    match input.try_get_u8().map_err(invalid)? {
        0 => Ok(FillAnswer::Over(get_vote(input)?)),
        1 => {
            let number = input.try_get_u64().map_err(invalid)?;
            let there = input.try_get_u64().map_err(invalid)?;
            let place = match get_flag(input)? {
                true => Some(get_place(input)?),
                false => None,
            };
            Ok(FillAnswer::Wanted {
                number,
                place,
                there,
            })
        }
        other => Err(invalid(format!("answer {other} of a fill"))),
    }
}

fn put_place(out: &mut BytesMut, place: FillPlace) {
    out.put_u32(place.segment);
    out.put_u64(place.position);
    out.put_i64(place.offset);
}

fn get_place(input: &mut Bytes) -> io::Result<FillPlace> {
    Ok(FillPlace {
        segment: input.try_get_u32().map_err(invalid)?,
        position: input.try_get_u64().map_err(invalid)?,
        offset: input.try_get_i64().map_err(invalid)?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use klamm_storage::Vote;
    use proptest::prelude::*;

    use super::*;
    use crate::types::raft_vote;

    prop_compose! {
        fn any_place()(segment: u32, position: u64, offset: i64) -> FillPlace {
            FillPlace { segment, position, offset }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn calls_round_trip(
            (kind, number, at) in (0..3u8, any::<u64>(), any_place()),
            (term, node, committed) in any::<(u64, u64, bool)>(),
            tail in proptest::collection::vec(any::<u8>(), 0..50), flip in 0..8u32,
        ) {
            let vote = raft_vote(Vote { term, node, committed });
            let bytes = Bytes::from(tail);
            let request = match kind {
                0 => FillRequest::Begin { vote, manifest: bytes },
                1 => FillRequest::Data { number, at, bytes },
                _ => FillRequest::End { vote, number },
            };
            let mut head = BytesMut::new();
            let tail = put_request(&mut head, &request);
            let head = head.freeze();
            let back = get_request(&mut head.clone(), tail.clone()).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{request:?}"));
            for end in 0..head.len() {
                prop_assert!(get_request(&mut head.slice(..end), tail.clone()).is_err());
            }
            if !tail.is_empty() {
                let mut flipped = tail.to_vec();
                flipped[tail.len() / 2] ^= 1 << flip;
                prop_assert!(get_request(&mut head.clone(), flipped.into()).is_err());
            }
        }

        #[test]
        fn answers_round_trip(
            (over, number, there) in any::<(bool, u64, u64)>(),
            place in proptest::option::of(any_place()),
        ) {
            let vote = raft_vote(Vote { term: number, node: there, committed: over });
            let answer = match over {
                true => FillAnswer::Over(vote),
                false => FillAnswer::Wanted { number, place, there },
            };
            let mut head = BytesMut::new();
            put_answer(&mut head, &answer);
            let head = head.freeze();
            let back = get_answer(&mut head.clone()).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{answer:?}"));
            for end in 0..head.len() {
                prop_assert!(get_answer(&mut head.slice(..end)).is_err());
            }
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = get_request(&mut Bytes::from(bytes.clone()), Bytes::new());
            let _ = get_answer(&mut Bytes::from(bytes));
        }
    }
}
