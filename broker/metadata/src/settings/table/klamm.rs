//! Our own broker keys: what Kafka has no name for.

use super::super::key::Kind::{Boolean, Int, Long, Password, String};
use super::super::key::{Key, broker, broker_null};

pub(super) const KEYS: &[Key] = &[
    broker(String, "klamm.http.listener", "127.0.0.1:9644")
        .doc("Address HOST:PORT of health, metrics and administration over HTTP; port 0 for a free one, empty for none."),
    broker_null(Password, "klamm.cluster.secret")
        .doc("Secret that the nodes of a cluster prove to each other. Needed as soon as there is more than one node, unless klamm.cluster.secret.file is given."),
    broker_null(String, "klamm.cluster.secret.file").doc("File that holds the secret of klamm.cluster.secret; its first line counts."),
    broker(Long, "klamm.disk.reserve.bytes", "536870912")
        .at_least(0)
        .doc("Free bytes of the data directory's file system below which writes are refused with KAFKA_STORAGE_ERROR; reads go on."),
    broker(Long, "klamm.checkpoint.bytes", "268435456")
        .at_least(1_048_576)
        .doc("Bytes of journal after which a checkpoint is taken. Bounds what a start after a crash replays."),
    broker(Long, "klamm.checkpoint.interval.ms", "30000")
        .at_least(100)
        .doc("Longest time in milliseconds that journaled data waits for a checkpoint."),
    broker(Int, "klamm.bypass.bytes", "131072")
        .at_least(4096)
        .doc("Bytes that one partition writes at once from which on they go to its segment directly and the journal only refers to them. Higher costs writes, for what the journal has is written twice; lower costs a sync of each such segment before anything is acknowledged."),
    broker(Int, "klamm.max.open.files", "4096").at_least(64).doc("Segment files that are kept open at the same time."),
    broker(Int, "klamm.connection.inflight.requests", "128")
        .at_least(1)
        .doc("Requests of one connection that may be in progress; the connection is not read while so many are."),
    broker(Long, "klamm.connection.inflight.bytes", "8388608")
        .at_least(1)
        .doc("Bytes of requests and answers of one connection that may be in progress; the connection is not read while so many are."),
    broker(Long, "klamm.decompression.memory.bytes", "134217728")
        .at_least(8_388_608)
        .doc("Bytes that compressed batches of all requests may unpack to at the same time, and so the most that one may, whatever its topic's max.message.bytes: that is 32 times as many, in so far as there is room."),
    broker(Long, "klamm.fetch.memory.bytes", "50331648")
        .at_least(1_048_576)
        .doc("Bytes of records in answers to fetches that are not written yet, of all connections. What is left of it bounds the next answer; the first batch is always sent. Other answers above 64 KiB share an eighth of it and wait for each other."),
    broker(Long, "klamm.request.read.timeout.ms", "10000")
        .between(100, 600_000)
        .doc("Time in milliseconds in which a connection must send its first request, and go on with a request it has begun, or be closed."),
    broker(Long, "klamm.response.write.timeout.ms", "300000")
        .between(100, 600_000)
        .doc("Time in milliseconds in which a client must take more of its answer, or be closed; at most 15 s while half of klamm.fetch.memory.bytes is in use, and for answers that are no records. A consumer that works on what it has reads its next records late."),
    broker(Int, "klamm.topic.creation.rate", "200")
        .at_least(1)
        .cluster()
        .doc("Topics per second that clients may create, by request or by first use; ten seconds' worth at once. Above it, THROTTLING_QUOTA_EXCEEDED."),
    broker(Long, "klamm.replica.fill.bytes.per.second", "104857600")
        .at_least(0)
        .cluster()
        .doc("Bytes per second that a node sends to replicas which lack what its log no longer has as entries: new ones, and such as were away for long. All of them share it; 0 for no limit."),
    broker(Boolean, "klamm.node.draining", "false")
        .per_broker()
        .doc("Whether the node gives its replicas to others and gets no new ones. Set and taken back by klamm node drain and undrain."),
    broker(Boolean, "klamm.metrics.partitions", "false")
        .doc("Whether /metrics also has a series for each partition. With many partitions that is much to scrape."),
    broker(Int, "klamm.metrics.group.partitions", "1000")
        .at_least(0)
        .cluster()
        .doc("Partitions of groups for which /metrics has the lag, most lagging first; 0 for none."),
];
