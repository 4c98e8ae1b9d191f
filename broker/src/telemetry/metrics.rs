//! The broker's counters. Names, labels and help texts are here and nowhere else.
//!
//! Handles per API are made once, so that counting a request looks nothing up.

use std::time::Duration;

use klamm_coordinator::records::GroupRecord;
use klamm_protocol::{Api, ErrorCode};
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};

/// A metric as documented: name, kind, labels, help.
pub struct MetricDoc {
    /// Name in the exposition.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One line for people.
    pub help: &'static str,
}

macro_rules! metric_docs {
    ($($id:ident: $name:literal, $kind:literal, [$($label:literal),*], $help:literal;)*) => {
        /// Every metric this broker exposes.
        pub const METRICS: &[MetricDoc] = &[$(MetricDoc { name: $name, kind: $kind, labels: &[$($label),*], help: $help }),*];
        pub(super) mod doc {
            use super::MetricDoc;
            $(pub(crate) const $id: MetricDoc = MetricDoc { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        }
    };
}

metric_docs! {
    BUILD_INFO: "klamm_build_info", "gauge", ["version"], "Always 1; the label names the version";
    UPTIME: "klamm_uptime_seconds", "gauge", [], "Seconds since the process started";
    REQUESTS: "klamm_requests_total", "counter", ["api"], "Requests received";
    ERRORS: "klamm_request_errors_total", "counter", ["api", "error"], "Error codes answered, per partition or resource they were answered for";
    LATENCY: "klamm_request_seconds", "histogram", ["api"], "From a request's last byte received to its answer written, waiting for data included";
    BYTES_IN: "klamm_request_bytes_total", "counter", ["api"], "Bytes of requests received";
    BYTES_OUT: "klamm_response_bytes_total", "counter", ["api"], "Bytes of answers written";
    CONNECTIONS: "klamm_connections", "gauge", [], "Client connections open";
    ACCEPTED: "klamm_connections_accepted_total", "counter", [], "Client connections accepted";
    ENDED: "klamm_connections_ended_total", "counter", ["why"], "Client connections that ended, by reason";
    REJECTS: "klamm_protocol_rejects_total", "counter", ["kind"], "What was refused before it was a request: http, tls, other protocols, bad frames, headers and bodies, connections over a limit";
    PANICS: "klamm_connection_panics_total", "counter", [], "Connections that ended by a bug of the broker";
    REQUEST_MEMORY: "klamm_request_memory_bytes", "gauge", [], "Bytes of requests in flight, charged to the common pool";
    STARVED: "klamm_request_memory_waits_total", "counter", [], "Times that a connection was not read because the common pool was empty";
    ANSWER_MEMORY: "klamm_fetch_memory_bytes", "gauge", [], "Bytes of records and other large answers that are not written yet";
    ACCEPT_FAILURES: "klamm_accept_failures_total", "counter", [], "Connections that could not be accepted, for want of file descriptors above all";
    THROTTLED_TOPICS: "klamm_topic_creations_throttled_total", "counter", [], "Topics not created because clients create them too fast";
    RECORDS_IN: "klamm_produced_records_total", "counter", [], "Records accepted from producers";
    BATCHES_IN: "klamm_produced_batches_total", "counter", [], "Record batches accepted from producers";
    PRODUCED_BYTES: "klamm_produced_bytes_total", "counter", [], "Bytes of record batches accepted from producers";
    FETCHED_BYTES: "klamm_fetched_bytes_total", "counter", [], "Bytes of record batches answered to consumers";
    FETCH_SESSIONS: "klamm_fetch_sessions", "gauge", [], "Incremental fetch sessions open";
    TOPICS: "klamm_topics", "gauge", [], "Topics in the cluster";
    PARTITIONS: "klamm_partitions", "gauge", ["state"], "Partitions of this node: leading, following another node, or without a leader known here";
    UNDER_REPLICATED: "klamm_partitions_under_replicated", "gauge", [], "Partitions led by this node of which a replica is not in sync";
    UNDER_MIN_ISR: "klamm_partitions_under_min_isr", "gauge", [], "Partitions led by this node with fewer replicas in sync than min.insync.replicas wants";
    REPLICA_LAG: "klamm_replica_lag_entries_max", "gauge", [], "Entries of the log that the slowest replica of a partition led by this node lacks";
    NODES: "klamm_cluster_nodes", "gauge", [], "Nodes registered in the cluster";
    NODES_HEARD: "klamm_node_up_peers", "gauge", [], "Other nodes that this one hears";
    CONTROLLER: "klamm_controller_is_leader", "gauge", [], "1 on the node that leads the metadata group";
    FILLS: "klamm_replica_fills", "gauge", ["direction"], "Replicas that are being filled with another one's log: in, of this node; out, from it";
    FILL_BYTES_LEFT: "klamm_replica_fill_left_bytes", "gauge", ["direction"], "Bytes of segments that those replicas lack";
    METADATA_SNAPSHOTS: "klamm_metadata_snapshots_total", "counter", [], "Snapshots of the metadata that this node has met in its log since it started";
    METADATA_SNAPSHOT: "klamm_metadata_snapshot_offset", "gauge", [], "Offset at which the newest snapshot of the metadata begins; -1 while there is none";
    METADATA_BYTES: "klamm_metadata_log_bytes", "gauge", [], "Bytes of the metadata log";
    LOG_SIZE: "klamm_log_size_bytes", "gauge", [], "Bytes of all partition logs";
    SEGMENTS: "klamm_log_segments", "gauge", [], "Segment files";
    OPEN_FILES: "klamm_log_open_files", "gauge", [], "Segment files held open";
    JOURNAL_BYTES: "klamm_journal_bytes_total", "counter", [], "Bytes written to the journal";
    JOURNAL_FRAMES: "klamm_journal_frames_total", "counter", [], "Frames written to the journal";
    JOURNAL_SYNC: "klamm_journal_sync_seconds", "histogram", [], "Time of one fdatasync of the journal";
    JOURNAL_SLOWEST: "klamm_journal_slowest_round_seconds", "gauge", [], "Longest time of the last 15 to 30 s until what was queued was durable, one that lasts still included";
    JOURNAL_ROUND: "klamm_journal_round_frames", "histogram", [], "Frames that shared one fdatasync";
    CHECKPOINTS: "klamm_checkpoints_total", "counter", [], "Checkpoints of the store";
    CORRUPTIONS: "klamm_corruptions_total", "counter", [], "Places of stored data found corrupt";
    REPAIRS: "klamm_replica_repairs_total", "counter", ["outcome"], "Damaged replicas replaced by new ones that the others fill: begun, finished, or abandoned because the partition went";
    DAMAGED: "klamm_replicas_damaged", "gauge", [], "Replicas of this node of whose log damage is known, until they are replaced";
    DISK_FREE: "klamm_disk_free_bytes", "gauge", [], "Free bytes of the file system that holds the data";
    DISK_TOTAL: "klamm_disk_total_bytes", "gauge", [], "Size of the file system that holds the data";
    WRITABLE: "klamm_writable", "gauge", [], "1 while producing is allowed, 0 while the disk is full up to its reserve";
    MEMORY: "klamm_memory_resident_bytes", "gauge", [], "Resident memory of the process";
    CPU: "klamm_cpu_seconds_total", "counter", [], "CPU time of the process, user and system";
    FILES: "klamm_open_file_descriptors", "gauge", [], "File descriptors open";
    GROUP_REBALANCES: "klamm_group_rebalances_total", "counter", ["protocol"], "Assignments handed out to groups: classic by their leader, consumer by this broker";
    GROUP_COMMITS: "klamm_group_offset_commits_total", "counter", [], "Offsets committed, by partition";
    GROUP_RECORDS: "klamm_group_records_total", "counter", [], "Records that the group coordinator decided to write";
    SHARD_LOADS: "klamm_group_shard_load_seconds", "histogram", [], "Time to read one partition of __consumer_offsets when this broker became its coordinator";
    SHARD_RECORDS: "klamm_group_shard_loaded_records_total", "counter", [], "Records read when this broker became coordinator";
    SHARD_DROPS: "klamm_group_shard_drops_total", "counter", ["why"], "Shards dropped and read again: load, append or panic";
    GROUPS: "klamm_groups", "gauge", ["state", "type"], "Groups coordinated by this broker";
    GROUP_LAG_RECORDS: "klamm_group_lag_records", "gauge", ["group", "topic", "partition"], "Records between a group's committed offset and the high watermark; at most klamm.metrics.group.partitions series";
    GROUP_LAG_SECONDS: "klamm_group_lag_seconds", "gauge", ["group", "topic", "partition"], "Seconds since the time of the record at a group's committed offset, 0 at the end; at most klamm.metrics.group.partitions series";
    COMPACTIONS: "klamm_compaction_passes_total", "counter", [], "Passes of log compaction that came to their end";
    COMPACTION_BEFORE: "klamm_compaction_bytes_before_total", "counter", [], "Bytes of segments before they were compacted";
    COMPACTION_AFTER: "klamm_compaction_bytes_after_total", "counter", [], "Bytes that compaction left of them";
    COMPACTION_SECONDS: "klamm_compaction_last_seconds", "gauge", [], "How long the last pass of log compaction took";
    UNCLEANABLE: "klamm_compaction_uncleanable_partitions", "gauge", [], "Partitions that are not compacted because their log is damaged";
    PARTITION_SIZE: "klamm_partition_log_size_bytes", "gauge", ["topic", "partition"], "Bytes of one partition's log; only with klamm.metrics.partitions=true";
    PARTITION_END: "klamm_partition_high_watermark", "gauge", ["topic", "partition"], "Offset after the last committed record; only with klamm.metrics.partitions=true";
}

/// How far the replacement of a damaged replica came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The damaged one is given up.
    Begun,
    /// The new one has the log, and a vote.
    Finished,
    /// The partition went, or went elsewhere.
    Abandoned,
}

impl RepairOutcome {
    const ALL: [RepairOutcome; 3] = [
        RepairOutcome::Begun,
        RepairOutcome::Finished,
        RepairOutcome::Abandoned,
    ];

    fn label(self) -> &'static str {
        match self {
            RepairOutcome::Begun => "begun",
            RepairOutcome::Finished => "finished",
            RepairOutcome::Abandoned => "abandoned",
        }
    }
}

