#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::SequenceCheck::{Append, Duplicate, InvalidEpoch, OutOfOrder};
use super::*;

const MAX: i32 = i32::MAX;

/// A stamped batch of producer 7.
fn batch(epoch: i16, sequence: i32, records: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset,
        batch_length: 100,
        partition_leader_epoch: 3,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 1_000,
        max_timestamp: 1_000 + base_offset,
        producer_id: 7,
        producer_epoch: epoch,
        base_sequence: sequence,
        record_count: records,
    }
}

fn control(epoch: i16, base_offset: i64) -> BatchHeader {
    BatchHeader {
        attributes: 0x30,
        ..batch(epoch, -1, 1, base_offset)
    }
}

fn after(batches: &[BatchHeader]) -> ProducerStates {
    let mut states = ProducerStates::new();
    for header in batches {
        states.appended(header, header.max_timestamp);
    }
    states
}

fn check(appended: &[BatchHeader], next: BatchHeader, expect: SequenceCheck) {
    assert_eq!(after(appended).check(&next), expect, "after {appended:?}");
}

#[test]
fn sequences_continue_without_gap() {
    let log = [batch(0, 0, 3, 0), batch(0, 3, 2, 3)];
    check(&log, batch(0, 5, 1, 0), Append);
    check(
        &log,
        batch(0, 6, 1, 0),
        OutOfOrder {
            expected: 5,
            found: 6,
        },
    );
    check(
        &log,
        batch(0, 4, 1, 0),
        OutOfOrder {
            expected: 5,
            found: 4,
        },
    );
}

#[test]
fn a_retry_of_one_of_the_last_five_is_a_duplicate() {
    let log: Vec<BatchHeader> = (0..6)
        .map(|n| batch(0, n * 2, 2, i64::from(n) * 2))
        .collect();
    for n in 1..6_i64 {
        let answer = Duplicate {
            base_offset: n * 2,
            last_offset: n * 2 + 1,
            timestamp: 1_000 + n * 2,
        };
        check(&log, batch(0, n as i32 * 2, 2, -1), answer);
    }
    // Older than the window, and the same start with another length.
    check(
        &log,
        batch(0, 0, 2, -1),
        OutOfOrder {
            expected: 12,
            found: 0,
        },
    );
    check(
        &log,
        batch(0, 10, 1, -1),
        OutOfOrder {
            expected: 12,
            found: 10,
        },
    );
}

#[test]
fn sequences_wrap_to_zero() {
    check(&[batch(0, MAX, 1, 0)], batch(0, 0, 1, 1), Append);
    let over_the_edge = batch(0, MAX - 1, 4, 0);
    check(&[over_the_edge], batch(0, 2, 1, 4), Append);
    check(
        &[over_the_edge],
        batch(0, 1, 1, 4),
        OutOfOrder {
            expected: 2,
            found: 1,
        },
    );
    let answer = Duplicate {
        base_offset: 0,
        last_offset: 3,
        timestamp: 1_000,
    };
    check(&[over_the_edge], over_the_edge, answer);
}

#[test]
fn epochs() {
    let log = [batch(4, 0, 1, 0), batch(4, 1, 1, 1)];
    check(
        &log,
        batch(3, 2, 1, 2),
        InvalidEpoch {
            current: 4,
            found: 3,
        },
    );
    check(
        &log,
        batch(3, 1, 1, 2),
        InvalidEpoch {
            current: 4,
            found: 3,
        },
    );
    check(&log, batch(5, 0, 1, 2), Append);
    check(
        &log,
        batch(5, 2, 1, 2),
        OutOfOrder {
            expected: 0,
            found: 2,
        },
    );
    // The window does not reach into the former epoch.
    let bumped = [log[0], log[1], batch(5, 0, 1, 2)];
    check(&bumped, batch(5, 1, 1, 3), Append);
    check(
        &bumped,
        batch(4, 1, 1, 3),
        InvalidEpoch {
            current: 5,
            found: 4,
        },
    );
}

#[test]
fn a_retry_in_a_newer_epoch_is_no_duplicate() {
    check(&[batch(4, 0, 1, 0)], batch(5, 0, 1, 9), Append);
}

#[test]
fn unknown_producers_and_batches_without_producer() {
    check(&[], batch(2, 17, 1, 0), Append);
    let other = BatchHeader {
        producer_id: 8,
        ..batch(0, 99, 1, 1)
    };
    check(&[batch(0, 0, 1, 0)], other, Append);
    let none = BatchHeader {
        producer_id: -1,
        producer_epoch: -1,
        ..batch(0, -1, 1, 1)
    };
    check(&[none], none, Append);
    assert!(after(&[none]).is_empty());
}

