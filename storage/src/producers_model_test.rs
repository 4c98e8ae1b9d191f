//! Producer states against the rules over a whole log.

use proptest::prelude::*;

use super::*;

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
        if let Some(window) = epoch.len().checked_sub(5)
            && let Some(newest) = epoch.last()
        {
            let inherited: Vec<i64> = epoch[..window]
                .iter()
                .filter(|old| old.partition_leader_epoch != newest.partition_leader_epoch)
                .flat_map(|old| all(old))
                .collect();
            if all(next).iter().all(|one| inherited.contains(one)) {
                let end_offset = epoch[window].base_offset;
                return WrittenBefore { end_offset };
            }
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
    new_leader: bool,
}

fn sends() -> impl Strategy<Value = Vec<Send>> {
    let send = (0..3_i64, 0..20_i16, 0..15_i32, 1..4_i32, 0..9).prop_map(
        |(producer_id, epoch, step, records, leader)| Send {
            producer_id,
            epoch_step: match epoch {
                0 => -1,
                1 => 1,
                _ => 0,
            },
            // Mostly the next one, else a retry or a gap.
            sequence_step: match step {
                0..6 => 0,
                6..12 => step - 10,
                _ => (11 - step) * 5,
            },
            records,
            new_leader: leader == 0,
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
        let mut leader = 0;
        for send in sends {
            leader += i32::from(send.new_leader);
            let newest = log.batches.iter().rfind(|b| b.producer_id == send.producer_id).copied();
            let (epoch, sequence) = match newest {
                None => (0, start),
                Some(b) => (b.producer_epoch + send.epoch_step,
                    sequence_after(b.base_sequence, b.record_count + send.sequence_step)),
            };
            let sequence = if send.epoch_step > 0 && send.records > 1 { 0 } else { sequence };
            let mut header = by(leader, batch(epoch, sequence, send.records, next_offset));
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
            *first = FORMAT;
        }
        if let Ok(states) = ProducerStates::decode(&bytes)
            && bytes[0] == FORMAT
        {
            prop_assert_eq!(states.encode(), bytes);
        }
    }
}
