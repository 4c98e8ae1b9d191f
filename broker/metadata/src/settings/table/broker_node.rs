//! Broker keys: who the node is and what topics get by default.

use super::super::key::Kind::{Boolean, Int, List, Long, Short, String};
use super::super::key::{Accepts, Key, broker, broker_null};
use super::reasons::{NO_UNCLEAN_ELECTION, NO_ZOOKEEPER, RAFT_ELECTS};

pub(super) const KEYS: &[Key] = &[
    broker(Int, "node.id", "1")
        .at_least(0)
        .doc("Id of this node, unique in the cluster and kept for good. Clients see it as the broker id."),
    broker(Int, "broker.id", "-1")
        .at_least(-1)
        .doc("Older name of node.id, used when node.id is not given; -1 for not given."),
    broker(List, "process.roles", "broker,controller")
        .one_of(&["broker", "controller"])
        .doc("Roles of this node. Every node of this program has both: 'broker,controller'."),
    broker(List, "controller.quorum.voters", "")
        .doc("The nodes of the cluster as id@host:port, separated by commas. Empty for a node on its own."),
    broker(List, "controller.quorum.bootstrap.servers", "")
        .doc("Addresses host:port of the controller listeners at which a joining node finds the cluster."),
    broker(List, "controller.listener.names", "")
        .doc("Names of the listeners at which the nodes of the cluster talk to each other; never shown to clients."),
    broker_null(String, "broker.rack").doc("Where the node stands, such as an availability zone. Replicas are spread over racks."),
    broker(String, "log.dir", "/tmp/kafka-logs")
        .accepts(Accepts::NonEmpty)
        .doc("Directory of all data of this node; used when log.dirs is not given."),
    broker_null(List, "log.dirs")
        .accepts(Accepts::NonEmpty)
        .doc("Directory of all data of this node. One directory: spread over disks below it, with LVM or RAID."),
    broker_null(String, "metadata.log.dir")
        .inert("metadata lies in log.dirs with everything else, under the same journal")
        .doc("Directory in which Apache Kafka keeps the metadata log."),
    broker(Int, "num.partitions", "1").at_least(1).doc("Partitions of a topic that is created without a number, or by its first use."),
    broker(Int, "default.replication.factor", "1")
        .between(1, 32_767)
        .doc("Replicas of a topic that is created without a number, or by its first use."),
    broker(Boolean, "auto.create.topics.enable", "true").doc("Whether a client that asks for a topic that does not exist creates it."),
    broker(Boolean, "delete.topic.enable", "true").doc("Whether topics can be deleted."),
    broker(Int, "min.insync.replicas", "1")
        .at_least(1)
        .cluster()
        .doc("Default of the topic setting: replicas that must have a batch before acks=all is answered. A majority always must."),
    broker(Boolean, "unclean.leader.election.enable", "false")
        .cluster()
        .refuses(&[("true", NO_UNCLEAN_ELECTION)])
        .doc("Default of the topic setting. Only false is accepted."),
    broker(Long, "unclean.leader.election.interval.ms", "300000")
        .at_least(1)
        .inert(NO_UNCLEAN_ELECTION)
        .doc("Time in milliseconds between two looks for partitions that need an unclean election."),
    broker(Boolean, "auto.leader.rebalance.enable", "true")
        .doc("Whether leadership is moved to preferred leaders by itself."),
    broker(Long, "leader.imbalance.check.interval.seconds", "300")
        .at_least(1)
        .doc("Time in seconds between two looks for misplaced leadership."),
    broker(Int, "leader.imbalance.per.broker.percentage", "10")
        .inert("all misplaced leadership is moved, however little it is")
        .doc("Share of misplaced leadership, in percent, above which it is moved."),
    broker(Boolean, "controlled.shutdown.enable", "true")
        .inert("a stop always hands leadership over first")
        .doc("Whether a stopping broker hands its leadership over first."),
    broker(Int, "controlled.shutdown.max.retries", "3")
        .inert("a stop always hands leadership over first")
        .doc("How often a stopping broker tries to hand its leadership over."),
    broker(Long, "controlled.shutdown.retry.backoff.ms", "5000")
        .inert("a stop always hands leadership over first")
        .doc("Time in milliseconds between two tries to hand leadership over."),
    broker(Int, "controller.quorum.election.timeout.ms", "1000").inert(RAFT_ELECTS).doc("Time in milliseconds without a controller after which an election begins."),
    broker(Int, "controller.quorum.election.backoff.max.ms", "1000").inert(RAFT_ELECTS).doc("Longest pause in milliseconds between two elections of a controller."),
    broker(Int, "controller.quorum.fetch.timeout.ms", "2000").inert(RAFT_ELECTS).doc("Time in milliseconds without answers after which a controller steps down."),
    broker(Int, "controller.quorum.append.linger.ms", "25").inert(RAFT_ELECTS).doc("Time in milliseconds that a controller gathers changes before it writes them."),
    broker(Int, "controller.quorum.request.timeout.ms", "2000").inert(RAFT_ELECTS).doc("Time in milliseconds that a request between controllers may take."),
    broker(Int, "controller.quorum.retry.backoff.ms", "20").inert(RAFT_ELECTS).doc("Time in milliseconds between two tries of a request between controllers."),
    broker(Boolean, "controller.quorum.auto.join.enable", "false")
        .inert("a node with an empty log.dirs joins by itself")
        .doc("Whether a new controller becomes a voter by itself."),
    broker(Int, "broker.heartbeat.interval.ms", "2000").inert(RAFT_ELECTS).doc("Time in milliseconds between two signs of life from a broker to the controller."),
    broker(Int, "broker.session.timeout.ms", "9000").inert(RAFT_ELECTS).doc("Time in milliseconds without a sign of life after which a broker is fenced."),
    broker(Int, "initial.broker.registration.timeout.ms", "60000").inert(RAFT_ELECTS).doc("Time in milliseconds that a starting broker waits to be registered."),
    broker(Long, "server.max.startup.time.ms", "9223372036854775807")
        .inert("a start takes as long as recovery needs and says how far it is")
        .doc("Time in milliseconds after which a start that is not finished fails."),
    broker(Short, "offsets.topic.required.acks", "-1")
        .refused("Apache Kafka 4.0 removed it: committed offsets always wait for a majority.")
        .doc("Acknowledgements that committed offsets wait for."),
    broker_null(String, "zookeeper.connect").refused(NO_ZOOKEEPER).doc("Addresses of the ZooKeeper ensemble."),
    broker(Boolean, "zookeeper.metadata.migration.enable", "false").refused(NO_ZOOKEEPER).doc("Whether metadata is migrated from ZooKeeper."),
    broker_null(String, "inter.broker.protocol.version")
        .refused("Apache Kafka 4.0 removed it: nodes agree on versions by themselves. Leave it out.")
        .doc("Version that brokers speak to each other."),
];
