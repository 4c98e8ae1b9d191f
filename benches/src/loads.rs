//! The loads of `all` and `cluster`, and of their slices.

use crate::peer::Kind;
use crate::scenarios::{Bar, Held};

use Kind::{Kafka, KafkaFlush, Klamm, Null};

/// A load as it is written on the command line.
pub struct Load {
    /// Its name among others.
    pub name: &'static str,
    /// What is written on the command line.
    pub arguments: &'static [&'static str],
    /// The brokers it tells something about.
    pub peers: &'static [Kind],
}

const fn load(
    name: &'static str,
    arguments: &'static [&'static str],
    peers: &'static [Kind],
) -> Load {
    Load {
        name,
        arguments,
        peers,
    }
}

const STORING: &[Kind] = &[Klamm, Kafka];
const ANSWERING: &[Kind] = &[Klamm, Kafka, Null];
const FLUSHING: &[Kind] = &[Klamm, Kafka, KafkaFlush];
const ALL: &[Kind] = &[Klamm, Kafka, KafkaFlush, Null];

/// Everything that is run against one node.
pub const LOADS: &[Load] = &[
    load("produce-100B-12p", &["produce"], ALL),
    load("produce-100B-1p", &["produce", "--partitions=1"], ANSWERING),
    load("produce-1KiB-12p", &["produce", "--size=1024"], ANSWERING),
    load(
        "produce-1KiB-1p",
        &["produce", "--size=1024", "--partitions=1"],
        ANSWERING,
    ),
    load(
        "produce-1KiB-12p-lz4",
        &["produce", "--size=1024", "--compression=lz4"],
        ANSWERING,
    ),
    load(
        "produce-100B-12p-lz4",
        &["produce", "--compression=lz4"],
        ANSWERING,
    ),
    load("sync-1-100p", &["sync", "--connections=1"], ALL),
    load("sync-100-100p", &["sync"], ANSWERING),
    load("sync-2000-100p", &["sync", "--connections=2000"], ANSWERING),
    load(
        "sync-1-1p",
        &["sync", "--connections=1", "--partitions=1"],
        ALL,
    ),
    load("sync-100-1p", &["sync", "--partitions=1"], ANSWERING),
    load(
        "sync-2000-1p",
        &["sync", "--connections=2000", "--partitions=1"],
        ANSWERING,
    ),
    load("latency-1k-1KiB", &["latency"], FLUSHING),
    load(
        "latency-10k-100B",
        &["latency", "--rate=10000", "--size=100"],
        FLUSHING,
    ),
    load(
        "latency-250k-100B",
        &["latency", "--rate=250000", "--size=100"],
        STORING,
    ),
    load("consume-tail-100B", &["consume", "--from=tail"], STORING),
    load(
        "consume-tail-1KiB",
        &["consume", "--from=tail", "--size=1024"],
        STORING,
    ),
    load("consume-cache-100B", &["consume"], STORING),
    load(
        "consume-cache-1KiB",
        &["consume", "--size=1024", "--mib=2048"],
        STORING,
    ),
    load(
        "consume-disk-1KiB",
        &["consume", "--from=disk", "--size=1024", "--mib=2048"],
        STORING,
    ),
    load("drain-beside-tail", &["latency", "--backlog=2048"], STORING),
    load("partitions-1000", &["partitions"], STORING),
    load(
        "partitions-10000",
        &["partitions", "--count=10000"],
        STORING,
    ),
    load("start", &["start"], STORING),
    load("tools-100B-12p", &["tools"], ANSWERING),
];

/// A load of a slice, and what would be a gross regression: about half of what is reached.
pub struct Sample {
    /// The load.
    pub load: Load,
    /// What it is held to in a slice.
    pub limits: &'static [Held],
}

const fn limit(value: &'static str, against: Kind, bar: Bar) -> Held {
    Held {
        value,
        against,
        bar,
    }
}

