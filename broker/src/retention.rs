//! Retention and its housekeeping: which segments go, when producers are forgotten.
//!
//! The decision is pure ([`expired_below`]). Acting on it is an order in the partition's Raft log
//! (so that every replica starts at the same offset), then each replica purges whole segments.
//!
//! The wall clock decides what is old, so while it is not to be believed nothing is deleted
//! ([`crate::jump`]).

use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::settings::TopicSettings;
use klamm_raft::ProposeError;
use klamm_storage::{SegmentInfo, StorageError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::node::{Shared, stopped};
use crate::partition::Partition;

const ORDER_WAIT: Duration = Duration::from_secs(10);

/// Looks after all partitions until the node stops.
pub async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        let interval = shared.settings().long("log.retention.check.interval.ms");
        let interval = Duration::from_millis(u64::try_from(interval).unwrap_or(1).max(1));
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(interval) => {}
        }
        shared.store.release_memory();
        for partition in shared.partitions.all() {
            if let Some(now_ms) = shared.jump.believed_ms() {
                expire(&partition, now_ms).await;
            }
            purge(&shared, &partition).await;
        }
    }
}

/// Forgets silent producers of all partitions until the node stops (behaviour 49).
pub async fn forget_producers(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        let interval = shared
            .settings()
            .int("producer.id.expiration.check.interval.ms");
        let interval = Duration::from_millis(u64::try_from(interval).unwrap_or(1).max(1));
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(interval) => {}
        }
        for partition in shared.partitions.all() {
            partition.expire_producers(shared.steady.now_ms());
        }
    }
}

/// Moves the log start over what retention no longer keeps.
async fn expire(partition: &Partition, now_ms: i64) {
    if partition.serving_epoch().is_none() {
        return;
    }
    let settings = partition.settings();
    let mut segments = partition.log().segments();
    let roll = segments
        .last()
        .is_some_and(|active| roll_expired(active, &settings, now_ms));
    if roll && partition.roll().await {
        segments = partition.log().segments();
    }
    let committed = partition.high_watermark();
    let Some(offset) = expired_below(&segments, &settings, now_ms, committed) else {
        return;
    };
    if offset <= partition.start_offset() {
        return;
    }
    match partition
        .delete_records(offset, Instant::now() + ORDER_WAIT)
        .await
    {
        Ok(start) => {
            info!(
                topic = &**partition.topic(),
                partition = partition.index(),
                start,
                "retention moved the log start"
            );
        }
        Err(error) => {
            debug!(
                topic = &**partition.topic(),
                partition = partition.index(),
                error = error.name(),
                "retention deferred"
            );
        }
    }
}

/// Drops what lies wholly below the log start from this replica.
async fn purge(shared: &Shared, partition: &Partition) {
    match partition.purge(&shared.cluster).await {
        // Deleted meanwhile.
        Ok(()) | Err(ProposeError::Stopped | ProposeError::Storage(StorageError::GroupGone(_))) => {
        }
        Err(cause) => {
            warn!(topic = &**partition.topic(), partition = partition.index(), %cause, "failed to purge");
        }
    }
}

/// Whether the active segment holds nothing that time retention would keep (behaviour 125).
fn roll_expired(active: &SegmentInfo, settings: &TopicSettings, now_ms: i64) -> bool {
    active.active && active.size_bytes > 0 && is_expired(active, settings, now_ms)
}

fn is_expired(segment: &SegmentInfo, settings: &TopicSettings, now_ms: i64) -> bool {
    let Some(keep_ms) = settings.retention_ms else {
        return false;
    };
    // A segment without any timestamp is as old as can be, as in Kafka.
    let age_ms = now_ms.saturating_sub(segment.max_timestamp);
    u64::try_from(age_ms).is_ok_and(|age_ms| age_ms > keep_ms)
}

