//! How far groups lag: committed offsets against high watermarks, in records and in seconds.
//!
//! Looked at only when somebody asks (a scrape), and not more often than every few seconds. Seconds are
//! those since the timestamp of the record at the committed offset, the next one to read: 0 when there
//! is none. Those timestamps are read off the runtime's threads and kept as long as the offset stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use klamm_coordinator::{Answer, Caller, Request};
use klamm_protocol::messages::list_groups_response::ListedGroup;
use klamm_records::{BatchHeader, RecordSet, TopicId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Ask, CommittedOffset, Door};
use crate::node::Shared;
use crate::partition::Partition;

/// How old an overview may be.
const REFRESH: Duration = Duration::from_secs(5);
/// How long a shard is waited for; one that is busy is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that the batch at a committed offset may decompress to.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Lag of one partition of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLag {
    /// Group.
    pub group: Arc<str>,
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Records between the committed offset and the high watermark.
    pub records: i64,
    /// Seconds since the time of the next record to read; 0 without one.
    pub seconds: f64,
}

/// Groups of one state and type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupCount {
    /// As ListGroups says it, such as `Stable`.
    pub state: String,
    /// `classic` or `consumer`.
    pub group_type: String,
}

/// What was found at one look.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// How many groups there are of each state and type.
    pub groups: BTreeMap<GroupCount, usize>,
    /// The most lagging partitions first, as many as are wanted.
    pub lags: Vec<GroupLag>,
}

/// Timestamps of records at committed offsets, by partition and offset.
type Timestamps = HashMap<(TopicId, i32, i64), i64>;

/// The last overview and what it was made with.
#[derive(Default)]
pub struct Lags {
    last: Mutex<Option<(Instant, Arc<Overview>)>>,
    /// One look at a time; others wait for its result.
    looking: tokio::sync::Mutex<Timestamps>,
}

/// A committed offset of a partition that this node leads.
struct Committed {
    group: Arc<str>,
    partition: Arc<Partition>,
    offset: i64,
}

impl Lags {
    /// An overview that is at most a few seconds old, with the lag of up to `series` partitions.
    pub async fn overview(&self, shared: &Arc<Shared>, series: usize) -> Arc<Overview> {
        if let Some(overview) = self.fresh() {
            return overview;
        }
        let mut timestamps = self.looking.lock().await;
        if let Some(overview) = self.fresh() {
            return overview;
        }
        let overview = Arc::new(look(shared, series, &mut timestamps).await);
        *self.last.lock() = Some((Instant::now(), overview.clone()));
        overview
    }

    fn fresh(&self) -> Option<Arc<Overview>> {
        let last = self.last.lock();
        let (when, overview) = last.as_ref()?;
        (when.elapsed() < REFRESH).then(|| overview.clone())
    }
}

async fn look(shared: &Arc<Shared>, series: usize, timestamps: &mut Timestamps) -> Overview {
    let mut overview = Overview::default();
    let mut committed = Vec::new();
    // A shard that is being read, or is busy, is left out.
    for door in shared.coordinators.doors().into_iter().flatten() {
        let Some(groups) = groups(&door).await else {
            continue;
        };
        for group in groups {
            let kind = GroupCount {
                state: group.group_state.to_string(),
                group_type: group.group_type.to_string(),
            };
            *overview.groups.entry(kind).or_default() += 1;
        }
        if series > 0 {
            committed.extend(offsets(shared, &door).await);
        }
    }
    let lag = |found: &Committed| records_behind(found.partition.high_watermark(), found.offset);
    let committed = laggards(committed, series, lag);
    overview.lags = with_seconds(shared, committed, timestamps).await;
    overview
}

/// Records between a committed offset, which may be any number a client thought of, and the end.
fn records_behind(end: i64, committed: i64) -> i64 {
    end.saturating_sub(committed).max(0)
}

/// Those with the most lag. It is asked once of each, since it moves while they are sorted.
fn laggards<T>(mut found: Vec<T>, most: usize, lag: impl Fn(&T) -> i64) -> Vec<T> {
    found.sort_by_cached_key(|one| std::cmp::Reverse(lag(one)));
    found.truncate(most);
    found
}

