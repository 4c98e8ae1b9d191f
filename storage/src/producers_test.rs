#![expect(clippy::unwrap_used, reason = "tests")]

use super::SequenceCheck::{Append, Duplicate, InvalidEpoch, OutOfOrder, WrittenBefore};
use super::*;

#[path = "producers_model_test.rs"]
mod model;

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
    after_by(batches, |header| header.max_timestamp)
}

fn after_at(batches: &[BatchHeader], now_ms: i64) -> ProducerStates {
    after_by(batches, |_| now_ms)
}

fn after_by(batches: &[BatchHeader], at: impl Fn(&BatchHeader) -> i64) -> ProducerStates {
    let mut states = ProducerStates::new();
    for header in batches {
        states.appended(header, at(header));
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

/// A batch that `leader` wrote.
fn by(leader: i32, header: BatchHeader) -> BatchHeader {
    BatchHeader {
        partition_leader_epoch: leader,
        ..header
    }
}

#[test]
fn who_led_when_a_producer_wrote_last_is_known() {
    assert_eq!(after(&[]).last_written_in(7), None);
    let mut log = vec![by(3, batch(0, 0, 2, 0)), by(5, batch(0, 2, 2, 2))];
    assert_eq!(after(&log).last_written_in(7), Some(5));
    log.push(by(6, control(0, 4)));
    assert_eq!(
        after(&log).last_written_in(7),
        Some(5),
        "a marker is not his"
    );
    log.push(by(8, batch(1, 0, 1, 5)));
    assert_eq!(after(&log).last_written_in(7), Some(8));
}

#[test]
fn a_retry_of_what_an_earlier_leader_wrote_is_known_without_its_place() {
    let in_leader_epoch = |n: i32| if n < 3 { 3 } else { 4 };
    let log: Vec<BatchHeader> = (0..10)
        .map(|n| by(in_leader_epoch(n), batch(0, n * 2, 2, i64::from(n) * 2)))
        .collect();
    // The window begins with the sixth batch, at offset 10.
    let known = WrittenBefore { end_offset: 10 };
    let unknown = |found| OutOfOrder {
        expected: 20,
        found,
    };
    for (sequence, records, expect) in [
        (0, 2, known),
        (4, 2, known),
        (1, 3, known),
        // This leader wrote it: as in Kafka.
        (6, 2, unknown(6)),
        (4, 4, unknown(4)),
        (22, 2, unknown(22)),
        (MAX, 1, unknown(MAX)),
        // From before the first to behind it.
        (MAX, 3, unknown(MAX)),
    ] {
        check(&log, batch(0, sequence, records, -1), expect);
    }
    // Not in another epoch of the producer, nor with a gap, nor before the first that was met.
    let mut bumped = log.clone();
    bumped.extend((0..6).map(|n| by(5, batch(1, n, 1, 20 + i64::from(n)))));
    let out_of_order = |expected, found| OutOfOrder { expected, found };
    check(&bumped, batch(1, 12, 1, -1), out_of_order(6, 12));
    let from_the_middle = |first: i32| -> Vec<BatchHeader> {
        let leader = |n| if n < 2 { 3 } else { 4 };
        (0..9)
            .map(|n| by(leader(n), batch(0, first + n, 1, i64::from(n))))
            .collect()
    };
    check(
        &from_the_middle(50),
        batch(0, 49, 1, -1),
        out_of_order(59, 49),
    );
    let first = WrittenBefore { end_offset: 4 };
    check(&from_the_middle(50), batch(0, 50, 1, -1), first);
    let mut with_gap = from_the_middle(50);
    with_gap.extend(from_the_middle(70));
    check(&with_gap, batch(0, 50, 1, -1), out_of_order(79, 50));
    check(&with_gap, batch(0, 60, 1, -1), out_of_order(79, 60));
}

/// After 2^31 records of one epoch their sequences come again.
#[test]
fn a_run_forgets_its_begin_before_its_sequences_come_again() {
    const SIZE: i32 = 1 << 27;
    let log: Vec<BatchHeader> = (0..40)
        .map(|n| {
            let sequence = sequence_after(0, SIZE.wrapping_mul(n) & MAX);
            by(n, batch(0, sequence, SIZE, i64::from(n) * i64::from(SIZE)))
        })
        .collect();
    // 2^30 are eight batches; the last five are remembered with their places, the three before as written.
    let window = log[35].base_offset;
    for (n, written) in [(30, false), (31, false), (32, true), (34, true)] {
        let expect = match written {
            true => WrittenBefore { end_offset: window },
            false => OutOfOrder {
                expected: sequence_after(log[39].base_sequence, SIZE),
                found: log[n].base_sequence,
            },
        };
        check(&log, log[n], expect);
    }
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

/// One producer with two batches, as versions 1 and 2 store it.
fn stored(version: u8) -> Vec<u8> {
    let mut stored = vec![version, 1, 0, 0, 0];
    stored.extend(7_i64.to_le_bytes());
    stored.extend([4, 0]);
    stored.extend(1_012_i64.to_le_bytes());
    stored.extend(5_000_i64.to_le_bytes());
    if version == 2 {
        stored.extend(9_i32.to_le_bytes());
        stored.extend(6_i32.to_le_bytes());
        stored.extend(10_i32.to_le_bytes());
    }
    stored.push(2);
    for (first, last, base) in [(9_i32, 10_i32, 10_i64), (11, 11, 12)] {
        stored.extend(first.to_le_bytes());
        stored.extend(last.to_le_bytes());
        stored.extend(base.to_le_bytes());
        stored.extend((base + i64::from(last - first)).to_le_bytes());
        stored.extend((1_000 + base).to_le_bytes());
    }
    stored
}

/// What the versions look like, for as long as they have to be read.
#[test]
fn versions_are_fixed() {
    let states = after_at(
        &[by(5, batch(4, 9, 2, 10)), by(6, batch(4, 11, 1, 12))],
        5_000,
    );
    assert_eq!(states.encode(), stored(2));
    assert_eq!(ProducerStates::decode(&stored(2)).unwrap(), states);
    let mut older = ProducerStates::decode(&stored(1)).unwrap();
    assert!(older.iter().eq(states.iter()));
    // It is not known what lies before: nothing is claimed of it, however it goes on.
    for n in 0..8 {
        older.appended(&by(8, batch(4, 12 + n, 1, 13 + i64::from(n))), 5_000);
    }
    let out_of_order = OutOfOrder {
        expected: 20,
        found: 9,
    };
    assert_eq!(older.check(&batch(4, 9, 2, -1)), out_of_order);
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
    newer[0] = 3;
    assert_eq!(
        ProducerStates::decode(&newer),
        Err(ProducersError::NewerVersion(3))
    );
    // A run that is not known, and yet inherited.
    let mut run = good.clone();
    run[31..35].fill(0xff);
    assert!(ProducerStates::decode(&run).is_err());
    // Four billion producers claimed in five bytes.
    assert!(ProducerStates::decode(&[1, 0xff, 0xff, 0xff, 0xff]).is_err());
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
