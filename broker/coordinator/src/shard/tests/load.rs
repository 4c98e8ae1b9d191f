//! How fast a log is read, and what it takes. Run with `--ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::records::OffsetCommitValue;

const RECORDS: usize = 1_000_000;
const KEYS: usize = 10_000;

fn encoded() -> Vec<(Bytes, Option<Bytes>)> {
    (0..RECORDS)
        .map(|at| {
            let key = at.wrapping_mul(7919) % KEYS;
            let record = GroupRecord::OffsetCommit {
                group: format!("consumer-group-{}", key / 100).into(),
                topic: format!("topic-with-a-name-{}", key / 10 % 10).into(),
                partition: i32::try_from(key % 10).unwrap(),
                value: Some(OffsetCommitValue {
                    offset: i64::try_from(at).unwrap(),
                    leader_epoch: 3,
                    metadata: "".into(),
                    commit_timestamp: 1_700_000_000_000,
                    expire_timestamp: -1,
                    topic_id: TopicId(Uuid::from_u128(7)),
                }),
            };
            record.encode()
        })
        .collect()
}

#[test]
#[ignore = "a measurement"]
fn a_million_commits_are_replayed() {
    let log = encoded();
    let mut shard = Shard::new();
    let started = Instant::now();
    for (key, value) in &log {
        let record = GroupRecord::decode(key, value.as_deref()).unwrap();
        shard.replay(record.unwrap());
    }
    let taken = started.elapsed();
    assert_eq!(shard.committed().count(), KEYS);
    let rate = RECORDS as f64 / taken.as_secs_f64() / 1e6;
    println!("decoded and replayed {rate:.1} M records/s");
}
