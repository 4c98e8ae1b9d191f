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
    let partitions = shared.partitions.all();
    let leading = partitions
        .iter()
        .filter(|partition| partition.serving_epoch().is_some())
        .count();
    page.head(&doc::PARTITIONS);
    page.line(format_args!(
        "{}{{state=\"leading\"}} {leading}",
        doc::PARTITIONS.name
    ));
    page.line(format_args!(
        "{}{{state=\"leaderless\"}} {}",
        doc::PARTITIONS.name,
        partitions.len() - leading
    ));
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
