//! Broker keys: listeners, connections, requests.

use super::super::key::Kind::{Boolean, Class, Int, List, Long, String};
use super::super::key::{Accepts, Key, broker, broker_null};
use super::reasons::{JAVA_CLASS, NO_SECURITY, OWN_RUNTIME};

const PURGATORY: &str =
    "requests that wait are woken by what they wait for, there is no purgatory to clean";

pub(super) const KEYS: &[Key] = &[
    broker(List, "listeners", "PLAINTEXT://:9092")
        .doc("Addresses the node listens at, NAME://HOST:PORT, separated by commas. No host or 0.0.0.0 for all interfaces, port 0 for a free one."),
    broker_null(List, "advertised.listeners")
        .doc("Addresses that clients are told, NAME://HOST:PORT; by default those of listeners. A client is told the address of the listener it came in on."),
    broker(List, "listener.security.protocol.map", "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT")
        .doc("Protocol of each listener name, as NAME:PROTOCOL. Only PLAINTEXT is supported yet."),
    broker_null(String, "inter.broker.listener.name")
        .inert("nodes talk to each other at the controller listener")
        .doc("Listener at which brokers talk to each other."),
    broker(String, "security.inter.broker.protocol", "PLAINTEXT")
        .one_of(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
        .refuses(&[("SSL", NO_SECURITY), ("SASL_PLAINTEXT", NO_SECURITY), ("SASL_SSL", NO_SECURITY)])
        .doc("Protocol that brokers speak to each other."),
    broker_null(String, "control.plane.listener.name")
        .refused("Apache Kafka 4.0 removed it: use controller.listener.names.")
        .doc("Listener for requests of the controller."),
    broker_null(List, "early.start.listeners").inert("listeners open when the node is ready to serve").doc("Listeners that open before the node is ready."),
    broker(Int, "socket.listen.backlog.size", "50").at_least(1).doc("Connections that may wait to be accepted, per listener."),
    broker(Int, "socket.send.buffer.bytes", "-1").at_least(-1).doc("Send buffer of a connection in bytes; -1 for the system's choice, which grows with the connection's speed."),
    broker(Int, "socket.receive.buffer.bytes", "-1").at_least(-1).doc("Receive buffer of a connection in bytes; -1 for the system's choice, which grows with the connection's speed."),
    broker(Int, "socket.request.max.bytes", "104857600")
        .at_least(1)
        .doc("Largest request in bytes. A connection that announces a larger one is closed."),
    broker(Long, "connections.max.idle.ms", "600000").doc("Time in milliseconds after which a connection without requests is closed."),
    broker(Int, "max.connections", "20000").at_least(0).cluster().doc("Connections the node takes at the same time."),
    broker(Int, "max.connections.per.ip", "10000").at_least(0).cluster().doc("Connections the node takes from one address at the same time."),
    broker(String, "max.connections.per.ip.overrides", "").accepts(Accepts::NumberPerHost)
        .cluster()
        .doc("Exceptions to max.connections.per.ip, as address:number, separated by commas."),
    broker(Int, "max.connection.creation.rate", "2000")
        .at_least(1)
        .cluster()
        .doc("New connections per second that each listener takes, a second's worth at once; others wait to be accepted."),
    broker(Int, "connection.failed.authentication.delay.ms", "100")
        .at_least(0)
        .inert(NO_SECURITY)
        .doc("Pause in milliseconds before a connection that failed to authenticate is closed."),
    broker(Long, "connections.max.reauth.ms", "0").per_broker().inert(NO_SECURITY).doc("Time in milliseconds after which a client must authenticate again; 0 for never."),
    broker(Int, "request.timeout.ms", "30000")
        .inert("requests between nodes are timed by the program itself")
        .doc("Time in milliseconds that a request between brokers may take."),
    broker(Int, "num.network.threads", "3").at_least(1).cluster().inert(OWN_RUNTIME).doc("Threads that read and write connections."),
    broker(Int, "num.io.threads", "8").at_least(1).cluster().inert(OWN_RUNTIME).doc("Threads that process requests."),
    broker(Int, "background.threads", "10").at_least(1).cluster().inert(OWN_RUNTIME).doc("Threads for work in the background."),
    broker(Int, "num.recovery.threads.per.data.dir", "2").at_least(1).cluster().inert(OWN_RUNTIME).doc("Threads that recover logs at start, per data directory."),
    broker_null(Int, "num.replica.alter.log.dirs.threads").inert("there is one data directory").doc("Threads that move replicas between data directories."),
    broker(Int, "queued.max.requests", "500").at_least(1).inert(OWN_RUNTIME).doc("Requests that may wait for a thread."),
    broker(Long, "queued.max.request.bytes", "33554432")
        .at_least(-1)
        .doc("Bytes of requests of all connections that are received and not yet answered; -1 for no limit. Above it, connections are not read."),
    broker(Int, "fetch.max.bytes", "57671680").at_least(1024).doc("Most bytes of records in one answer to a fetch, whatever the client asks for."),
    broker(Int, "message.max.bytes", "1048588")
        .at_least(0)
        .cluster()
        .doc("Default of the topic setting max.message.bytes: largest record batch in bytes, as stored."),
    broker(Int, "max.incremental.fetch.session.cache.slots", "1000").at_least(0).doc("Fetch sessions (KIP-227) that are kept."),
    broker(Int, "max.request.partition.size.limit", "2000").at_least(1).doc("Most partitions in one answer to DescribeTopicPartitions."),
    broker(Int, "fetch.purgatory.purge.interval.requests", "1000").inert(PURGATORY).doc("Requests between two cleanings of the fetch purgatory."),
    broker(Int, "producer.purgatory.purge.interval.requests", "1000").inert(PURGATORY).doc("Requests between two cleanings of the produce purgatory."),
    broker(Int, "delete.records.purgatory.purge.interval.requests", "1").inert(PURGATORY).doc("Requests between two cleanings of the purgatory of DeleteRecords."),
    broker(Int, "share.fetch.purgatory.purge.interval.requests", "1000").inert(PURGATORY).doc("Requests between two cleanings of the purgatory of share fetches."),
    broker_null(Class, "client.quota.callback.class").inert(JAVA_CLASS).doc("Class that decides on client quotas."),
    broker(Boolean, "unstable.api.versions.enable", "false").inert("unstable API versions are never served").doc("Whether API versions still in development are served."),
    broker(Boolean, "unstable.feature.versions.enable", "false").inert("unstable features do not exist").doc("Whether feature levels still in development may be used."),
    broker(Long, "controller.socket.timeout.ms", "30000")
        .accepts(Accepts::AtLeast(1))
        .inert("requests between nodes are timed by the program itself")
        .doc("Time in milliseconds that a request to the controller may take."),
];