#[test]
fn markers_fence_but_have_no_sequence() {
    let log = [batch(4, 0, 1, 0), control(4, 1)];
    check(&log, batch(4, 1, 1, 2), Append);
    check(
        &log,
        batch(4, 2, 1, 2),
        OutOfOrder {
            expected: 1,
            found: 2,
        },
    );
    check(
        &log,
        control(3, 2),
        InvalidEpoch {
            current: 4,
            found: 3,
        },
    );
    check(&log, control(5, 2), Append);
    let fenced = [batch(4, 0, 1, 0), control(5, 1)];
    check(
        &fenced,
        batch(4, 1, 1, 2),
        InvalidEpoch {
            current: 5,
            found: 4,
        },
    );
    check(&fenced, batch(5, 0, 1, 2), Append);
    check(
        &fenced,
        batch(5, 1, 1, 2),
        OutOfOrder {
            expected: 0,
            found: 1,
        },
    );
}

#[test]
fn a_coordinators_batch_without_sequence_leaves_the_sequence_alone() {
    let offsets = BatchHeader {
        base_sequence: -1,
        ..batch(4, -1, 2, 1)
    };
    let log = [batch(4, 0, 1, 0), offsets];
    check(&log, offsets, Append);
    check(&log, batch(4, 1, 1, 3), Append);
}

#[test]
fn the_silent_expire() {
    let mut states = ProducerStates::new();
    states.appended(&batch(0, 0, 1, 0), 5_000);
    states.appended(
        &BatchHeader {
            producer_id: 8,
            ..batch(0, 0, 1, 1)
        },
        6_000,
    );
    assert_eq!(states.expire(6_999, 2_000), 0);
    assert_eq!(states.expire(7_000, 2_000), 1);
    assert_eq!(
        states
            .iter()
            .map(|info| info.producer_id)
            .collect::<Vec<_>>(),
        [8]
    );
    assert_eq!(
        states.check(&batch(0, 55, 1, 2)),
        Append,
        "forgotten, so anything goes"
    );
    // A clock that jumped back, and a limit beyond all time, expire nobody.
    assert_eq!(states.expire(i64::MIN, 0), 0);
    assert_eq!(states.expire(i64::MAX, u64::MAX), 0);
    assert_eq!(states.len(), 1);
}

#[test]
fn producers_are_described() {
    let mut states = ProducerStates::new();
    states.appended(&batch(4, 0, 3, 10), 5_000);
    states.appended(
        &BatchHeader {
            producer_id: 2,
            ..control(1, 13)
        },
        5_500,
    );
    let expect = [
        ProducerInfo {
            producer_id: 2,
            producer_epoch: 1,
            last_sequence: -1,
            last_offset: -1,
            last_timestamp: 1_013,
            last_activity_ms: 5_500,
        },
        ProducerInfo {
            producer_id: 7,
            producer_epoch: 4,
            last_sequence: 2,
            last_offset: 12,
            last_timestamp: 1_010,
            last_activity_ms: 5_000,
        },
    ];
    assert_eq!(states.iter().collect::<Vec<_>>(), expect);
}

/// What version 1 looks like, for as long as it has to be read.
#[test]
fn version_1_is_fixed() {
    let mut states = ProducerStates::new();
    states.appended(&batch(4, 9, 3, 10), 5_000);
    let mut expect = vec![1, 1, 0, 0, 0];
    expect.extend(7_i64.to_le_bytes());
    expect.extend([4, 0]);
    expect.extend(1_010_i64.to_le_bytes());
    expect.extend(5_000_i64.to_le_bytes());
    expect.push(1);
    expect.extend(9_i32.to_le_bytes());
    expect.extend(11_i32.to_le_bytes());
    expect.extend(10_i64.to_le_bytes());
    expect.extend(12_i64.to_le_bytes());
    expect.extend(1_010_i64.to_le_bytes());
    assert_eq!(states.encode(), expect);
    assert_eq!(ProducerStates::decode(&expect).unwrap(), states);
}