/// Committed offsets of a shard in partitions that this node leads.
async fn offsets(shared: &Arc<Shared>, door: &Door) -> Vec<Committed> {
    let (look, committed) = oneshot::channel();
    let looked = async {
        door.looks.send(look).await.ok()?;
        committed.await.ok()
    };
    let Ok(Some(committed)) = tokio::time::timeout(PATIENCE, looked).await else {
        return Vec::new();
    };
    let image = shared.controller.image();
    let here = |found: CommittedOffset| {
        let topic = image.topic(&found.topic)?;
        let partition = shared.partitions.get(topic.id, found.partition)?;
        partition.serving_epoch()?;
        Some(Committed {
            group: found.group,
            partition,
            offset: found.offset,
        })
    };
    committed.into_iter().filter_map(here).collect()
}

async fn groups(door: &Door) -> Option<Vec<ListedGroup>> {
    let (reply, answer) = oneshot::channel();
    let caller = Caller {
        client_id: Arc::from("metrics"),
        host: std::net::Ipv4Addr::LOCALHOST.into(),
        version: i16::MAX,
    };
    let ask = Ask {
        caller,
        request: Request::ListGroups,
        reply,
    };
    let asked = async {
        door.asks.send(ask).await.ok()?;
        match answer.await {
            Ok(Ok(Answer::ListGroups(groups))) => Some(groups),
            _ => None,
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}

/// Adds the seconds, reading the records whose time is not known yet.
async fn with_seconds(
    shared: &Arc<Shared>,
    committed: Vec<Committed>,
    timestamps: &mut Timestamps,
) -> Vec<GroupLag> {
    let known = std::mem::take(timestamps);
    let now_ms = shared.clock.now_ms();
    let work = klamm_raft::blocking::spawn_blocking(move || {
        let mut kept = Timestamps::new();
        let lags = committed
            .iter()
            .map(|found| lag_of(found, &known, &mut kept, now_ms))
            .collect();
        (lags, kept)
    });
    match work.await {
        Ok((lags, kept)) => {
            *timestamps = kept;
            lags
        }
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn lag_of(found: &Committed, known: &Timestamps, kept: &mut Timestamps, now_ms: i64) -> GroupLag {
    let partition = &found.partition;
    let records = records_behind(partition.high_watermark(), found.offset);
    let key = (partition.topic_id(), partition.index(), found.offset);
    let timestamp = if records == 0 {
        None
    } else {
        let timestamp = known.get(&key).copied();
        timestamp.or_else(|| timestamp_at(partition, found.offset))
    };
    if let Some(timestamp) = timestamp {
        kept.insert(key, timestamp);
    }
    let age_ms = timestamp.map_or(0, |timestamp| now_ms.saturating_sub(timestamp).max(0));
    GroupLag {
        group: found.group.clone(),
        topic: partition.topic().clone(),
        partition: partition.index(),
        records,
        seconds: age_ms as f64 / 1000.0,
    }
}

/// Timestamp of the first record at or after `offset`; `None` if there is none, it has none, or it
/// cannot be read: lag is no reason to fail.
fn timestamp_at(partition: &Partition, offset: i64) -> Option<i64> {
    let from = offset.max(partition.start_offset());
    let batch = partition
        .log()
        .read(from, partition.high_watermark(), 1, true)
        .ok()?;
    let header = BatchHeader::parse(&batch)?;
    let records = RecordSet::open(&batch, &header, MAX_BATCH_BYTES).ok()?;
    let first = records.iter().find_map(|record| {
        let record = record.ok()?;
        (record.offset(&header) >= from).then(|| record.timestamp(&header))
    });
    first.filter(|timestamp| *timestamp >= 0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{laggards, records_behind};

    #[test]
    fn any_offset_may_be_committed() {
        assert_eq!(records_behind(10, 4), 6);
        assert_eq!(records_behind(10, 11), 0);
        assert_eq!(records_behind(10, i64::MIN), i64::MAX);
        assert_eq!(records_behind(0, i64::MAX), 0);
    }

    #[test]
    fn the_most_lag_comes_first_although_it_moves_meanwhile() {
        assert_eq!(laggards(vec![3, 9, 0, 7], 2, |lag| *lag), [9, 7]);
        let clock = Cell::new(0_u64);
        let moving = |_: &i32| {
            clock.set(clock.get() + 1);
            i64::try_from(clock.get().wrapping_mul(2_654_435_761) % 1000).expect("small")
        };
        assert_eq!(laggards((0..1000).collect(), 1000, moving).len(), 1000);
        assert_eq!(clock.get(), 1000, "asked once of each");
    }
}
