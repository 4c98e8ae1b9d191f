//! Reading a partition: batches up to the high watermark, epochs, offsets by time.

use bytes::Bytes;
use klamm_protocol::ErrorCode;
use klamm_records::BatchHeader;
use klamm_records::plant::{self, Bug};
use klamm_storage::TimestampOffset;

use super::{Partition, storage_error};

/// Which records a reader may see (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything committed by Raft.
    ReadUncommitted,
    /// Only what no open transaction covers.
    ReadCommitted,
}

/// One partition of a Fetch.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Offset to read from.
    pub fetch_offset: i64,
    /// The reader's idea of the leader epoch, or -1.
    pub current_leader_epoch: i32,
    /// Epoch of the reader's last record, or -1 (KIP-595 truncation detection).
    pub last_fetched_epoch: i32,
    /// Bytes wanted at most.
    pub max_bytes: usize,
    /// Answer the first batch even if it is larger than `max_bytes` (behaviour 71).
    pub at_least_one: bool,
    /// Which records the reader may see.
    pub isolation: Isolation,
    /// The reader takes the answer of a follower, too (KIP-392).
    pub from_follower: bool,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Read {
    /// Whole batches (behaviour 74) in one or several pieces, none when there is nothing yet.
    pub records: Vec<Bytes>,
    /// Offset after the last committed record.
    pub high_watermark: i64,
    /// First undecided offset.
    pub last_stable_offset: i64,
    /// First offset that may be read.
    pub log_start_offset: i64,
    /// Set when the reader's history differs from ours (behaviour 78).
    pub diverging: Option<EpochEnd>,
}

/// An epoch and the offset after its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The leader epoch.
    pub epoch: i32,
    /// Offset after its last record.
    pub end_offset: i64,
}

impl Partition {
    /// Reads batches for a client. Blocks on the disk when the data are cold (see
    /// [`Partition::is_hot`]).
    pub fn read(&self, request: &ReadRequest) -> Result<Read, ErrorCode> {
        let epoch = self.check_reader(request)?;
        let high_watermark = self.high_watermark();
        let last_stable_offset = self.last_stable_offset();
        let log_start_offset = self.start_offset();
        let mut read = Read {
            records: Vec::new(),
            high_watermark,
            last_stable_offset,
            log_start_offset,
            diverging: None,
        };
        // A follower may not have yet what the reader has: that says nothing about the reader's history.
        let is_behind = request.fetch_offset > self.log().end_offset();
        if is_behind && self.serving_epoch().is_none() {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if request.last_fetched_epoch >= 0 {
            let end = self.end_of_epoch_in(epoch, request.last_fetched_epoch);
            match end {
                None => return Err(ErrorCode::OFFSET_OUT_OF_RANGE),
                Some(end)
                    if end.epoch < request.last_fetched_epoch
                        || end.end_offset < request.fetch_offset =>
                {
                    read.diverging = Some(end);
                    return Ok(read);
                }
                Some(_) => {}
            }
        }
        // Between the high watermark and the log end there is nothing to read yet, but the
        // offset exists.
        if request.fetch_offset < log_start_offset || request.fetch_offset > self.log().end_offset()
        {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        let end_offset = match request.isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        let end_offset = match plant::is(Bug::ReadsUncommitted) {
            true => self.log().end_offset(),
            false => end_offset,
        };
        read.records = self.read_batches(request, end_offset)?;
        Ok(read)
    }

    /// Batches below `end_offset` as far as the request's limits go. The log answers from one
    /// place at a time (a segment file, or what is not in a file yet).
    fn read_batches(
        &self,
        request: &ReadRequest,
        end_offset: i64,
    ) -> Result<Vec<Bytes>, ErrorCode> {
        let mut pieces = Vec::new();
        let (mut from, mut room) = (request.fetch_offset, request.max_bytes);
        while from < end_offset && (room > 0 || (request.at_least_one && pieces.is_empty())) {
            let at_least_one = request.at_least_one && pieces.is_empty();
            let piece = match self.log().read(from, end_offset, room, at_least_one) {
                Ok(piece) => piece,
                // What was read before is good.
                Err(_) if !pieces.is_empty() => break,
                Err(error) => return Err(storage_error(&error)),
            };
            let Some(next) = next_offset(&piece) else {
                break;
            };
            from = next;
            room = room.saturating_sub(piece.len());
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Whether a read there is expected not to wait for the disk.
    pub fn is_hot(&self, fetch_offset: i64) -> bool {
        fetch_offset >= self.high_watermark() || self.log().is_hot(fetch_offset)
    }

    /// End offset of the largest epoch at or below `requested` (KIP-101); `None` when there is
    /// none or `requested` lies in the future.
    pub fn end_of_epoch(&self, requested: i32) -> Option<EpochEnd> {
        self.end_of_epoch_in(self.serving_epoch()?, requested)
    }

    /// [`Partition::end_of_epoch`] while `current` is the leader epoch.
    fn end_of_epoch_in(&self, current: i32, requested: i32) -> Option<EpochEnd> {
        let epochs = self.log().epochs();
        end_of_epoch(&epochs, self.log().end_offset(), current, requested)
    }

    /// Leader epoch of the record at `offset`, -1 when unknown.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        let epochs = self.log().epochs();
        let after = epochs.partition_point(|&(_, first)| first <= offset);
        after
            .checked_sub(1)
            .and_then(|at| epochs.get(at))
            .map_or(-1, |&(epoch, _)| epoch)
    }

    /// First record at or after `timestamp` (behaviour 83). Blocks on the disk.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
        isolation: Isolation,
    ) -> Result<Option<TimestampOffset>, ErrorCode> {
        let end = self.visible_end(isolation);
        self.log()
            .offset_for_timestamp(timestamp, end)
            .map_err(|error| storage_error(&error))
    }

    /// The record with the largest timestamp (KIP-734). Blocks on the disk.
    pub fn max_timestamp(
        &self,
        isolation: Isolation,
    ) -> Result<Option<TimestampOffset>, ErrorCode> {
        self.log()
            .max_timestamp(self.visible_end(isolation))
            .map_err(|error| storage_error(&error))
    }

    /// Offset after the last record the reader may see.
    pub fn visible_end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        }
    }
}

