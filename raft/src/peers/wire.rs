//! Raft calls and their answers as bytes.
//!
//! ```text
//! request  u64 group | u64 from | u64 to (replicas) | u8 type | by type:
//!   1 append    vote | prev: id? | commit: id? | u64 first index | u32 entries | per entry: u64 term, u8 kind, u32 length in tail
//!   2 vote, 3 pre-vote    vote | last: id? | u8 transfer of leadership
//!   4 transfer  vote | u64 to | last: id?
//!   5 fill      see wire_fill.rs
//! answer   u8 type | by type:
//!   1 append    u8 0 success | 1 partial, id? | 2 conflict | 3 higher vote, vote
//!   2 vote      vote | u8 granted | last: id?
//!   4 fill      see wire_fill.rs
//!   3 transfer  u8 0 accepted | 1 vote changed, expected vote, actual vote | 2 not flushed, expected id?, actual id?
//! vote = u64 term, u64 node, u8 committed; id? = u8 0, or u8 1, u64 term, u64 index
//! ```
//! Payloads lie in the tail, one behind the other. A batch goes as stamped by the leader; the follower's log computes the same
//! stamp and compares.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use klamm_records::plant::{self, Bug};
use klamm_records::{BatchHeader, GroupId, MAGIC_V2, STAMP_LEN, batch_crc_ok};
use klamm_storage::{Batch, Vote};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::wire_fill;
use crate::NodeId;
use crate::membership;
use crate::network::{Request, Response};
use crate::types::{
    LogEntry, LogId, Payload, RaftVote, TypeConfig, entry_id, log_id, raft_vote, stored_vote,
};

mod request {
    pub(super) const APPEND: u8 = 1;
    pub(super) const VOTE: u8 = 2;
    pub(super) const PRE_VOTE: u8 = 3;
    pub(super) const TRANSFER: u8 = 4;
    pub(super) const FILL: u8 = 5;
}

mod response {
    pub(super) const APPEND: u8 = 1;
    pub(super) const VOTE: u8 = 2;
    pub(super) const TRANSFER: u8 = 3;
    pub(super) const FILL: u8 = 4;
}

mod payload {
    pub(super) const BLANK: u8 = 1;
    pub(super) const MEMBERSHIP: u8 = 2;
    pub(super) const COMMAND: u8 = 3;
    pub(super) const BATCH: u8 = 4;
}

pub(super) fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// Bytes of payload that an entry carries.
pub(crate) fn entry_bytes(entry: &LogEntry) -> usize {
    match &entry.payload {
        Payload::Command(data) => data.len(),
        Payload::Batch(batch) => batch.bytes.len(),
        Payload::Blank | Payload::Membership(_) | Payload::Proposed(_) => 0,
    }
}

/// Between whom a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) group: GroupId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

/// Head and tail of a request.
///
/// # Errors
/// `InvalidInput` for an entry that no log can hand out.
pub(super) fn encode_request(
    address: Address,
    request: &Request,
) -> io::Result<(BytesMut, Vec<Bytes>)> {
    let mut head = BytesMut::with_capacity(112);
    let mut tail = Vec::new();
    head.put_u64(address.group.0);
    head.put_u64(address.from.0);
    head.put_u64(address.to.0);
    match request {
        Request::Append(append) => {
            head.put_u8(request::APPEND);
            put_vote(&mut head, &append.vote);
            put_id(&mut head, append.prev_log_id);
            put_id(&mut head, append.leader_commit);
            put_entries(&mut head, &mut tail, &append.entries)?;
        }
        Request::Vote(vote) => put_vote_request(&mut head, request::VOTE, vote),
        Request::PreVote(vote) => put_vote_request(&mut head, request::PRE_VOTE, vote),
        Request::TransferLeader(transfer) => {
            head.put_u8(request::TRANSFER);
            put_vote(&mut head, transfer.from_leader());
            head.put_u64(*transfer.to_node_id());
            put_id(&mut head, transfer.last_log_id().copied());
        }
        Request::Fill(fill) => {
            head.put_u8(request::FILL);
            tail.push(wire_fill::put_request(&mut head, fill));
        }
    }
    Ok((head, tail))
}

fn put_entries(head: &mut BytesMut, tail: &mut Vec<Bytes>, entries: &[LogEntry]) -> io::Result<()> {
    let too_many = |_| io::Error::new(io::ErrorKind::InvalidInput, "more than 32 bits can count");
    head.put_u64(entries.first().map_or(0, |entry| entry.id.index));
    head.put_u32(u32::try_from(entries.len()).map_err(too_many)?);
    for entry in entries {
        let (kind, len) = match &entry.payload {
            Payload::Blank => (payload::BLANK, 0),
            Payload::Membership(membership) => {
                let bytes = membership::encode(membership);
                let len = bytes.len();
                tail.push(bytes);
                (payload::MEMBERSHIP, len)
            }
            Payload::Command(data) => {
                tail.push(data.clone());
                (payload::COMMAND, data.len())
            }
            Payload::Batch(batch) => {
                put_batch(tail, batch)?;
                (payload::BATCH, batch.bytes.len())
            }
            Payload::Proposed(_) => {
                let cause = format!("entry {} is not in the log yet", entry.id);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
            }
        };
        head.put_u64(entry.id.leader_id.term);
        head.put_u8(kind);
        head.put_u32(u32::try_from(len).map_err(too_many)?);
    }
    Ok(())
}

