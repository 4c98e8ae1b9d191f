//! DescribeLogDirs (key 35), versions 1-4: sizes of partitions in the data directory
//! (behaviour 116). Version 3 adds a top-level error, 4 the disk's totals. From version 2 on a disk in
//! trouble says so in a tagged field of our own.

use std::collections::{BTreeMap, HashMap, HashSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use klamm_protocol::DISK_TROUBLE_TAG;

use super::text;
use crate::context::RequestContext;

/// Bytes of an answer for one partition.
const PARTITION_BYTES: usize = 32;

/// About how large the answer will be, in bytes: that of all partitions, at most.
pub fn answer_size(ctx: &RequestContext, _: &DescribeLogDirsRequest) -> usize {
    ctx.shared.controller.image().partition_count() * PARTITION_BYTES
}

/// Answers a DescribeLogDirs request.
pub async fn handle(
    ctx: RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let asked: Option<HashMap<String, HashSet<i32>>> = request.topics.map(|topics| {
        let mut asked: HashMap<String, HashSet<i32>> = HashMap::new();
        for topic in topics {
            asked
                .entry(topic.topic.to_string())
                .or_default()
                .extend(topic.partitions);
        }
        asked
    });
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in ctx.shared.partitions.all() {
        let wanted = asked.as_ref().is_none_or(|asked| {
            asked
                .get(&**partition.topic())
                .is_some_and(|indexes| indexes.contains(&partition.index()))
        });
        if wanted {
            let size = i64::try_from(partition.log().size_bytes()).unwrap_or(i64::MAX);
            topics
                .entry(partition.topic().to_string())
                .or_default()
                .push(
                    DescribeLogDirsPartition::default()
                        .with_partition_index(partition.index())
                        .with_partition_size(size),
                );
        }
    }
    let topics = topics
        .into_iter()
        .map(|(name, mut partitions)| {
            partitions.sort_by_key(|partition| partition.partition_index);
            DescribeLogDirsTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions)
        })
        .collect();
    let stats = ctx.shared.store.stats();
    let mut result = DescribeLogDirsResult::default()
        .with_log_dir(text(ctx.shared.data_dir.display().to_string()))
        .with_topics(topics);
    if ctx.version >= 4 {
        result.total_bytes = i64::try_from(stats.total_bytes).unwrap_or(i64::MAX);
        result.usable_bytes = i64::try_from(stats.free_bytes).unwrap_or(i64::MAX);
    }
    if let Some(trouble) = ctx.shared.disk_trouble().filter(|_| ctx.version >= 2) {
        result
            .unknown_tagged_fields
            .insert(DISK_TROUBLE_TAG, trouble.into());
    }
    DescribeLogDirsResponse::default().with_results(vec![result])
}
