#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use klamm_records::{BatchBuilder, EntryId, NewRecord};
use proptest::prelude::*;

use super::*;
use crate::membership::GroupMembership;

fn batch(offset: i64, epoch: i32, len: usize) -> Batch {
    let mut builder = BatchBuilder::new().base_offset(offset).leader_epoch(epoch);
    let value = vec![b'v'; len];
    let record = NewRecord {
        value: Some(&value),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let bytes = builder.build().unwrap();
    Batch {
        header: BatchHeader::parse(&bytes).unwrap(),
        bytes,
    }
}

fn ids() -> impl Strategy<Value = Option<LogId>> {
    proptest::option::of((0..1_000u64, 0..1_000u64))
        .prop_map(|id| id.map(|(term, index)| log_id(EntryId { term, index })))
}

fn votes() -> impl Strategy<Value = RaftVote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| {
        raft_vote(Vote {
            term,
            node,
            committed,
        })
    })
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..4u8, 0..20)
}

fn entries(kinds: &[u8], first: u64) -> Vec<LogEntry> {
    let entry = |(at, kind): (usize, &u8)| {
        let term = 3 + at as u64 / 4;
        let id = log_id(EntryId {
            term,
            index: first + at as u64,
        });
        let payload = match kind {
            0 => Payload::Blank,
            1 => Payload::Command(Bytes::from(vec![7; at])),
            2 => Payload::Membership(
                GroupMembership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, ())])).unwrap(),
            ),
            _ => Payload::Batch(batch(at as i64, term as i32, at * 10)),
        };
        LogEntry { id, payload }
    };
    kinds.iter().enumerate().map(entry).collect()
}

fn join(tail: Vec<Bytes>) -> Bytes {
    tail.concat().into()
}

const ADDRESS: Address = Address {
    group: GroupId(9),
    from: NodeId(1 << 32),
    to: NodeId(2 << 32 | 7),
};

fn pass(request: &Request) -> io::Result<(Address, Request)> {
    let (head, tail) = encode_request(ADDRESS, request)?;
    decode_request(head.freeze(), join(tail))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn appends_arrive_as_they_were(vote in votes(), prev in ids(), commit in ids(), kinds in payloads()) {
        let first = prev.map_or(0, |prev| prev.index + 1);
        let request = Request::Append(AppendEntriesRequest {
            vote,
            prev_log_id: prev,
            entries: entries(&kinds, first),
            leader_commit: commit,
        });
        let (address, read) = pass(&request).unwrap();
        prop_assert_eq!(address, ADDRESS);
        prop_assert_eq!(format!("{read:?}"), format!("{request:?}"));
    }

    #[test]
    fn other_calls_arrive_as_they_were(vote in votes(), last in ids(), transfer: bool, to: u64) {
        let mut ballot = VoteRequest::new(vote, last);
        ballot.leadership_transfer = transfer;
        let calls = [
            Request::Vote(ballot.clone()),
            Request::PreVote(ballot),
            Request::TransferLeader(TransferLeaderRequest::new(vote, to, last)),
        ];
        for call in calls {
            prop_assert_eq!(format!("{:?}", pass(&call).unwrap().1), format!("{call:?}"));
        }
    }

    #[test]
    fn answers_arrive_as_they_were(vote in votes(), id in ids(), other in ids(), granted: bool) {
        let answers = [
            Response::Append(AppendEntriesResponse::Success),
            Response::Append(AppendEntriesResponse::PartialSuccess(id)),
            Response::Append(AppendEntriesResponse::Conflict),
            Response::Append(AppendEntriesResponse::HigherVote(vote)),
            Response::Vote(VoteResponse::new(vote, id, granted)),
            Response::TransferLeader(Ok(())),
            Response::TransferLeader(Err(TransferLeaderError::VoteChanged { expected: vote, actual: vote })),
            Response::TransferLeader(Err(TransferLeaderError::LogNotFlushed { expected: id, actual: other })),
        ];
        for answer in answers {
            let head = encode_response(&answer).freeze();
            for end in 0..head.len() {
                prop_assert!(decode_response(head.slice(..end)).is_err());
            }
            prop_assert_eq!(format!("{:?}", decode_response(head).unwrap()), format!("{answer:?}"));
        }
    }

    #[test]
    fn foreign_bytes_are_refused_without_panic(
        head in proptest::collection::vec(any::<u8>(), 0..120),
        tail in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = decode_request(head.clone().into(), tail.into());
        let _ = decode_response(head.into());
    }

    #[test]
    fn damage_in_a_batch_is_noticed(at in 16usize..90, bit in 0u8..8) {
        let entry = LogEntry {
            id: log_id(EntryId { term: 4, index: 0 }),
            payload: Payload::Batch(batch(0, 4, 40)),
        };
        let request = Request::Append(AppendEntriesRequest {
            vote: raft_vote(Vote { term: 4, node: 1, committed: true }),
            prev_log_id: None,
            entries: vec![entry],
            leader_commit: None,
        });
        let (head, tail) = encode_request(ADDRESS, &request).unwrap();
        let mut tail = join(tail).to_vec();
        tail[at] ^= 1 << bit;
        prop_assert!(decode_request(head.freeze(), tail.into()).is_err());
    }
}

#[test]
fn a_batch_travels_as_stamped() {
    let stamped = batch(77, 5, 10);
    let mut as_sent = stamped.bytes.to_vec();
    let header = stamped.header;
    as_sent[..STAMP_LEN].copy_from_slice(&header.stamp(0, -1));
    let unstamped = Batch {
        header,
        bytes: as_sent.into(),
    };
    let mut tail = Vec::new();
    put_batch(&mut tail, &unstamped).unwrap();
    assert_eq!(join(tail), stamped.bytes);
    let mut tail = Vec::new();
    put_batch(&mut tail, &stamped).unwrap();
    assert_eq!(tail[0].as_ptr(), stamped.bytes.as_ptr(), "not copied");
}
