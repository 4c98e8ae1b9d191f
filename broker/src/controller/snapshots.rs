//! Snapshots of the metadata: when one is written, and what it lets go.
//!
//! A snapshot is a run of records in the metadata log itself (`klamm_metadata::record`), written by the group's leader.
//! Once a replica has applied one, which is to say compared it with its own image, its log begins there: Raft forgets
//! the entries before, then the log start moves, then whole segments go. In this order, so that the log start
//! is never anywhere but at the first command or at a whole snapshot that Raft still has as entries.

use std::sync::Arc;
use std::time::Duration;

use klamm_metadata::Settings;
use klamm_raft::{Group, ProposeError};
use klamm_storage::{Completion, GroupLog, StorageError};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::cluster::Cluster;

/// Pause before what could not be let go is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// A purge waits so long for a replica that reads what is to go.
const PURGE_WAIT: Duration = Duration::from_secs(30);

/// How much may come between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotLimits {
    bytes: u64,
    interval: Option<Duration>,
}

impl SnapshotLimits {
    /// As the settings have it.
    pub fn of(settings: &Settings) -> SnapshotLimits {
        let bytes = settings.long("metadata.log.max.record.bytes.between.snapshots");
        let interval = settings.long("metadata.log.max.snapshot.interval.ms");
        let interval = u64::try_from(interval)
            .ok()
            .filter(|interval| *interval > 0);
        SnapshotLimits {
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            interval: interval.map(Duration::from_millis),
        }
    }

    /// Whether a snapshot is due after so many bytes and so much time: never if it would say what the last one said.
    pub(super) fn are_reached(self, bytes: u64, elapsed: Duration) -> bool {
        let in_time = self.interval.is_some_and(|interval| elapsed >= interval);
        bytes > 0 && (bytes >= self.bytes || in_time)
    }
}

/// Lets go of what lies before the newest snapshot on this replica, whenever there is one.
pub(super) async fn trim(
    group: Group,
    cluster: Arc<Cluster>,
    mut newest: watch::Receiver<Option<i64>>,
) {
    let mut told = None;
    loop {
        let start = *newest.borrow_and_update();
        let done = match start {
            None => true,
            Some(start) => match begin_at(&group, &cluster, start).await {
                Ok(done) => done,
                Err(ProposeError::Stopped | ProposeError::Storage(StorageError::GroupGone(_))) => {
                    return;
                }
                Err(cause) => {
                    if told != Some(start) {
                        told = Some(start);
                        warn!(start, %cause, "the metadata log was not shortened; this is tried again");
                    }
                    false
                }
            },
        };
        let another = newest.changed();
        let another = match done {
            true => another.await,
            false => timeout(AGAIN, another).await.unwrap_or(Ok(())),
        };
        if another.is_err() {
            return;
        }
    }
}

/// Lets the log begin at the snapshot at `start`. False if not all before it may go yet.
async fn begin_at(group: &Group, cluster: &Cluster, start: i64) -> Result<bool, ProposeError> {
    let log = group.log();
    if log.start_offset() >= start {
        return Ok(true);
    }
    if let Some(last) = log.last_entry_below(start)? {
        // A follower may lead one day: what its leader keeps for others it keeps, too.
        let held = cluster.held_by_all(group).await;
        if held.is_none_or(|end| end <= last.index) {
            return Ok(false);
        }
        match timeout(PURGE_WAIT, group.purge(last.index)).await {
            Ok(purged) => purged?,
            Err(_) => return Ok(false),
        }
        let purged = log.raft_state().purged;
        if purged.is_none_or(|purged| purged.index < last.index) {
            return Ok(false);
        }
    }
    // The next snapshot lets go of a whole segment that ends here.
    let active = log.segments().last().map(|active| active.base_offset);
    if active.is_some_and(|base| base < start) {
        roll(log).await?;
    }
    durable(|done| log.set_start_offset(start, done)).await?;
    info!(
        start,
        bytes = log.size_bytes(),
        "the metadata log begins at a snapshot"
    );
    Ok(true)
}

/// Has the next record begin a segment.
pub(super) async fn roll(log: &GroupLog) -> Result<(), ProposeError> {
    durable(|done| log.roll(done)).await
}

async fn durable(start: impl FnOnce(Completion)) -> Result<(), ProposeError> {
    let (done, result) = oneshot::channel();
    start(Box::new(move |result| {
        // The receiver is gone only when the node stops.
        let _ = done.send(result);
    }));
    match result.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ProposeError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes: &str, interval_ms: &str) -> SnapshotLimits {
        let fixed = [
            ("metadata.log.max.record.bytes.between.snapshots", bytes),
            ("metadata.log.max.snapshot.interval.ms", interval_ms),
        ];
        let fixed = fixed.map(|(key, value)| (key.to_owned(), value.to_owned()));
        SnapshotLimits::of(&Settings::load(fixed.into()).expect("valid").0)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_snapshot_is_due_after_so_many_bytes() {
        let limits = limits("1000", "0");
        assert!(!limits.are_reached(999, HOUR * 1000));
        assert!(limits.are_reached(1000, Duration::ZERO));
    }

    #[test]
    fn a_snapshot_is_due_after_so_much_time_if_there_is_anything_new() {
        let limits = limits("1000", "3600000");
        assert!(limits.are_reached(1, HOUR));
        assert!(!limits.are_reached(1, HOUR - Duration::from_millis(1)));
        assert!(!limits.are_reached(0, HOUR * 2));
    }

    #[test]
    fn the_defaults_are_kafkas() {
        let limits = SnapshotLimits::of(&Settings::default());
        assert_eq!(limits.bytes, 20 << 20);
        assert_eq!(limits.interval, Some(HOUR));
    }
}
