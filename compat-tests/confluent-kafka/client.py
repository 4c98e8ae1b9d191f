"""Checks of produce, consume and admin through confluent-kafka (librdkafka). Argument: bootstrap server."""
import os
import sys
import time

from confluent_kafka import (
    OFFSET_BEGINNING, OFFSET_END, TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Consumer, IsolationLevel, KafkaError, KafkaException,
    Producer, TopicCollection, TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding, AclOperation, AclPermissionType, AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewPartitions,
    NewTopic, OffsetSpec, ResourcePatternType, ResourceType,
)

from checks import check, eventually, raises, run, same, settles

BROKER = sys.argv[1]
REPLICAS = int(os.environ["REPLICAS"])
PREFIX = f"ck-{int(time.time() * 1000)}"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
admin = AdminClient({"bootstrap.servers": BROKER})


# What the checks are made of.

def make_topic(name, partitions=1, **config):
    topic = f"{PREFIX}-{name}"
    config = {key.replace("_", "."): value for key, value in config.items()}
    only(admin.create_topics([NewTopic(topic, partitions, REPLICAS, config=config)]))
    # Kafka answers before every request sees the topic.
    eventually(lambda: topic in admin.list_topics(timeout=10).topics, "the new topic is listed")
    return topic


def only(futures, seconds=20):
    """The result of the only future of an admin call."""
    (future,) = futures.values()
    return future.result(seconds)


def error_code(function, *args, **kwargs):
    return raises(KafkaException, function, *args, **kwargs).args[0].code()


def producer(**config):
    return Producer({"bootstrap.servers": BROKER, "linger.ms": 5} | {key.replace("_", "."): value for key, value in config.items()})


def consumer(**config):
    base = {"bootstrap.servers": BROKER, "group.id": PREFIX, "auto.offset.reset": "earliest", "enable.auto.commit": False, "check.crcs": True}
    return Consumer(base | {key.replace("_", "."): value for key, value in config.items()})


def values(name, count):
    return [f"{name} {i} {'x' * (i % 200)}".encode() for i in range(count)]


def produce(topic, records, partition=0, **config):
    """Produces the records and checks their offsets to be consecutive."""
    p, offsets = producer(**config), []

    def delivered(error, message):
        if error is not None:
            raise KafkaException(error)
        offsets.append(message.offset())

    for record in records:
        p.produce(topic, record, key=b"key", partition=partition, on_delivery=delivered)
        p.poll(0)
    same(0, p.flush(30))
    same(len(records), len(offsets))
    if config.get("acks") != 0:
        same(list(range(offsets[0], offsets[0] + len(offsets))), offsets)
    return offsets


def read(c, count, seconds=20):
    """Polls until there are this many messages."""
    messages, deadline = [], time.monotonic() + seconds
    while len(messages) < count and time.monotonic() < deadline:
        for message in c.consume(count - len(messages), 0.5):
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
    return messages


def consume(topic, count, partition=0, offset=OFFSET_BEGINNING, **config):
    c = consumer(**config)
    try:
        c.assign([TopicPartition(topic, partition, offset)])
        return read(c, count)
    finally:
        c.close()


def round_trip(topic, records, config=None, **consumer_config):
    produce(topic, records, **(config or {}))
    got = consume(topic, len(records), **consumer_config)
    same(records, [message.value() for message in got])
    same(list(range(len(records))), [message.offset() for message in got])


# Produce and consume.

@check("metadata", quick=True)
def metadata():
    found = admin.list_topics(timeout=10)
    assert found.brokers and found.cluster_id, found
    assert found.controller_id in found.brokers, found.controller_id


for codec in CODECS:
    @check(f"codec-{codec}", quick=True, args=(codec,))
    def codec_round_trip(name):
        round_trip(make_topic(f"codec-{name}"), values(name, 3000), {"compression_type": name})

for acks in (0, 1, -1):
    @check(f"acks-{acks}", args=(acks,))
    def acks_round_trip(value):
        round_trip(make_topic(f"acks{value}"), values("acks", 1000), {"acks": value})


@check("idempotent", quick=True)
def idempotent():
    round_trip(make_topic("idempotent"), values("i", 20000), {"enable_idempotence": True, "batch_num_messages": 50, "linger_ms": 0})


@check("idempotent-partitions")
def idempotent_partitions():
    topic = make_topic("idempotent-partitions", 6)
    p = producer(enable_idempotence=True)
    for i in range(3000):
        p.produce(topic, str(i).encode(), key=str(i % 50).encode())
    same(0, p.flush(30))
    got = []
    for partition in range(6):
        _, high = consumer().get_watermark_offsets(TopicPartition(topic, partition), 10)
        got += [int(message.value()) for message in consume(topic, high, partition)]
    same(list(range(3000)), sorted(got))