/// What of [`LOADS`] is in the slice.
pub const SLICE: &[Sample] = &[
    Sample {
        load: load(
            "produce-100B-12p",
            &["produce", "--seconds=4", "--warm-up=2"],
            ANSWERING,
        ),
        limits: &[
            limit("records_per_second", Kafka, Bar::AtLeast(0.5)),
            limit("records_per_second", Null, Bar::AtLeast(0.25)),
            limit("cpu_seconds_per_gb", Kafka, Bar::AtMost(1.0)),
        ],
    },
    Sample {
        load: load(
            "sync-100-100p",
            &["sync", "--seconds=4", "--warm-up=2"],
            ANSWERING,
        ),
        limits: &[
            limit("requests_per_second", Kafka, Bar::AtLeast(0.3)),
            limit("cpu_ms_per_request", Kafka, Bar::AtMost(1.5)),
        ],
    },
    Sample {
        load: load(
            "latency-10k-100B",
            &[
                "latency",
                "--rate=10000",
                "--size=100",
                "--seconds=5",
                "--warm-up=6",
            ],
            STORING,
        ),
        limits: &[
            limit("missed", Klamm, Bar::Zero),
            limit("e2e_p50", Kafka, Bar::AtMost(2.0)),
            limit("e2e_p99", Kafka, Bar::AtMost(10.0)),
        ],
    },
    Sample {
        load: load("consume-cache-100B", &["consume", "--mib=256"], STORING),
        limits: &[limit("records_per_second", Kafka, Bar::AtLeast(0.3))],
    },
    Sample {
        load: load("start", &["start", "--settle=2", "--idle=4"], STORING),
        limits: &[
            limit("start_seconds", Kafka, Bar::AtMost(0.25)),
            limit("broker_rss", Kafka, Bar::AtMost(0.5)),
        ],
    },
];

/// Everything that is run against three nodes.
pub const CLUSTER: &[Load] = &[
    load("produce-100B-1p", &["produce", "--partitions=1"], STORING),
    load("produce-100B-12p", &["produce"], STORING),
    load("produce-1KiB-12p", &["produce", "--size=1024"], STORING),
    load("sync-1", &["sync", "--connections=1"], STORING),
    load("sync-100", &["sync"], STORING),
    load("latency-1k-1KiB", &["latency"], STORING),
    load(
        "latency-10k-100B",
        &["latency", "--rate=10000", "--size=100"],
        STORING,
    ),
    load("partitions-1000", &["partitions"], STORING),
    load(
        "partitions-10000",
        &["partitions", "--count=10000"],
        &[Klamm],
    ),
    load(
        "fault-kill",
        &["faults", "--fault=kill", "--times=3"],
        STORING,
    ),
    load(
        // In three rounds more than 20 times each node.
        "fault-rolling",
        &["faults", "--fault=stop", "--times=21"],
        STORING,
    ),
    load(
        "fault-freeze",
        &["faults", "--fault=freeze", "--times=3", GIVE_UP],
        STORING,
    ),
    load(
        "fault-cut-in",
        &["faults", "--fault=cut-in", "--times=3"],
        STORING,
    ),
    load(
        "fault-cut-out",
        &["faults", "--fault=cut-out", "--times=3"],
        STORING,
    ),
    load(
        "fault-cut",
        &["faults", "--fault=cut", "--times=3"],
        STORING,
    ),
    load(
        "fault-power",
        &[
            "faults",
            "--fault=power",
            "--times=67",
            "--partitions=100",
            "--rate=20",
        ],
        STORING,
    ),
    load("rebuild-10GB", &["rebuild"], STORING),
];

/// With the clients' default of 30 s a node that stands still would be silent for so long, whoever leads meanwhile.
const GIVE_UP: &str = "--request-timeout=1000";

/// What of [`CLUSTER`] is in the slice.
pub const CLUSTER_SLICE: &[Sample] = &[
    Sample {
        load: load(
            "produce-100B-12p",
            &["produce", "--seconds=4", "--warm-up=2"],
            STORING,
        ),
        limits: &[
            limit("records_per_second", Kafka, Bar::AtLeast(0.5)),
            limit("cpu_seconds_per_gb", Kafka, Bar::AtMost(0.75)),
            limit("broker_peak_rss", Kafka, Bar::AtMost(0.75)),
        ],
    },
    Sample {
        load: load("sync-100", &["sync", "--seconds=4", "--warm-up=2"], STORING),
        limits: &[
            limit("requests_per_second", Kafka, Bar::AtLeast(1.0)),
            limit("cpu_ms_per_request", Kafka, Bar::AtMost(0.75)),
        ],
    },
    Sample {
        load: load(
            "fault-kill",
            &["faults", "--fault=kill", "--partitions=100", "--lasts=5"],
            STORING,
        ),
        limits: &[
            limit("led_silence_p50", Klamm, Bar::Within(5_000.0)),
            limit("led_silence_p50", Kafka, Bar::AtMost(1.0)),
            limit("lost", Klamm, Bar::Zero),
        ],
    },
];
