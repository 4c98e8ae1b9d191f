"""Checks of produce, consume and admin through kafka-python. Argument: bootstrap server."""
import os
import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import KafkaError, MessageSizeTooLargeError, OffsetOutOfRangeError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from checks import check, eventually, raises, run, same, settles

BROKER = sys.argv[1]
REPLICAS = int(os.environ["REPLICAS"])
PREFIX = f"kp-{int(time.time() * 1000)}"
admin = KafkaAdminClient(bootstrap_servers=BROKER)


# What the checks are made of.

def make_topic(name, partitions=1, **config):
    topic = f"{PREFIX}-{name}"
    config = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(topic, partitions, REPLICAS, topic_configs=config)])
    # Kafka answers before every request sees the topic.
    eventually(lambda: topic in admin.list_topics(), "the new topic is listed")
    return topic


def values(name, count):
    return [f"{name} {i} {'x' * (i % 200)}".encode() for i in range(count)]


def produce(topic, records, partition=0, **config):
    producer = KafkaProducer(bootstrap_servers=BROKER, linger_ms=5, **config)
    sent = [producer.send(topic, value, key=b"key", partition=partition) for value in records]
    producer.flush(30)
    offsets = [future.get(10).offset for future in sent]
    producer.close()
    return offsets


def consume(topic, count, partition=0, offset=None, **config):
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None, auto_offset_reset="earliest", consumer_timeout_ms=15000, **config)
    where = TopicPartition(topic, partition)
    consumer.assign([where])
    if offset is not None:
        consumer.seek(where, offset)
    records = [record for _, record in zip(range(count), consumer)]
    consumer.close()
    return records


def round_trip(topic, records, config=None, **consumer_config):
    same(list(range(len(records))), produce(topic, records, **(config or {})))
    got = consume(topic, len(records), **consumer_config)
    same(records, [record.value for record in got])
    same(list(range(len(records))), [record.offset for record in got])


# Produce and consume.

for codec in (None, "gzip", "snappy", "lz4", "zstd"):
    @check(f"codec-{codec or 'none'}", quick=True, args=(codec,))
    def codec_round_trip(name):
        round_trip(make_topic(f"codec-{name}"), values(str(name), 1000), {"compression_type": name})


@check("acks-1")
def acks_leader():
    round_trip(make_topic("acks"), values("a", 300), {"acks": 1, "enable_idempotence": False})


@check("idempotent", quick=True)
def idempotent():
    round_trip(make_topic("idempotent"), values("i", 2000), {"enable_idempotence": True, "batch_size": 1000})


@check("read-committed")
def read_committed():
    round_trip(make_topic("committed"), values("c", 300), isolation_level="read_committed")


@check("headers-and-nulls")
def headers_and_nulls():
    topic = make_topic("headers")
    producer = KafkaProducer(bootstrap_servers=BROKER)
    producer.send(topic, None, key=b"k", headers=[("a", b"1"), ("a", b"2"), ("empty", b"")])
    producer.send(topic, b"", key=b"")
    producer.flush(20)
    producer.close()
    first, second = consume(topic, 2)
    same((b"k", None, [("a", b"1"), ("a", b"2"), ("empty", b"")]), (first.key, first.value, list(first.headers)))
    same((b"", b""), (second.key, second.value))


@check("timestamps")
def timestamps():
    then = int(time.time() * 1000) - 55555
    for name, config, kind in (("create-time", {}, 0), ("append-time", {"message_timestamp_type": "LogAppendTime"}, 1)):
        topic = make_topic(name, **config)
        producer = KafkaProducer(bootstrap_servers=BROKER)
        producer.send(topic, b"v", timestamp_ms=then).get(10)
        producer.close()
        (record,) = consume(topic, 1)
        same(kind, record.timestamp_type)
        if kind == 0:
            same(then, record.timestamp)
        else:
            assert abs(record.timestamp - time.time() * 1000) < 30000, record.timestamp