@check("read-committed")
def read_committed():
    round_trip(make_topic("committed"), values("c", 500), isolation_level="read_committed")


@check("keys-headers-and-nulls", quick=True)
def keys_headers_and_nulls():
    topic = make_topic("headers")
    p = producer()
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]
    p.produce(topic, None, key=None, headers=headers)
    p.produce(topic, b"", key=b"")
    same(0, p.flush(20))
    first, second = consume(topic, 2)
    same((None, None, headers), (first.key(), first.value(), first.headers()))
    same((b"", b""), (second.key(), second.value()))


@check("create-time")
def create_time():
    topic, then = make_topic("create-time"), int(time.time() * 1000) - 98765
    p = producer()
    p.produce(topic, b"v", timestamp=then)
    same(0, p.flush(20))
    same((TIMESTAMP_CREATE_TIME, then), consume(topic, 1)[0].timestamp())


@check("log-append-time")
def log_append_time():
    topic, then = make_topic("append-time", message_timestamp_type="LogAppendTime"), int(time.time() * 1000)
    p = producer(compression_type="zstd")
    p.produce(topic, b"v", timestamp=1000)
    same(0, p.flush(20))
    kind, stamped = consume(topic, 1)[0].timestamp()
    same(TIMESTAMP_LOG_APPEND_TIME, kind)
    assert abs(stamped - then) < 30000, stamped - then


@check("recompression")
def recompression():
    round_trip(make_topic("recompression", compression_type="lz4"), values("r", 500), {"compression_type": "gzip"})


@check("large-messages")
def large_messages():
    records = [bytes([i]) * 900_000 for i in range(1, 8)]
    round_trip(make_topic("large"), records, {"message_max_bytes": 1000000}, fetch_max_bytes=2000000)


@check("message-too-large")
def message_too_large():
    topic, errors = make_topic("too-large", max_message_bytes="2000"), []
    p = producer()
    p.produce(topic, b"z" * 5000, on_delivery=lambda error, _: errors.append(error))
    p.produce(topic, b"z" * 100)
    same(0, p.flush(20))
    same([KafkaError.MSG_SIZE_TOO_LARGE], [error and error.code() for error in errors])


@check("missing-topic")
def missing_topic():
    topic, errors = f"{PREFIX}-missing", []
    p = producer(allow_auto_create_topics=False, topic_metadata_propagation_max_ms=1000)
    p.produce(topic, b"v", on_delivery=lambda error, _: errors.append(error))
    same(0, p.flush(20))
    same(1, len(errors))
    # By its own waiting time or by the broker's answer, whichever comes first.
    assert errors[0] and errors[0].code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART), errors[0]
    same(KafkaError.UNKNOWN_TOPIC_OR_PART, error_code(only, admin.describe_topics(TopicCollection([topic]))))


@check("auto-create")
def auto_create():
    topic = f"{PREFIX}-auto"
    produce(topic, values("a", 10), partition=3)
    same(4, len(admin.list_topics(topic, 10).topics[topic].partitions))


@check("partition-end")
def partition_end():
    topic = make_topic("eof")
    produce(topic, values("e", 5))
    c = consumer(enable_partition_eof=True)
    c.assign([TopicPartition(topic, 0, 3)])
    seen = [c.poll(10) for _ in range(3)]
    same([None, None, KafkaError._PARTITION_EOF], [message.error() and message.error().code() for message in seen])
    same(5, seen[2].offset())
    c.close()


@check("seek-and-pause")
def seek_and_pause():
    topic = make_topic("seek")
    produce(topic, values("s", 100))
    c, partition = consumer(), TopicPartition(topic, 0)
    c.assign([TopicPartition(topic, 0, 10)])
    same(10, read(c, 1)[0].offset())
    c.seek(TopicPartition(topic, 0, 77))
    same(77, read(c, 1)[0].offset())
    same(78, c.position([partition])[0].offset)
    c.pause([partition])
    same(None, c.poll(1))
    c.resume([partition])
    same(78, read(c, 1)[0].offset())
    c.close()


@check("follow-the-end")
def follow_the_end():
    topic = make_topic("follow", 3)
    c = consumer(fetch_wait_max_ms=3000)
    c.assign([TopicPartition(topic, i, OFFSET_END) for i in range(3)])
    # Longer than a fetch waits: the one in flight may have gone out before all three partitions had an offset.
    same(None, c.poll(4))
    for i in range(20):
        started = time.monotonic()
        produce(topic, [str(i).encode()], partition=i % 3, linger_ms=0)
        same([str(i).encode()], [message.value() for message in read(c, 1, 5)])
        assert time.monotonic() - started < 2.5, "a parked fetch was not woken by the record"
    c.close()