/// 100 µs to 10 s.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

struct ApiMetrics {
    requests: IntCounter,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    latency: Histogram,
}

/// Counters as verbs: code says what happened, this file knows how it is counted.
pub struct Metrics {
    registry: Registry,
    /// By API key.
    apis: Vec<Option<ApiMetrics>>,
    errors: IntCounterVec,
    rejects: IntCounterVec,
    ended: IntCounterVec,
    connections: IntGauge,
    accepted: IntCounter,
    panics: IntCounter,
    starved: IntCounter,
    accept_failures: IntCounter,
    throttled_topics: IntCounter,
    records: IntCounter,
    batches: IntCounter,
    produced_bytes: IntCounter,
    fetched_bytes: IntCounter,
    classic_rebalances: IntCounter,
    consumer_rebalances: IntCounter,
    commits: IntCounter,
    group_records: IntCounter,
    shard_loads: Histogram,
    shard_records: IntCounter,
    shard_drops: IntCounterVec,
    compactions: IntCounter,
    compaction_before: IntCounter,
    compaction_after: IntCounter,
    compaction_seconds: Gauge,
    uncleanable: IntGauge,
    repairs: IntCounterVec,
}

fn opts(doc: &MetricDoc) -> Opts {
    Opts::new(doc.name, doc.help)
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names and labels of the table are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("names of the table are distinct");
    metric
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |doc: MetricDoc| register(&registry, IntCounter::with_opts(opts(&doc)));
        let counters =
            |doc: MetricDoc| register(&registry, IntCounterVec::new(opts(&doc), doc.labels));
        let requests = counters(doc::REQUESTS);
        let bytes_in = counters(doc::BYTES_IN);
        let bytes_out = counters(doc::BYTES_OUT);
        let latency_opts = HistogramOpts::new(doc::LATENCY.name, doc::LATENCY.help)
            .buckets(LATENCY_BUCKETS.to_vec());
        let latency = register(
            &registry,
            HistogramVec::new(latency_opts, doc::LATENCY.labels),
        );
        let apis = (0..=Api::ALL.iter().map(|api| api.key()).max().unwrap_or(0))
            .map(|key| {
                let name = Api::from_key(key)?.name();
                Some(ApiMetrics {
                    requests: requests.with_label_values(&[name]),
                    bytes_in: bytes_in.with_label_values(&[name]),
                    bytes_out: bytes_out.with_label_values(&[name]),
                    latency: latency.with_label_values(&[name]),
                })
            })
            .collect();
        let rebalances = counters(doc::GROUP_REBALANCES);
        let repairs = counters(doc::REPAIRS);
        for outcome in RepairOutcome::ALL {
            repairs.with_label_values(&[outcome.label()]);
        }
        let load_opts = HistogramOpts::new(doc::SHARD_LOADS.name, doc::SHARD_LOADS.help)
            .buckets(LATENCY_BUCKETS.to_vec());
        Metrics {
            apis,
            errors: counters(doc::ERRORS),
            rejects: counters(doc::REJECTS),
            ended: counters(doc::ENDED),
            connections: register(&registry, IntGauge::with_opts(opts(&doc::CONNECTIONS))),
            accepted: counter(doc::ACCEPTED),
            panics: counter(doc::PANICS),
            starved: counter(doc::STARVED),
            accept_failures: counter(doc::ACCEPT_FAILURES),
            throttled_topics: counter(doc::THROTTLED_TOPICS),
            records: counter(doc::RECORDS_IN),
            batches: counter(doc::BATCHES_IN),
            produced_bytes: counter(doc::PRODUCED_BYTES),
            fetched_bytes: counter(doc::FETCHED_BYTES),
            classic_rebalances: rebalances.with_label_values(&["classic"]),
            consumer_rebalances: rebalances.with_label_values(&["consumer"]),
            commits: counter(doc::GROUP_COMMITS),
            group_records: counter(doc::GROUP_RECORDS),
            shard_loads: register(&registry, Histogram::with_opts(load_opts)),
            shard_records: counter(doc::SHARD_RECORDS),
            shard_drops: counters(doc::SHARD_DROPS),
            compactions: counter(doc::COMPACTIONS),
            compaction_before: counter(doc::COMPACTION_BEFORE),
            compaction_after: counter(doc::COMPACTION_AFTER),
            compaction_seconds: register(
                &registry,
                Gauge::with_opts(opts(&doc::COMPACTION_SECONDS)),
            ),
            uncleanable: register(&registry, IntGauge::with_opts(opts(&doc::UNCLEANABLE))),
            repairs,
            registry,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    fn api(&self, api: Api) -> Option<&ApiMetrics> {
        self.apis.get(usize::try_from(api.key()).ok()?)?.as_ref()
    }

    /// A request of `bytes` bytes came in.
    pub fn received(&self, api: Api, bytes: usize) {
        if let Some(metrics) = self.api(api) {
            metrics.requests.inc();
            metrics.bytes_in.inc_by(bytes as u64);
        }
    }

    /// A request was answered with `bytes` bytes, so long after it came.
    pub fn answered(&self, api: Api, after: Duration, bytes: usize) {
        if let Some(metrics) = self.api(api) {
            metrics.bytes_out.inc_by(bytes as u64);
            metrics.latency.observe(after.as_secs_f64());
        }
    }

    /// An answer carries an error code.
    pub fn failed(&self, api: Api, error: ErrorCode) {
        self.errors
            .with_label_values(&[api.name(), error.name()])
            .inc();
    }

    /// Something that is no request was refused.
    pub fn rejected(&self, kind: &str) {
        self.rejects.with_label_values(&[kind]).inc();
    }

    /// The replacement of a damaged replica came so far.
    pub fn repair(&self, outcome: RepairOutcome) {
        self.repairs.with_label_values(&[outcome.label()]).inc();
    }

    /// A connection was accepted.
    pub fn connected(&self) {
        self.accepted.inc();
        self.connections.inc();
    }

    /// Client connections that are open now.
    pub fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    /// A connection ended.
    pub fn disconnected(&self, why: &str) {
        self.connections.dec();
        self.ended.with_label_values(&[why]).inc();
    }

    /// A connection's task panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A connection waits for memory of the common pool.
    pub fn starved(&self) {
        self.starved.inc();
    }

    /// A connection could not be accepted.
    pub fn not_accepted(&self) {
        self.accept_failures.inc();
    }

    /// So many topics were not created, for now.
    pub fn topics_throttled(&self, count: usize) {
        self.throttled_topics.inc_by(count as u64);
    }

    /// A valid batch came from a producer.
    pub fn batch_received(&self, records: i32, bytes: usize) {
        self.batches.inc();
        self.records.inc_by(u64::try_from(records).unwrap_or(0));
        self.produced_bytes.inc_by(bytes as u64);
    }

    /// The group coordinator decided to write records: what they say is what happened.
    pub fn group_records(&self, records: &[GroupRecord]) {
        self.group_records.inc_by(records.len() as u64);
        for record in records {
            match record {
                GroupRecord::OffsetCommit { value: Some(_), .. } => self.commits.inc(),
                GroupRecord::GroupMetadata {
                    value: Some(group), ..
                } if !group.members.is_empty() => {
                    self.classic_rebalances.inc();
                }
                GroupRecord::ConsumerGroupTargetAssignmentMetadata { value: Some(_), .. } => {
                    self.consumer_rebalances.inc();
                }
                _ => {}
            }
        }
    }

    /// A shard of groups was read from its log.
    pub fn shard_loaded(&self, seconds: f64, records: u64) {
        self.shard_loads.observe(seconds);
        self.shard_records.inc_by(records);
    }

    /// A shard of groups was dropped, to be read again.
    pub fn shard_dropped(&self, why: &str) {
        self.shard_drops.with_label_values(&[why]).inc();
    }

    /// Records were answered to a consumer.
    pub fn bytes_fetched(&self, bytes: usize) {
        self.fetched_bytes.inc_by(bytes as u64);
    }

    /// A pass of log compaction came to its end.
    pub fn compacted(&self, bytes_before: u64, bytes_after: u64, took: Duration) {
        self.compactions.inc();
        self.compaction_before.inc_by(bytes_before);
        self.compaction_after.inc_by(bytes_after);
        self.compaction_seconds.set(took.as_secs_f64());
    }

    /// So many partitions are not compacted because their log is damaged.
    pub fn uncleanable(&self, partitions: usize) {
        self.uncleanable
            .set(i64::try_from(partitions).unwrap_or(i64::MAX));
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use klamm_protocol::{Api, ErrorCode};

    use super::{METRICS, Metrics};

    #[test]
    fn names_are_distinct_and_have_help() {
        let names: HashSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(!metric.help.is_empty(), "{}", metric.name);
            assert_eq!(
                metric.kind == "counter",
                metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn an_api_counts_under_its_own_name() {
        let metrics = Metrics::new();
        for api in Api::ALL {
            metrics.received(*api, 10);
            metrics.answered(*api, Duration::from_millis(1), 20);
            metrics.failed(*api, ErrorCode::INVALID_REQUEST);
        }
        let families = metrics.registry().gather();
        let requests = families
            .iter()
            .find(|family| family.name() == "klamm_requests_total")
            .expect("there");
        for (api, metric) in Api::ALL
            .iter()
            .map(|api| api.name())
            .collect::<std::collections::BTreeSet<_>>()
            .iter()
            .zip(requests.get_metric())
        {
            assert_eq!(metric.get_label()[0].value(), *api);
            assert!((metric.get_counter().get_value() - 1.0).abs() < f64::EPSILON);
        }
    }
}
