//! `/metrics`: the counters, and what is only looked at when somebody asks.

use std::fmt::Write as _;
use std::sync::Arc;

use prometheus::{Encoder, TextEncoder};

use super::metrics::{MetricDoc, doc};
use crate::coordinator::{GroupLag, Overview};
use crate::node::Shared;

/// The exposition in Prometheus' text format.
pub async fn render(shared: &Arc<Shared>) -> String {
    let series = shared.settings().int("klamm.metrics.group.partitions");
    let series = usize::try_from(series).unwrap_or(0);
    let overview = shared.coordinators.lags().overview(shared, series).await;
    let mut buffer = Vec::new();
    let families = shared.metrics.registry().gather();
    TextEncoder::new()
        .encode(&families, &mut buffer)
        .expect("gathered metrics are valid and memory does not fail");
    let mut page = Page {
        text: String::from_utf8_lossy(&buffer).into_owned(),
    };
    node(&mut page, shared);
    cluster(&mut page, shared);
    store(&mut page, shared);
    process(&mut page);
    groups(&mut page, &overview);
    if shared.settings().boolean("klamm.metrics.partitions") {
        per_partition(&mut page, shared);
    }
    page.text
}

struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, metric: &MetricDoc) {
        self.line(format_args!("# HELP {} {}", metric.name, metric.help));
        self.line(format_args!("# TYPE {} {}", metric.name, metric.kind));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string does not fail");
    }

    fn value(&mut self, metric: &MetricDoc, value: impl std::fmt::Display) {
        self.head(metric);
        self.line(format_args!("{} {value}", metric.name));
    }

    /// Cumulative buckets from counts per bucket.
    fn histogram(&mut self, metric: &MetricDoc, buckets: &[(f64, u64)], sum: f64) {
        self.head(metric);
        let mut count = 0;
        for (bound, in_bucket) in buckets {
            count += in_bucket;
            if bound.is_finite() {
                self.line(format_args!(
                    "{}_bucket{{le=\"{bound}\"}} {count}",
                    metric.name
                ));
            }
        }
        self.line(format_args!(
            "{}_bucket{{le=\"+Inf\"}} {count}",
            metric.name
        ));
        self.line(format_args!("{}_sum {sum}", metric.name));
        self.line(format_args!("{}_count {count}", metric.name));
    }
}

fn node(page: &mut Page, shared: &Shared) {
    page.head(&doc::BUILD_INFO);
    page.line(format_args!(
        "{}{{version=\"{}\"}} 1",
        doc::BUILD_INFO.name,
        env!("CARGO_PKG_VERSION")
    ));
    page.value(&doc::UPTIME, shared.started.elapsed().as_secs_f64());
    page.value(&doc::REQUEST_MEMORY, shared.budget.used());
    page.value(&doc::ANSWER_MEMORY, shared.answers.used());
    page.value(&doc::FETCH_SESSIONS, shared.sessions.len());
    page.value(&doc::TOPICS, shared.controller.image().topic_count());
    let (snapshots, newest) = shared.controller.snapshots();
    page.value(&doc::METADATA_SNAPSHOTS, snapshots);
    page.value(&doc::METADATA_SNAPSHOT, newest.unwrap_or(-1));
    let log = shared.controller.group().log();
    page.value(&doc::METADATA_BYTES, log.size_bytes());
    partitions(page, shared);
}

fn partitions(page: &mut Page, shared: &Shared) {
    let (mut leading, mut following, mut leaderless) = (0, 0, 0);
    let (mut under_replicated, mut under_min_isr, mut lag) = (0, 0, 0);
    let image = shared.controller.image();
    for partition in shared.partitions.all() {
        if partition.serving_epoch().is_none() {
            let leader = partition.leadership().leader;
            let is_led = leader.is_some_and(|leader| leader != partition.group().node());
            following += usize::from(is_led);
            leaderless += usize::from(!is_led);
            continue;
        }
        leading += 1;
        let topic = image.topic_by_id(partition.topic_id());
        let assigned = topic.and_then(|topic| topic.partition(partition.index()));
        // Deleted in this moment.
        let Some(assigned) = assigned else { continue };
        let (replicas, in_sync) = (assigned.replicas.len(), partition.in_sync().len());
        let least = partition.settings().min_insync_replicas.min(replicas);
        under_replicated += usize::from(in_sync < replicas);
        under_min_isr += usize::from(in_sync < least);
        let progress = partition.group().progress();
        let behind = progress.matched.iter();
        let behind = behind.map(|(_, index)| progress.last_index.saturating_sub(*index));
        lag = lag.max(behind.max().unwrap_or(0));
    }
    page.head(&doc::PARTITIONS);
    for (state, count) in [
        ("leading", leading),
        ("following", following),
        ("leaderless", leaderless),
    ] {
        page.line(format_args!(
            "{}{{state=\"{state}\"}} {count}",
            doc::PARTITIONS.name
        ));
    }
    page.value(&doc::UNDER_REPLICATED, under_replicated);
    page.value(&doc::UNDER_MIN_ISR, under_min_isr);
    page.value(&doc::REPLICA_LAG, lag);
}