/// The offset below which retention keeps nothing: the start of the first segment that stays.
/// Only closed, wholly committed segments go, from the oldest on (behaviour 125).
fn expired_below(
    segments: &[SegmentInfo],
    settings: &TopicSettings,
    now_ms: i64,
    committed: i64,
) -> Option<i64> {
    let mut excess = settings.retention_bytes.map(|keep| {
        segments
            .iter()
            .map(|segment| segment.size_bytes)
            .sum::<u64>()
            .saturating_sub(keep)
    });
    let mut below = None;
    for segment in segments {
        if segment.active || segment.next_offset > committed {
            break;
        }
        let too_much =
            excess.is_some_and(|excess| excess >= segment.size_bytes && segment.size_bytes > 0);
        if !too_much && !is_expired(segment, settings, now_ms) {
            break;
        }
        excess = excess.map(|excess| excess.saturating_sub(segment.size_bytes));
        below = Some(segment.next_offset);
    }
    below
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use klamm_metadata::settings::Settings;
    use klamm_metadata::settings::TopicSettings;
    use klamm_storage::SegmentInfo;

    use super::{expired_below, roll_expired};

    const NOW: i64 = 1_000_000;

    fn settings(overrides: &[(&str, &str)]) -> TopicSettings {
        let overrides: BTreeMap<String, String> = overrides
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Settings::default().topic(&overrides)
    }

    /// Closed segments of 10 records each, then an active one.
    fn segments(of: &[(u64, i64)]) -> Vec<SegmentInfo> {
        let last = of.len() - 1;
        of.iter()
            .enumerate()
            .map(|(at, &(size_bytes, max_timestamp))| SegmentInfo {
                base_offset: at as i64 * 10,
                next_offset: at as i64 * 10 + 10,
                size_bytes,
                max_timestamp,
                first_timestamp: max_timestamp,
                active: at == last,
                path: PathBuf::new(),
            })
            .collect()
    }

    #[test]
    fn behaviour_125_time_retention_by_largest_timestamp() {
        let keep = settings(&[("retention.ms", "1000")]);
        let old = NOW - 1001;
        assert_eq!(
            expired_below(&segments(&[(5, old), (5, old), (5, NOW)]), &keep, NOW, 100),
            Some(20)
        );
        assert_eq!(
            expired_below(
                &segments(&[(5, NOW - 1000), (5, old), (5, NOW)]),
                &keep,
                NOW,
                100
            ),
            None
        );
        assert_eq!(
            expired_below(&segments(&[(5, old), (5, old)]), &keep, NOW, 100),
            Some(10),
            "the active one stays"
        );
        assert_eq!(
            expired_below(&segments(&[(5, old), (5, old), (5, NOW)]), &keep, NOW, 15),
            Some(10),
            "uncommitted"
        );
    }

    #[test]
    fn behaviour_125_size_retention_keeps_at_least_that_much() {
        let keep = settings(&[("retention.bytes", "100"), ("retention.ms", "-1")]);
        assert_eq!(
            expired_below(
                &segments(&[(60, NOW), (60, NOW), (60, NOW)]),
                &keep,
                NOW,
                100
            ),
            Some(10)
        );
        assert_eq!(
            expired_below(
                &segments(&[(60, NOW), (60, NOW), (30, NOW)]),
                &keep,
                NOW,
                100
            ),
            None
        );
    }

    #[test]
    fn without_limits_nothing_goes() {
        let keep = settings(&[("retention.bytes", "-1"), ("retention.ms", "-1")]);
        assert_eq!(
            expired_below(&segments(&[(60, 0), (60, 0), (60, 0)]), &keep, NOW, 100),
            None
        );
    }

    #[test]
    fn an_expired_active_segment_rolls_if_it_holds_data() {
        let keep = settings(&[("retention.ms", "1000")]);
        let active = |size, timestamp| segments(&[(size, timestamp)]).remove(0);
        assert!(roll_expired(&active(5, NOW - 2000), &keep, NOW));
        assert!(!roll_expired(&active(5, NOW), &keep, NOW));
        assert!(!roll_expired(&active(0, -1), &keep, NOW));
    }
}
