//! Log compaction of topics with `cleanup.policy=compact`: one pass at a time, on a thread of its
//! own, over the log that needs it most ([`decision`]).
//!
//! Before a pass the partition's Raft log is purged up to what the pass may touch: compacted
//! segments are no Raft entries any more. Each replica does this for itself.
//!
//! While the wall clock is not to be believed nothing is compacted ([`crate::jump`]): it says when a
//! tombstone has been there for long enough.
//!
//! A log whose records cannot be read is named, left alone until the next start or until the replica
//! is replaced, and the others go on. Each log has one pass a round; between rounds, and for what only has to wait (a purge, free
//! space), are `log.cleaner.backoff.ms`.
//!
//! Deliberately absent: the rewriting itself, which is `klamm_storage`'s.

mod decision;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use klamm_metadata::settings::Settings;
use klamm_raft::{NodeId, ProposeError};
use klamm_records::GroupId;
use klamm_storage::{Compaction, CompactionError, CompactionRules, StorageError};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::node::{Shared, stopped};
use crate::partition::Partition;
use decision::{Due, State, due, roll_due};

/// A purge that a follower holds up is not waited for longer.
const PURGE_WAIT: Duration = Duration::from_secs(10);
/// Times `max.message.bytes` that a batch may unpack to, as for a produced one.
const UNPACK_FACTOR: usize = 32;
/// A batch may be from when `max.message.bytes` was larger.
const LEAST_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Longest sleep of a throttled pass between two looks at whether to stop.
const NAP: Duration = Duration::from_millis(100);

/// Logs that are passed over.
#[derive(Default)]
struct Skipped {
    /// Until the next start, or until another replica is here: their data are damaged.
    uncleanable: HashSet<(GroupId, NodeId)>,
    /// Until the next round: they had their turn, or something has to happen first.
    deferred: HashSet<GroupId>,
    /// A pass of this round did not come to the end of its log: the next one begins at once.
    unfinished: bool,
}

/// Why a log was not compacted this time.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its Raft log is not purged yet")]
    NotPurged,
    #[error(transparent)]
    Purge(#[from] ProposeError),
    #[error(transparent)]
    Pass(#[from] CompactionError),
    #[error("the pass panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Compacts logs until the node stops.
pub async fn run(shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = rounds(&shared, &stop);
    tokio::pin!(rounds);
    tokio::select! {
        () = &mut rounds => return,
        () = stopped(&mut stopping) => {}
    }
    // A pass under way ends at its next batch.
    stop.store(true, Ordering::Release);
    rounds.await;
}

async fn rounds(shared: &Arc<Shared>, stop: &Arc<AtomicBool>) {
    let mut skipped = Skipped::default();
    while !stop.load(Ordering::Acquire) {
        let settings = shared.settings();
        // A clock that jumped would drop tombstones early, or keep them for years.
        let believed_ms = shared.jump.believed_ms();
        let now_ms = believed_ms.filter(|_| settings.boolean("log.cleaner.enable"));
        if let Some(now_ms) = now_ms
            && let Some((partition, due)) = dirtiest(shared, &mut skipped, now_ms).await
        {
            let began = Instant::now();
            let done = clean(shared, &partition, &due, &settings, now_ms, stop).await;
            report(shared, &partition, began.elapsed(), done, &mut skipped);
            continue;
        }
        skipped.deferred.clear();
        if std::mem::take(&mut skipped.unfinished) {
            continue;
        }
        let backoff = u64::try_from(settings.long("log.cleaner.backoff.ms")).unwrap_or(0);
        let until = Instant::now() + Duration::from_millis(backoff).max(NAP);
        while Instant::now() < until && !stop.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(NAP)).await;
        }
    }
}

/// The log to compact next. Closes active segments that hold records which waited too long.
async fn dirtiest(
    shared: &Shared,
    skipped: &mut Skipped,
    now_ms: i64,
) -> Option<(Arc<Partition>, Due)> {
    let partitions = shared.partitions.all();
    let open: HashSet<(GroupId, NodeId)> = partitions.iter().map(|p| replica(p)).collect();
    skipped.uncleanable.retain(|replica| open.contains(replica));
    shared.metrics.uncleanable(skipped.uncleanable.len());
    let mut best: Option<(Arc<Partition>, Due)> = None;
    for partition in partitions {
        let group = partition.log().group();
        let settings = partition.settings();
        if !settings.compact
            || skipped.uncleanable.contains(&replica(&partition))
            || skipped.deferred.contains(&group)
        {
            continue;
        }
        let mut segments = partition.log().segments();
        let roll = segments
            .last()
            .is_some_and(|active| roll_due(active, &settings, now_ms));
        if roll && partition.roll().await {
            segments = partition.log().segments();
        }
        let state = State {
            segments: &segments,
            compacted_offset: partition.log().compacted_offset(),
            stable_offset: partition.last_stable_offset(),
            settings: &settings,
        };
        if let Some(due) = due(&state, now_ms)
            && best.as_ref().is_none_or(|(_, best)| due.before(best))
        {
            best = Some((partition, due));
        }
    }
    best
}

/// Which replica of which group a partition is.
fn replica(partition: &Partition) -> (GroupId, NodeId) {
    let group = partition.group();
    (group.id(), group.node())
}