@check("small-fetches")
def small_fetches():
    round_trip(make_topic("small-fetches"), values("f", 500), {"batch_num_messages": 5}, max_partition_fetch_bytes=1000, fetch_max_bytes=1000,
               message_max_bytes=1000)


@check("many-partitions")
def many_partitions():
    topic = make_topic("many", 40)
    p = producer()
    for i in range(4000):
        p.produce(topic, str(i).encode(), partition=i % 40)
    same(0, p.flush(30))
    c = consumer()
    c.assign([TopicPartition(topic, i, OFFSET_BEGINNING) for i in range(40)])
    same(list(range(4000)), sorted(int(message.value()) for message in read(c, 4000)))
    c.close()


# Offsets.

@check("watermark-offsets", quick=True)
def watermark_offsets():
    topic = make_topic("watermarks")
    c = consumer()
    same((0, 0), c.get_watermark_offsets(TopicPartition(topic, 0), 10))
    produce(topic, values("w", 42))
    same((0, 42), c.get_watermark_offsets(TopicPartition(topic, 0), 10))
    c.close()


@check("offsets-for-times", quick=True)
def offsets_for_times():
    topic, base = make_topic("times"), int(time.time() * 1000) - 1_000_000
    p = producer(batch_num_messages=7)
    for i in range(100):
        p.produce(topic, b"v", timestamp=base + 1000 * i)
    same(0, p.flush(20))
    c = consumer()
    for when, offset in ((0, 0), (base, 0), (base + 1, 1), (base + 50_000, 50), (base + 98_001, 99), (base + 99_001, OFFSET_END)):
        same(offset, c.offsets_for_times([TopicPartition(topic, 0, when)], 10)[0].offset)
    c.close()


@check("offset-out-of-range")
def offset_out_of_range():
    topic = make_topic("range")
    produce(topic, values("r", 10))
    c = consumer(auto_offset_reset="error")
    c.assign([TopicPartition(topic, 0, 1000)])
    same(KafkaError._AUTO_OFFSET_RESET, c.poll(10).error().code())
    c.close()
    same(0, consume(topic, 1, offset=1000)[0].offset())


@check("list-offsets")
def list_offsets():
    topic, base = make_topic("list-offsets"), int(time.time() * 1000) - 500_000
    p = producer()
    for at in (5, 9, 7):
        p.produce(topic, b"v", timestamp=base + at)
        same(0, p.flush(20))
    partition = TopicPartition(topic, 0)
    for spec, offset in ((OffsetSpec.earliest(), 0), (OffsetSpec.latest(), 3), (OffsetSpec.max_timestamp(), 1),
                         (OffsetSpec.for_timestamp(base + 6), 1), (OffsetSpec.for_timestamp(base + 10), -1)):
        same(offset, only(admin.list_offsets({partition: spec}, isolation_level=IsolationLevel.READ_UNCOMMITTED)).offset)


# Administration.

@check("topics", quick=True)
def topics():
    topic = make_topic("topics", 3, retention_ms="100000")
    settles(3, lambda: len(admin.list_topics(topic, 10).topics[topic].partitions))

    def described():
        found = only(admin.describe_topics(TopicCollection([topic]))).partitions
        return [partition.id for partition in found if partition.leader and partition.replicas and partition.isr]

    settles([0, 1, 2], described)
    same(KafkaError.TOPIC_ALREADY_EXISTS, error_code(make_topic, "topics"))
    same(KafkaError.TOPIC_EXCEPTION, error_code(make_topic, "bad/name"))
    same(KafkaError.INVALID_CONFIG, error_code(make_topic, "bad-config", retention_ms="never"))
    same(KafkaError.INVALID_CONFIG, error_code(make_topic, "bad-key", no_such_key="1"))
    only(admin.delete_topics([topic]))
    eventually(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic is gone")
    same(KafkaError.UNKNOWN_TOPIC_OR_PART, error_code(only, admin.delete_topics([topic])))


@check("create-bad-topics")
def create_bad_topics():
    def create(name, partitions, replication):
        only(admin.create_topics([NewTopic(f"{PREFIX}-{name}", partitions, replication)]))
    same(KafkaError.INVALID_PARTITIONS, error_code(create, "no-partitions", 0, 1))
    same(KafkaError.INVALID_REPLICATION_FACTOR, error_code(create, "replication", 1, 30))


@check("validate-only")
def validate_only():
    topic = f"{PREFIX}-validate"
    only(admin.create_topics([NewTopic(topic, 1, 1)], validate_only=True))
    assert topic not in admin.list_topics(timeout=10).topics


@check("delete-and-create-again")
def delete_and_create_again():
    topic = make_topic("again")
    produce(topic, values("old", 100))
    only(admin.delete_topics([topic]))
    eventually(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic is gone")
    make_topic("again")
    round_trip(topic, values("new", 10))


@check("create-partitions")
def create_partitions():
    topic = make_topic("grow")
    only(admin.create_partitions([NewPartitions(topic, 5)]))
    eventually(lambda: len(admin.list_topics(topic, 10).topics[topic].partitions) == 5, "five partitions")
    produce(topic, values("g", 10), partition=4)
    same(KafkaError.INVALID_PARTITIONS, error_code(only, admin.create_partitions([NewPartitions(topic, 2)])))


@check("configs", quick=True)
def configs():
    resource = ConfigResource(ConfigResource.Type.TOPIC, make_topic("configs", retention_ms="100000"))

    def described(key):
        entry = only(admin.describe_configs([resource]))[key]
        return entry.value, entry.source

    settles(("100000", ConfigSource.DYNAMIC_TOPIC_CONFIG.value), lambda: described("retention.ms"))
    settles(("1073741824", ConfigSource.DEFAULT_CONFIG.value), lambda: described("segment.bytes"))
    resource.add_incremental_config(ConfigEntry("max.message.bytes", "5000", incremental_operation=AlterConfigOpType.SET))
    resource.add_incremental_config(ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE))
    only(admin.incremental_alter_configs([resource]))
    settles(("5000", ConfigSource.DYNAMIC_TOPIC_CONFIG.value), lambda: described("max.message.bytes"))
    settles("604800000", lambda: described("retention.ms")[0])
    bad = ConfigResource(ConfigResource.Type.TOPIC, resource.name)
    bad.add_incremental_config(ConfigEntry("max.message.bytes", "many", incremental_operation=AlterConfigOpType.SET))
    same(KafkaError.INVALID_CONFIG, error_code(only, admin.incremental_alter_configs([bad])))


@check("broker-configs")
def broker_configs():
    broker = next(iter(admin.list_topics(timeout=10).brokers))
    entries = only(admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, str(broker))]))
    same("4", entries["num.partitions"].value)


