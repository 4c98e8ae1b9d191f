//! Why keys are inert or refused, once each: a feature that arrives takes its sentence away and
//! the compiler names the keys it governed.

pub(super) const COMPRESSION_TYPES: &[&str] =
    &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

pub(super) const ONE_CLEANER: &str = "logs are compacted one after the other, on one thread";
pub(super) const NO_TIERS: &str = "there is no remote (tiered) storage yet";
pub(super) const NO_UNCLEAN_ELECTION: &str = "a partition is a Raft group, and Raft never elects a replica that misses acknowledged records; leave it false";
pub(super) const SYNC_ALWAYS: &str =
    "every acknowledged record is already forced to disk, before the acknowledgement";
pub(super) const NO_SHARE_GROUPS: &str = "there are no share groups yet";
pub(super) const NO_STREAMS_GROUPS: &str = "there are no streams groups yet";
pub(super) const NO_TRANSACTIONS: &str = "there are no transactions yet";
pub(super) const NO_QUOTAS: &str = "there are no quotas yet";
pub(super) const NO_SECURITY: &str =
    "there is no authentication, encryption or authorization yet; only PLAINTEXT listeners";
pub(super) const NO_AUTHORIZER: &str = "there is no authorization yet, and a broker that ignored this would be open to everyone; leave it out";
pub(super) const NO_TELEMETRY: &str = "client metrics are not collected yet";
pub(super) const JAVA_CLASS: &str = "it names a Java class, and this program runs none";
pub(super) const RAFT_REPLICATES: &str = "partitions are replicated by Raft, which does not fetch";
pub(super) const OWN_RUNTIME: &str =
    "threads and queues are sized by the program itself, from the number of cores";
pub(super) const OWN_BATCHING: &str =
    "what comes while a write is on its way is written together with the next one";
pub(super) const RAFT_ELECTS: &str = "elections are timed by the program itself";
pub(super) const METADATA_LOG: &str = "the metadata log is an ordinary log here, as long as its snapshots let it be, and needs no more tuning";
pub(super) const NO_ZOOKEEPER: &str = "there is no ZooKeeper: the nodes of the cluster are the quorum (process.roles, controller.quorum.voters)";
pub(super) const LZ4_LEVEL: &str = "the lz4 codec has one level, the fast one";
pub(super) const OWN_METRICS: &str = "metrics are served as Prometheus text at klamm.http.listener";