/// Makes one pass.
async fn clean(
    shared: &Shared,
    partition: &Partition,
    due: &Due,
    settings: &Settings,
    now_ms: i64,
    stop: &Arc<AtomicBool>,
) -> Result<Compaction, Failure> {
    let upto_offset = due.upto_offset;
    let purge = partition.purge_entries_below(upto_offset, &shared.cluster);
    match tokio::time::timeout(PURGE_WAIT, purge).await {
        Ok(purged) => purged?,
        Err(_) => return Err(Failure::NotPurged),
    }
    let topic = partition.settings();
    let rules = CompactionRules {
        upto_offset,
        committed_offset: partition.last_stable_offset(),
        now_ms,
        delete_retention_ms: topic.delete_retention_ms,
        map_bytes: bytes(settings.long("log.cleaner.dedupe.buffer.size")),
        map_load_factor: settings.double("log.cleaner.io.buffer.load.factor"),
        io_buffer_bytes: bytes(settings.long("log.cleaner.io.buffer.size")),
        decompress_budget: topic.max_message_bytes.max(LEAST_MESSAGE_BYTES) * UNPACK_FACTOR,
    };
    let mut throttle = Throttle {
        bytes_per_second: settings.double("log.cleaner.io.max.bytes.per.second"),
        began: Instant::now(),
        bytes: 0,
        stop: Arc::clone(stop),
    };
    let log = partition.log().clone();
    let before = log.compacted_offset();
    let pass = move || log.compact(&rules, &mut |bytes| throttle.take(bytes));
    let done = klamm_raft::blocking::spawn_blocking(pass).await??;
    match done.compacted_offset > before {
        true => Ok(done),
        false => Err(Failure::NotPurged),
    }
}

fn bytes(setting: i64) -> usize {
    usize::try_from(setting).unwrap_or(0)
}

/// Says what became of a pass, and whether the log is tried again.
fn report(
    shared: &Shared,
    partition: &Partition,
    took: Duration,
    done: Result<Compaction, Failure>,
    skipped: &mut Skipped,
) {
    let (topic, index) = (&**partition.topic(), partition.index());
    let group = partition.log().group();
    match done {
        Ok(done) => {
            let Compaction {
                bytes_before,
                bytes_after,
                ..
            } = done;
            shared.metrics.compacted(bytes_before, bytes_after, took);
            info!(
                topic,
                partition = index,
                bytes_before,
                bytes_after,
                segments_before = done.segments_before,
                segments_after = done.segments_after,
                compacted_offset = done.compacted_offset,
                seconds = took.as_secs_f64(),
                "compacted"
            );
            // Each log once a round: one that is always overdue does not keep out the others.
            skipped.deferred.insert(group);
            if done.keys >= done.key_capacity {
                skipped.unfinished = true;
                debug!(
                    topic,
                    partition = index,
                    "the map of keys was full; the next pass goes on"
                );
            }
        }
        Err(Failure::Pass(CompactionError::Storage(StorageError::Corrupt { .. }))) => {
            error!(
                topic,
                partition = index,
                "this replica is not compacted until it is replaced, or until the next start: its log is damaged"
            );
            skipped.uncleanable.insert(replica(partition));
            shared.metrics.uncleanable(skipped.uncleanable.len());
        }
        Err(Failure::Pass(CompactionError::Stopped)) => {}
        Err(cause @ (Failure::NotPurged | Failure::Pass(CompactionError::Changed))) => {
            debug!(topic, partition = index, %cause, "compaction deferred");
            skipped.deferred.insert(group);
        }
        Err(cause) => {
            warn!(topic, partition = index, %cause, "compaction deferred");
            skipped.deferred.insert(group);
        }
    }
}

/// Holds a pass to `log.cleaner.io.max.bytes.per.second`, reading and writing together.
struct Throttle {
    bytes_per_second: f64,
    began: Instant,
    bytes: u64,
    stop: Arc<AtomicBool>,
}

impl Throttle {
    /// Waits until `bytes` more may be read or written. False: the pass is to stop.
    fn take(&mut self, bytes: u64) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        while !self.stop.load(Ordering::Acquire) {
            let ahead = self.bytes as f64 / self.bytes_per_second.max(1.0)
                - self.began.elapsed().as_secs_f64();
            if ahead <= 0.0 {
                return true;
            }
            std::thread::sleep(Duration::from_secs_f64(ahead.min(NAP.as_secs_f64())));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::Throttle;

    #[test]
    fn a_throttled_pass_takes_its_time_and_can_be_stopped() {
        let stop = Arc::new(AtomicBool::new(false));
        let throttle = |bytes_per_second| Throttle {
            bytes_per_second,
            began: Instant::now(),
            bytes: 0,
            stop: Arc::clone(&stop),
        };
        let mut slow = throttle(1_000_000.0);
        let began = Instant::now();
        assert!(slow.take(30_000));
        assert!(began.elapsed() >= Duration::from_millis(29));
        assert!(throttle(f64::MAX).take(u64::MAX));
        stop.store(true, Ordering::Release);
        assert!(!throttle(1.0).take(1 << 40));
    }
}