/// The batch as it lies in the segment. In memory its first bytes may still be the client's.
fn put_batch(tail: &mut Vec<Bytes>, batch: &Batch) -> io::Result<()> {
    let header = &batch.header;
    let stamp = header.stamp(header.base_offset, header.partition_leader_epoch);
    if batch.bytes.get(..STAMP_LEN) == Some(&stamp[..]) {
        tail.push(batch.bytes.clone());
        return Ok(());
    }
    if batch.bytes.len() < STAMP_LEN {
        let cause = "a batch without its bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
    }
    tail.push(Bytes::copy_from_slice(&stamp));
    tail.push(batch.bytes.slice(STAMP_LEN..));
    Ok(())
}

fn put_vote_request(head: &mut BytesMut, kind: u8, vote: &VoteRequest<TypeConfig>) {
    head.put_u8(kind);
    put_vote(head, &vote.vote);
    put_id(head, vote.last_log_id);
    head.put_u8(u8::from(vote.leadership_transfer));
}

/// Reads what [`encode_request`] wrote; checks the checksum of every batch.
///
/// # Errors
/// `InvalidData`.
pub(super) fn decode_request(mut head: Bytes, tail: Bytes) -> io::Result<(Address, Request)> {
    let input = &mut head;
    let address = Address {
        group: GroupId(input.try_get_u64().map_err(invalid)?),
        from: NodeId(input.try_get_u64().map_err(invalid)?),
        to: NodeId(input.try_get_u64().map_err(invalid)?),
    };
    let request = match input.try_get_u8().map_err(invalid)? {
        request::APPEND => Request::Append(get_append(input, tail)?),
        request::VOTE => Request::Vote(get_vote_request(input)?),
        request::PRE_VOTE => Request::PreVote(get_vote_request(input)?),
        request::TRANSFER => {
            let from = get_vote(input)?;
            let to = input.try_get_u64().map_err(invalid)?;
            Request::TransferLeader(TransferLeaderRequest::new(from, to, get_id(input)?))
        }
        request::FILL => Request::Fill(wire_fill::get_request(input, tail)?),
        other => return Err(invalid(format!("request of type {other}"))),
    };
    at_end(input)?;
    Ok((address, request))
}

fn at_end(input: &Bytes) -> io::Result<()> {
    if input.has_remaining() {
        return Err(invalid("more bytes than a message has"));
    }
    Ok(())
}

fn get_append(input: &mut Bytes, mut tail: Bytes) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let vote = get_vote(input)?;
    let prev_log_id = get_id(input)?;
    let leader_commit = get_id(input)?;
    let first = input.try_get_u64().map_err(invalid)?;
    let count = input.try_get_u32().map_err(invalid)?;
    // Grows with what is there, whatever the count says.
    let mut entries = Vec::new();
    for at in 0..u64::from(count) {
        let term = input.try_get_u64().map_err(invalid)?;
        let kind = input.try_get_u8().map_err(invalid)?;
        let len = input.try_get_u32().map_err(invalid)?;
        let len = usize::try_from(len).map_err(invalid)?;
        if len > tail.len() {
            return Err(invalid("an entry that is longer than its frame"));
        }
        let index = first.checked_add(at).ok_or_else(|| invalid("index"))?;
        let id = log_id(klamm_records::EntryId { term, index });
        let payload = get_payload(kind, tail.split_to(len), id)?;
        entries.push(LogEntry { id, payload });
    }
    at_end(&tail)?;
    let follows = |first: &LogEntry| match prev_log_id {
        Some(prev) => prev.index.checked_add(1) == Some(first.id.index),
        None => true,
    };
    if !entries.first().is_none_or(follows) {
        return Err(invalid("entries that do not follow the one before them"));
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

fn get_payload(kind: u8, bytes: Bytes, id: LogId) -> io::Result<Payload> {
    match kind {
        payload::BLANK if bytes.is_empty() => Ok(Payload::Blank),
        payload::MEMBERSHIP => Ok(Payload::Membership(membership::decode(&bytes)?)),
        payload::COMMAND => Ok(Payload::Command(bytes)),
        payload::BATCH => {
            let is_whole = || batch_crc_ok(&bytes) || plant::is(Bug::CatchUpUnchecked);
            let header = BatchHeader::parse(&bytes)
                .filter(|header| header.magic == MAGIC_V2)
                .filter(|header| header.total_len() == Some(bytes.len()) && is_whole())
                .ok_or_else(|| invalid(format!("entry {id}: a damaged batch")))?;
            if i64::try_from(id.leader_id.term) != Ok(i64::from(header.partition_leader_epoch)) {
                return Err(invalid(format!("entry {id}: a batch of another term")));
            }
            Ok(Payload::Batch(Batch { header, bytes }))
        }
        other => Err(invalid(format!("entry of kind {other}"))),
    }
}

fn get_vote_request(input: &mut Bytes) -> io::Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(get_vote(input)?, get_id(input)?);
    request.leadership_transfer = get_flag(input)?;
    Ok(request)
}