@check("message-too-large")
def message_too_large():
    topic = make_topic("too-large", max_message_bytes="2000")
    raises(MessageSizeTooLargeError, produce, topic, [b"z" * 5000])
    same([0], produce(topic, [b"z" * 100]))


@check("auto-create")
def auto_create():
    topic = f"{PREFIX}-auto"
    same([0], produce(topic, [b"v"], partition=3))


# Offsets.

@check("offsets", quick=True)
def offsets():
    topic, base = make_topic("offsets"), int(time.time() * 1000) - 100_000
    producer = KafkaProducer(bootstrap_servers=BROKER)
    for i in range(20):
        producer.send(topic, b"v", timestamp_ms=base + i * 1000)
    producer.flush(20)
    producer.close()
    where = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None)
    consumer.assign([where])
    same({where: 0}, consumer.beginning_offsets([where]))
    same({where: 20}, consumer.end_offsets([where]))
    for when, offset in ((base, 0), (base + 1, 1), (base + 18_001, 19)):
        same(offset, consumer.offsets_for_times({where: when})[where].offset)
    same(None, consumer.offsets_for_times({where: base + 20_000})[where])
    consumer.seek_to_end(where)
    same(20, consumer.position(where))
    consumer.seek(where, 5)
    same(5, next(consumer).offset)
    consumer.close()


@check("out-of-range")
def out_of_range():
    topic = make_topic("range")
    produce(topic, values("r", 10))
    where = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None, auto_offset_reset="none")
    consumer.assign([where])
    consumer.seek(where, 1000)

    def polls():
        for _ in range(20):
            consumer.poll(timeout_ms=500)

    raises(OffsetOutOfRangeError, polls)
    consumer.close()


@check("small-fetches")
def small_fetches():
    round_trip(make_topic("small-fetches"), values("s", 300), {"batch_size": 500}, max_partition_fetch_bytes=1000, fetch_max_bytes=1000)


# Administration.

@check("topics", quick=True)
def topics():
    topic = make_topic("topics", 3)
    settles([3], lambda: [len(described["partitions"]) for described in admin.describe_topics([topic])])
    raises(TopicAlreadyExistsError, make_topic, "topics")
    raises(KafkaError, make_topic, "bad-config", retention_ms="never")
    admin.delete_topics([topic])
    eventually(lambda: topic not in admin.list_topics(), "the topic is gone")
    raises(UnknownTopicOrPartitionError, admin.delete_topics, [topic])


@check("create-partitions")
def create_partitions():
    topic = make_topic("grow")
    admin.create_partitions({topic: NewPartitions(5)})
    same([0], produce(topic, [b"v"], partition=4))


@check("configs")
def configs():
    topic = make_topic("configs", retention_ms="100000")
    settles(True, lambda: "100000" in str(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])))


@check("delete-records", quick=True)
def delete_records():
    topic = make_topic("delete-records")
    produce(topic, values("d", 20))
    where = TopicPartition(topic, 0)
    admin.delete_records({where: 12})
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=None)
    same({where: 12}, consumer.beginning_offsets([where]))
    consumer.close()


@check("group", needs="groups")
def group():
    topic = make_topic("group", 2)
    produce(topic, values("g", 20))
    for expected in (20, 5):
        consumer = KafkaConsumer(topic, bootstrap_servers=BROKER, group_id=PREFIX, auto_offset_reset="earliest", enable_auto_commit=False,
                                 consumer_timeout_ms=20000)
        same(expected, len([record for _, record in zip(range(expected), consumer)]))
        consumer.commit()
        consumer.close()
        produce(topic, values("more", 5))


@check("transaction", needs="transactions")
def transaction():
    topic = make_topic("transaction")
    producer = KafkaProducer(bootstrap_servers=BROKER, transactional_id=PREFIX)
    producer.init_transactions()
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(topic, value)
        producer.flush(20)
        end()
    producer.close()
    same([b"committed"], [record.value for record in consume(topic, 1, isolation_level="read_committed")])


run()