@check("describe-cluster")
def describe_cluster():
    cluster = admin.describe_cluster().result(20)
    assert cluster.cluster_id and cluster.nodes and cluster.controller, cluster


@check("delete-records", quick=True)
def delete_records():
    topic = make_topic("delete-records")
    produce(topic, values("d", 20))
    same(12, only(admin.delete_records([TopicPartition(topic, 0, 12)])).low_watermark)
    c = consumer()
    same((12, 20), c.get_watermark_offsets(TopicPartition(topic, 0), 10))
    c.close()
    same(12, consume(topic, 8, offset=0)[0].offset())
    same(KafkaError.OFFSET_OUT_OF_RANGE, error_code(only, admin.delete_records([TopicPartition(topic, 0, 21)])))
    same(20, only(admin.delete_records([TopicPartition(topic, 0, OFFSET_END)])).low_watermark)
    same([20], produce(topic, [b"after"]))


@check("elect-leaders")
def elect_leaders():
    from confluent_kafka import ElectionType
    topic = make_topic("elect")
    (error,) = admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, 0)]).result(20).values()
    same(KafkaError.ELECTION_NOT_NEEDED, error and error.code())


@check("acls-without-authorizer")
def acls_without_authorizer():
    acl = AclBinding(ResourceType.TOPIC, "t", ResourcePatternType.LITERAL, "User:a", "*", AclOperation.READ, AclPermissionType.ALLOW)
    same(KafkaError.SECURITY_DISABLED, error_code(only, admin.create_acls([acl])))


# Groups and transactions.

@check("group", needs="groups")
def group():
    topic = make_topic("group", 4)
    for partition in range(4):
        produce(topic, values("g", 25), partition=partition)
    for expected in (100, 10):
        c = consumer(group_id=f"{PREFIX}-group")
        c.subscribe([topic])
        same(expected, len(read(c, expected, 30)))
        c.commit(asynchronous=False)
        c.close()
        produce(topic, values("more", 10), partition=2)


@check("group-two-members", needs="groups")
def group_two_members():
    topic, group_id = make_topic("members", 4), f"{PREFIX}-members"
    both = [consumer(group_id=group_id) for _ in range(2)]
    for c in both:
        c.subscribe([topic])

    def balanced():
        for c in both:
            c.poll(0.1)
        return [len(c.assignment()) for c in both] == [2, 2]

    eventually(balanced, "two partitions for each member", 40)
    for c in both:
        c.close()


@check("transaction", needs="transactions")
def transaction():
    topic = make_topic("transaction")
    p = producer(transactional_id=PREFIX)
    p.init_transactions(20)
    p.begin_transaction()
    p.produce(topic, b"aborted")
    p.flush(20)
    p.abort_transaction(20)
    p.begin_transaction()
    p.produce(topic, b"committed")
    p.commit_transaction(20)
    same([b"committed"], [message.value() for message in consume(topic, 1, isolation_level="read_committed")])


run()