/// An answer, which has no tail.
pub(super) fn encode_response(answer: &Response) -> BytesMut {
    let mut head = BytesMut::with_capacity(64);
    match answer {
        Response::Append(append) => {
            head.put_u8(response::APPEND);
            match append {
                AppendEntriesResponse::Success => head.put_u8(0),
                AppendEntriesResponse::PartialSuccess(upto) => {
                    head.put_u8(1);
                    put_id(&mut head, *upto);
                }
                AppendEntriesResponse::Conflict => head.put_u8(2),
                AppendEntriesResponse::HigherVote(vote) => {
                    head.put_u8(3);
                    put_vote(&mut head, vote);
                }
            }
        }
        Response::Vote(vote) => {
            head.put_u8(response::VOTE);
            put_vote(&mut head, &vote.vote);
            head.put_u8(u8::from(vote.vote_granted));
            put_id(&mut head, vote.last_log_id);
        }
        Response::Fill(fill) => {
            head.put_u8(response::FILL);
            wire_fill::put_answer(&mut head, fill);
        }
        Response::TransferLeader(transfer) => {
            head.put_u8(response::TRANSFER);
            match transfer {
                Ok(()) => head.put_u8(0),
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    head.put_u8(1);
                    put_vote(&mut head, expected);
                    put_vote(&mut head, actual);
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    head.put_u8(2);
                    put_id(&mut head, *expected);
                    put_id(&mut head, *actual);
                }
            }
        }
    }
    head
}

/// Reads what [`encode_response`] wrote.
///
/// # Errors
/// `InvalidData`.
pub(super) fn decode_response(mut head: Bytes) -> io::Result<Response> {
    let input = &mut head;
    let answer = match input.try_get_u8().map_err(invalid)? {
        response::APPEND => Response::Append(match input.try_get_u8().map_err(invalid)? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(get_id(input)?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(get_vote(input)?),
            other => return Err(invalid(format!("append result {other}"))),
        }),
        response::VOTE => {
            let vote = get_vote(input)?;
            let granted = get_flag(input)?;
            Response::Vote(VoteResponse::new(vote, get_id(input)?, granted))
        }
        response::TRANSFER => {
            Response::TransferLeader(match input.try_get_u8().map_err(invalid)? {
                0 => Ok(()),
                1 => Err(TransferLeaderError::VoteChanged {
                    expected: get_vote(input)?,
                    actual: get_vote(input)?,
                }),
                2 => Err(TransferLeaderError::LogNotFlushed {
                    expected: get_id(input)?,
                    actual: get_id(input)?,
                }),
                other => return Err(invalid(format!("transfer result {other}"))),
            })
        }
        response::FILL => Response::Fill(wire_fill::get_answer(input)?),
        other => return Err(invalid(format!("answer of type {other}"))),
    };
    at_end(input)?;
    Ok(answer)
}

pub(super) fn put_vote(out: &mut BytesMut, vote: &RaftVote) {
    let vote = stored_vote(vote);
    out.put_u64(vote.term);
    out.put_u64(vote.node);
    out.put_u8(u8::from(vote.committed));
}

pub(super) fn get_vote(input: &mut Bytes) -> io::Result<RaftVote> {
    Ok(raft_vote(Vote {
        term: input.try_get_u64().map_err(invalid)?,
        node: input.try_get_u64().map_err(invalid)?,
        committed: get_flag(input)?,
    }))
}

fn put_id(out: &mut BytesMut, id: Option<LogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id.map(entry_id) {
        out.put_u64(id.term);
        out.put_u64(id.index);
    }
}

fn get_id(input: &mut Bytes) -> io::Result<Option<LogId>> {
    if !get_flag(input)? {
        return Ok(None);
    }
    let term = input.try_get_u64().map_err(invalid)?;
    let index = input.try_get_u64().map_err(invalid)?;
    Ok(Some(log_id(klamm_records::EntryId { term, index })))
}

pub(super) fn get_flag(input: &mut Bytes) -> io::Result<bool> {
    match input.try_get_u8().map_err(invalid)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(invalid(format!("flag {other}"))),
    }
}

#[cfg(test)]
#[path = "wire_test.rs"]
mod tests;
