//! Broker keys of Apache Kafka's own machinery, which works otherwise here: replication by fetching,
//! quotas, Java classes, remote storage.

use super::super::key::Kind::{Boolean, Class, Int, List, Long, Password, String};
use super::super::key::{Key, broker, broker_null};
use super::reasons::{JAVA_CLASS, NO_QUOTAS, NO_TELEMETRY, NO_TIERS, OWN_METRICS, RAFT_REPLICATES};

/// Values of `replica.selector.class`.
const LEADER_SELECTOR: &str = "org.apache.kafka.common.replica.LeaderSelector";
const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

pub(super) const KEYS: &[Key] = &[
    broker(Int, "num.replica.fetchers", "1")
        .cluster()
        .inert(RAFT_REPLICATES)
        .doc("Threads that fetch from each other broker."),
    broker(Long, "replica.lag.time.max.ms", "30000")
        .doc("Time in milliseconds after which a follower that does not keep up is out of sync."),
    broker(Int, "replica.socket.timeout.ms", "30000")
        .inert(RAFT_REPLICATES)
        .doc("Time in milliseconds that a follower's request may take."),
    broker(Int, "replica.socket.receive.buffer.bytes", "65536")
        .inert(RAFT_REPLICATES)
        .doc("Receive buffer in bytes of a follower's connection."),
    broker(Int, "replica.fetch.max.bytes", "1048576")
        .at_least(0)
        .inert(RAFT_REPLICATES)
        .doc("Bytes of one partition that a follower fetches at once."),
    broker(Int, "replica.fetch.min.bytes", "1")
        .inert(RAFT_REPLICATES)
        .doc("Bytes that a follower's fetch waits for."),
    broker(Int, "replica.fetch.wait.max.ms", "500")
        .inert(RAFT_REPLICATES)
        .doc("Time in milliseconds that a follower's fetch waits for data."),
    broker(Int, "replica.fetch.backoff.ms", "1000")
        .at_least(0)
        .inert(RAFT_REPLICATES)
        .doc("Pause in milliseconds of a follower after an error."),
    broker(Int, "replica.fetch.response.max.bytes", "10485760")
        .at_least(0)
        .inert(RAFT_REPLICATES)
        .doc("Bytes of all partitions that a follower fetches at once."),
    broker_null(String, "replica.selector.class")
        .one_of(&[LEADER_SELECTOR, RACK_AWARE_SELECTOR])
        .doc("Class that chooses the replica a client reads from. The rack-aware one: a consumer with a client.rack reads from a follower in its rack."),
    broker(
        Long,
        "leader.replication.throttled.rate",
        "9223372036854775807",
    )
    .at_least(0)
    .per_broker()
    .doc("Bytes per second that the broker sends, as leader of leader.replication.throttled.replicas, to replicas that are being made."),
    broker(
        Long,
        "follower.replication.throttled.rate",
        "9223372036854775807",
    )
    .at_least(0)
    .per_broker()
    .doc("Bytes per second that each leader sends to the broker, for those of follower.replication.throttled.replicas that are being made."),
    broker(
        Long,
        "replica.alter.log.dirs.io.max.bytes.per.second",
        "9223372036854775807",
    )
    .at_least(0)
    .per_broker()
    .inert("there is one data directory")
    .doc("Bytes per second that are moved between data directories."),
    broker(Int, "quota.window.num", "11")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Samples kept for client quotas."),
    broker(Int, "quota.window.size.seconds", "1")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Length in seconds of a sample for client quotas."),
    broker(Int, "replication.quota.window.num", "11")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Samples kept for replication quotas."),
    broker(Int, "replication.quota.window.size.seconds", "1")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Length in seconds of a sample for replication quotas."),
    broker(Int, "alter.log.dirs.replication.quota.window.num", "11")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Samples kept for quotas of moves between data directories."),
    broker(
        Int,
        "alter.log.dirs.replication.quota.window.size.seconds",
        "1",
    )
    .at_least(1)
    .inert(NO_QUOTAS)
    .doc("Length in seconds of a sample for quotas of moves between data directories."),
    broker(Int, "controller.quota.window.num", "11")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Samples kept for quotas of metadata changes."),
    broker(Int, "controller.quota.window.size.seconds", "1")
        .at_least(1)
        .inert(NO_QUOTAS)
        .doc("Length in seconds of a sample for quotas of metadata changes."),
    broker_null(Class, "create.topic.policy.class.name")
        .inert(JAVA_CLASS)
        .doc("Class that may refuse the creation of a topic."),
    broker_null(Class, "alter.config.policy.class.name")
        .inert(JAVA_CLASS)
        .doc("Class that may refuse a change of configuration."),
    broker(List, "config.providers", "")
        .inert(JAVA_CLASS)
        .doc("Classes that look up values of settings elsewhere."),
    broker(
        List,
        "metric.reporters",
        "org.apache.kafka.common.metrics.JmxReporter",
    )
    .cluster()
    .inert(OWN_METRICS)
    .doc("Classes that report metrics."),
    broker(Boolean, "auto.include.jmx.reporter", "true")
        .inert(OWN_METRICS)
        .doc("Whether metrics are also reported by JMX."),
    broker(Int, "metrics.num.samples", "2")
        .at_least(1)
        .inert(OWN_METRICS)
        .doc("Samples kept for metrics."),
    broker(Long, "metrics.sample.window.ms", "30000")
        .at_least(1)
        .inert(OWN_METRICS)
        .doc("Length in milliseconds of a sample for metrics."),
    broker(String, "metrics.recording.level", "INFO")
        .one_of(&["INFO", "DEBUG", "TRACE"])
        .inert(OWN_METRICS)
        .doc("How detailed metrics are."),
    broker(List, "kafka.metrics.reporters", "")
        .inert(OWN_METRICS)
        .doc("Classes that report older metrics."),
    broker(Int, "kafka.metrics.polling.interval.secs", "10")
        .at_least(1)
        .inert(OWN_METRICS)
        .doc("Time in seconds between two reports of older metrics."),
    broker(Int, "telemetry.max.bytes", "1048576")
        .at_least(1)
        .inert(NO_TELEMETRY)
        .doc("Largest report in bytes that a client may send."),
    broker(Boolean, "eligible.leader.replicas.enable", "false")
        .inert("Raft decides who may lead, by what each replica has")
        .doc("Whether replicas that left the in-sync set are remembered (KIP-966)."),
    broker(Boolean, "broker.id.generation.enable", "true")
        .inert("node.id is always given, by the operator or by the default")
        .doc("Whether a broker without an id gets one."),
    broker(Int, "reserved.broker.max.id", "1000")
        .at_least(0)
        .inert("node.id is always given, by the operator or by the default")
        .doc("Largest id that is never given to a broker without one."),
    broker_null(Password, "password.encoder.secret")
        .inert("it encoded passwords for ZooKeeper")
        .doc("Secret that encodes passwords in ZooKeeper."),
    broker_null(Class, "remote.log.storage.manager.class.name")
        .inert(NO_TIERS)
        .doc("Class that stores segments remotely."),
    broker_null(String, "remote.log.storage.manager.class.path")
        .inert(NO_TIERS)
        .doc("Where that class is found."),
    broker(
        String,
        "remote.log.storage.manager.impl.prefix",
        "rsm.config.",
    )
    .inert(NO_TIERS)
    .doc("Prefix of settings of the class that stores segments remotely."),
    broker(
        Class,
        "remote.log.metadata.manager.class.name",
        "org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager",
    )
    .inert(NO_TIERS)
    .doc("Class that remembers what is stored remotely."),
    broker_null(String, "remote.log.metadata.manager.class.path")
        .inert(NO_TIERS)
        .doc("Where that class is found."),
    broker(
        String,
        "remote.log.metadata.manager.impl.prefix",
        "rlmm.config.",
    )
    .inert(NO_TIERS)
    .doc("Prefix of settings of the class that remembers what is stored remotely."),
    broker_null(String, "remote.log.metadata.manager.listener.name")
        .inert(NO_TIERS)
        .doc("Listener at which that class reaches the cluster."),
    broker(Int, "remote.log.metadata.custom.metadata.max.bytes", "128")
        .inert(NO_TIERS)
        .doc("Bytes of metadata that a remote store may add to a segment."),
    broker(
        Long,
        "remote.log.index.file.cache.total.size.bytes",
        "1073741824",
    )
    .cluster()
    .inert(NO_TIERS)
    .doc("Bytes of indexes of remote segments that are kept locally."),
    broker(Int, "remote.log.manager.thread.pool.size", "10")
        .cluster()
        .inert(NO_TIERS)
        .doc("Threads for remote segments."),
    broker(Int, "remote.log.manager.copier.thread.pool.size", "10")
        .cluster()
        .inert(NO_TIERS)
        .doc("Threads that copy segments to remote storage."),
    broker(Int, "remote.log.manager.expiration.thread.pool.size", "10")
        .cluster()
        .inert(NO_TIERS)
        .doc("Threads that remove segments from remote storage."),
    broker(Int, "remote.log.manager.follower.thread.pool.size", "2")
        .cluster()
        .inert(NO_TIERS)
        .doc("Threads of followers for remote segments."),
    broker(Long, "remote.log.manager.task.interval.ms", "30000")
        .inert(NO_TIERS)
        .doc("Time in milliseconds between two looks for segments to copy or remove."),
    broker(Int, "remote.log.reader.threads", "10")
        .cluster()
        .inert(NO_TIERS)
        .doc("Threads that read from remote storage."),
    broker(Int, "remote.log.reader.max.pending.tasks", "100")
        .inert(NO_TIERS)
        .doc("Reads from remote storage that may wait."),
    broker(
        Long,
        "remote.log.manager.copy.max.bytes.per.second",
        "9223372036854775807",
    )
    .cluster()
    .inert(NO_TIERS)
    .doc("Bytes per second that are copied to remote storage."),
    broker(
        Long,
        "remote.log.manager.fetch.max.bytes.per.second",
        "9223372036854775807",
    )
    .cluster()
    .inert(NO_TIERS)
    .doc("Bytes per second that are read from remote storage."),
    broker(Int, "remote.fetch.max.wait.ms", "500")
        .cluster()
        .inert(NO_TIERS)
        .doc("Time in milliseconds that a fetch waits for remote storage."),
    broker(Int, "remote.list.offsets.request.timeout.ms", "30000")
        .cluster()
        .inert(NO_TIERS)
        .doc("Time in milliseconds that a search by time in remote storage may take."),
];