fn cluster(page: &mut Page, shared: &Shared) {
    let image = shared.controller.image();
    page.value(&doc::NODES, image.brokers().count());
    page.value(&doc::NODES_HEARD, shared.cluster.heard());
    let leads = shared.controller.group().leads();
    page.value(&doc::CONTROLLER, u8::from(leads));
    let fills = shared.groups.fills();
    let of = |incoming: bool| {
        let these = fills.iter().map(|(_, fill)| fill);
        these.filter(move |fill| fill.incoming == incoming)
    };
    let directions = [("in", true), ("out", false)];
    page.head(&doc::FILLS);
    for (direction, incoming) in directions {
        page.line(format_args!(
            "{}{{direction=\"{direction}\"}} {}",
            doc::FILLS.name,
            of(incoming).count()
        ));
    }
    page.head(&doc::FILL_BYTES_LEFT);
    for (direction, incoming) in directions {
        let left = of(incoming).map(|fill| fill.bytes_total.saturating_sub(fill.bytes_done));
        page.line(format_args!(
            "{}{{direction=\"{direction}\"}} {}",
            doc::FILL_BYTES_LEFT.name,
            left.sum::<u64>()
        ));
    }
}

fn store(page: &mut Page, shared: &Shared) {
    let stats = shared.store.stats();
    page.value(&doc::LOG_SIZE, stats.segment_bytes);
    page.value(&doc::SEGMENTS, stats.segments);
    page.value(&doc::OPEN_FILES, stats.open_files);
    page.value(&doc::JOURNAL_BYTES, stats.journal_bytes);
    page.value(&doc::JOURNAL_FRAMES, stats.journal_frames);
    page.histogram(
        &doc::JOURNAL_SYNC,
        &stats.sync_seconds,
        stats.sync_seconds_sum,
    );
    page.value(&doc::JOURNAL_SLOWEST, stats.slowest_round_seconds);
    page.histogram(
        &doc::JOURNAL_ROUND,
        &stats.round_frames,
        stats.round_frames_sum,
    );
    page.value(&doc::CHECKPOINTS, stats.checkpoints);
    page.value(&doc::CORRUPTIONS, stats.corruptions);
    page.value(&doc::DAMAGED, shared.store.damaged().len());
    page.value(&doc::DISK_FREE, stats.free_bytes);
    page.value(&doc::DISK_TOTAL, stats.total_bytes);
    page.value(&doc::WRITABLE, u8::from(shared.store.writable()));
}

fn process(page: &mut Page) {
    if let Some(bytes) = resident_bytes() {
        page.value(&doc::MEMORY, bytes);
    }
    if let Some(seconds) = cpu_seconds() {
        page.value(&doc::CPU, seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.value(&doc::FILES, files.count());
    }
}

/// Field 2 of `/proc/self/statm`, in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Fields 14 and 15 of `/proc/self/stat`, in ticks. The second field may hold blanks.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn groups(page: &mut Page, overview: &Overview) {
    page.head(&doc::GROUPS);
    for (kind, count) in &overview.groups {
        page.line(format_args!(
            "{}{{state=\"{}\",type=\"{}\"}} {count}",
            doc::GROUPS.name,
            kind.state,
            kind.group_type
        ));
    }
    page.head(&doc::GROUP_LAG_RECORDS);
    for lag in &overview.lags {
        page.line(format_args!(
            "{}{{{}}} {}",
            doc::GROUP_LAG_RECORDS.name,
            lag_labels(lag),
            lag.records
        ));
    }
    page.head(&doc::GROUP_LAG_SECONDS);
    for lag in &overview.lags {
        page.line(format_args!(
            "{}{{{}}} {}",
            doc::GROUP_LAG_SECONDS.name,
            lag_labels(lag),
            lag.seconds
        ));
    }
}

fn lag_labels(lag: &GroupLag) -> String {
    format!(
        "group=\"{}\",topic=\"{}\",partition=\"{}\"",
        label_value(&lag.group),
        lag.topic,
        lag.partition
    )
}

/// A label's value as the text format wants it: groups may be called anything.
fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn per_partition(page: &mut Page, shared: &Shared) {
    let mut partitions = shared.partitions.all();
    partitions.sort_by(|a, b| (a.topic(), a.index()).cmp(&(b.topic(), b.index())));
    page.head(&doc::PARTITION_SIZE);
    for partition in &partitions {
        let (topic, index) = (partition.topic(), partition.index());
        page.line(format_args!(
            "{}{{topic=\"{topic}\",partition=\"{index}\"}} {}",
            doc::PARTITION_SIZE.name,
            partition.log().size_bytes()
        ));
    }
    page.head(&doc::PARTITION_END);
    for partition in &partitions {
        let (topic, index) = (partition.topic(), partition.index());
        page.line(format_args!(
            "{}{{topic=\"{topic}\",partition=\"{index}\"}} {}",
            doc::PARTITION_END.name,
            partition.high_watermark()
        ));
    }
}