/// Offset after the last of some whole batches; `None` without any.
fn next_offset(batches: &[u8]) -> Option<i64> {
    let (mut rest, mut next) = (batches, None);
    while let Some(header) = BatchHeader::parse(rest) {
        next = Some(header.next_offset());
        rest = rest.get(header.total_len()?..)?;
    }
    next
}

/// `epochs`: (epoch, first offset), ascending. The epoch now served may have no record yet.
fn end_of_epoch(
    epochs: &[(i32, i64)],
    log_end: i64,
    serving: i32,
    requested: i32,
) -> Option<EpochEnd> {
    if requested > serving || requested < 0 {
        return None;
    }
    if requested == serving {
        return Some(EpochEnd {
            epoch: serving,
            end_offset: log_end,
        });
    }
    let after = epochs.partition_point(|&(epoch, _)| epoch <= requested);
    let end_offset = epochs.get(after).map_or(log_end, |&(_, first)| first);
    match after.checked_sub(1).and_then(|at| epochs.get(at)) {
        Some(&(epoch, _)) => Some(EpochEnd { epoch, end_offset }),
        // Older than all we know: nothing of it is left, so it ends where our history starts.
        None => epochs.first().map(|&(_, first)| EpochEnd {
            epoch: requested,
            end_offset: first,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{EpochEnd, end_of_epoch};

    fn check(requested: i32, expect: Option<(i32, i64)>) {
        let epochs = [(2, 0), (5, 100), (7, 150)];
        let expect = expect.map(|(epoch, end_offset)| EpochEnd { epoch, end_offset });
        assert_eq!(
            end_of_epoch(&epochs, 200, 9, requested),
            expect,
            "epoch {requested}"
        );
    }

    #[test]
    fn behaviour_78_end_of_the_largest_epoch_at_or_below() {
        check(2, Some((2, 100)));
        check(3, Some((2, 100)));
        check(5, Some((5, 150)));
        check(7, Some((7, 200)));
        check(8, Some((7, 200)));
        check(9, Some((9, 200)));
        check(10, None);
        check(i32::MAX, None);
        check(-1, None);
        check(1, Some((1, 0)));
    }

    #[test]
    fn a_log_without_records_has_no_older_epoch() {
        assert_eq!(end_of_epoch(&[], 0, 3, 2), None);
        assert_eq!(
            end_of_epoch(&[], 0, 3, 3),
            Some(EpochEnd {
                epoch: 3,
                end_offset: 0
            })
        );
    }
}