#[test]
fn bad_bytes_are_refused() {
    let good = after(&[batch(4, 9, 3, 10)]).encode();
    for len in 0..good.len() {
        assert!(
            ProducerStates::decode(&good[..len]).is_err(),
            "cut at {len}"
        );
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(ProducerStates::decode(&longer).is_err());
    let mut newer = good.clone();
    newer[0] = 2;
    assert_eq!(
        ProducerStates::decode(&newer),
        Err(ProducersError::NewerVersion(2))
    );
    // Four billion producers claimed in five bytes.
    assert!(ProducerStates::decode(&[1, 0xff, 0xff, 0xff, 0xff]).is_err());
}

/// The rules again, over the whole log and without a window structure.
#[derive(Default)]
struct NaiveLog {
    batches: Vec<BatchHeader>,
}

impl NaiveLog {
    fn check(&self, next: &BatchHeader) -> SequenceCheck {
        let mine = || {
            self.batches
                .iter()
                .filter(|b| b.producer_id == next.producer_id)
        };
        let Some(newest) = mine().next_back() else {
            return Append;
        };
        if next.producer_epoch < newest.producer_epoch {
            return InvalidEpoch {
                current: newest.producer_epoch,
                found: next.producer_epoch,
            };
        }
        let all = |b: &BatchHeader| -> Vec<i64> {
            (0..i64::from(b.record_count))
                .map(|n| (i64::from(b.base_sequence) + n) % (i64::from(MAX) + 1))
                .collect()
        };
        let epoch: Vec<&BatchHeader> = mine()
            .filter(|b| b.producer_epoch == next.producer_epoch)
            .collect();
        for old in epoch.iter().rev().take(5).rev() {
            if all(old) == all(next) {
                return Duplicate {
                    base_offset: old.base_offset,
                    last_offset: old.base_offset + i64::from(old.record_count) - 1,
                    timestamp: old.max_timestamp,
                };
            }
        }
        let expected = match epoch.last().and_then(|b| all(b).pop()) {
            Some(last) if last == i64::from(MAX) => 0,
            Some(last) => last + 1,
            None => 0,
        };
        if i64::from(next.base_sequence) == expected {
            return Append;
        }
        OutOfOrder {
            expected: expected as i32,
            found: next.base_sequence,
        }
    }
}

/// A send relative to where its producer stands, so that most are interesting.
#[derive(Clone, Debug)]
struct Send {
    producer_id: i64,
    epoch_step: i16,
    sequence_step: i32,
    records: i32,
}

fn sends() -> impl Strategy<Value = Vec<Send>> {
    let send = (0..3_i64, 0..20_i16, 0..12_i32, 1..4_i32).prop_map(
        |(producer_id, epoch, step, records)| Send {
            producer_id,
            epoch_step: match epoch {
                0 => -1,
                1 => 1,
                _ => 0,
            },
            // Mostly the next one, else a retry or a gap.
            sequence_step: if step < 6 { 0 } else { step - 10 },
            records,
        },
    );
    prop::collection::vec(send, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_with_the_rules_over_the_whole_log(sends in sends(), start in prop_oneof![Just(0), Just(MAX - 6)]) {
        let mut states = ProducerStates::new();
        let mut log = NaiveLog::default();
        let mut next_offset = 0;
        for send in sends {
            let newest = log.batches.iter().rfind(|b| b.producer_id == send.producer_id).copied();
            let (epoch, sequence) = match newest {
                None => (0, start),
                Some(b) => (b.producer_epoch + send.epoch_step,
                    sequence_after(b.base_sequence, b.record_count + send.sequence_step)),
            };
            let sequence = if send.epoch_step > 0 && send.records > 1 { 0 } else { sequence };
            let mut header = batch(epoch, sequence, send.records, next_offset);
            header.producer_id = send.producer_id;
            let verdict = states.check(&header);
            prop_assert_eq!(verdict, log.check(&header));
            if verdict == Append {
                states.appended(&header, next_offset);
                log.batches.push(header);
                next_offset += i64::from(send.records);
            }
        }
        let bytes = states.encode();
        prop_assert_eq!(ProducerStates::decode(&bytes).unwrap(), states);
    }

    #[test]
    fn decoding_anything_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), versioned: bool) {
        let mut bytes = bytes;
        if versioned && let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(states) = ProducerStates::decode(&bytes) {
            prop_assert_eq!(states.encode(), bytes);
        }
    }
}

#[test]
fn there_is_a_largest_number_of_producers() {
    let mut states = ProducerStates::new();
    let most = i64::try_from(MAX_PRODUCERS).unwrap();
    for producer_id in 0..most {
        let mut header = batch(0, 0, 1, producer_id);
        header.producer_id = producer_id;
        // The first ids are the last active.
        states.appended(&header, 1_000_000 - producer_id);
    }
    assert_eq!(states.len(), MAX_PRODUCERS);
    let mut header = batch(0, 0, 1, most);
    header.producer_id = most;
    states.appended(&header, 1_000_000);
    assert_eq!(states.len(), MAX_PRODUCERS - MAX_PRODUCERS / 8 + 1);
    let ids: Vec<i64> = states.iter().map(|producer| producer.producer_id).collect();
    assert!(ids.contains(&0) && ids.contains(&most) && !ids.contains(&(most - 1)));
}
