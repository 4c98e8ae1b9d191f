"""Questions of Kafka's protocol, put to one node and nobody else: a client library asks whichever node it likes."""
import socket
import struct

METADATA, OFFSET_FETCH, FIND_COORDINATOR, DESCRIBE_QUORUM = 3, 9, 10, 55
# ISR of a partition whose leader is not known to the node asked.
NO_LEADER = -1


class _Answer:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value, = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return value

    def text(self, length):
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def string(self):
        return self.text(self.take("h"))

    def array(self, item):
        return [item() for _ in range(max(0, self.take("i")))]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take("B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value


def _ask(address, key, version, body, flexible, seconds):
    host, port = address.rsplit(":", 1)
    head = struct.pack(">hhih", key, version, 1, 6) + b"faults" + (b"\0" if flexible else b"")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        stream = connection.makefile("rb")
        length = stream.read(4)
        data = stream.read(struct.unpack(">i", length)[0]) if len(length) == 4 else b""
    if len(data) < 4:
        raise ConnectionError(f"{address} closed the connection")
    answer = _Answer(data)
    answer.take("i")
    if flexible:
        answer.varint()
    return answer


def metadata(address, seconds=5):
    """What this node knows: ids of the brokers, and {(topic, partition): (leader, replicas, in-sync replicas)} of all topics."""
    answer = _ask(address, METADATA, 1, struct.pack(">i", -1), False, seconds)

    def broker():
        node = answer.take("i")
        answer.string()
        answer.take("i")
        answer.string()
        return node

    def ids():
        return answer.array(lambda: answer.take("i"))

    brokers = answer.array(broker)
    answer.take("i")
    partitions = {}

    def topic():
        answer.take("h")
        name = answer.string()
        answer.take("?")

        def partition():
            error, index, leader = answer.take("h"), answer.take("i"), answer.take("i")
            partitions[name, index] = (NO_LEADER if error == 5 else leader, ids(), ids())
        answer.array(partition)

    answer.array(topic)
    return brokers, partitions


class Quorum:
    """What DescribeQuorum says of one partition."""

    def __init__(self, error, leader, epoch, high_watermark, ends):
        self.error, self.leader, self.epoch, self.high_watermark, self.ends = error, leader, epoch, high_watermark, ends


def quorums(address, topic, partitions, seconds=5):
    """{partition: Quorum}: of the metadata log by any node, and from Klamm of each partition that the node leads."""
    name = topic.encode()
    body = bytes([2, len(name) + 1]) + name + bytes([len(partitions) + 1])
    body += b"".join(struct.pack(">i", partition) + b"\0" for partition in partitions) + b"\0\0"
    answer = _ask(address, DESCRIBE_QUORUM, 0, body, True, seconds)
    error = answer.take("h")
    if error:
        raise ConnectionError(f"{address} answered DescribeQuorum with error {error}")
    found = {}

    def replica():
        known = answer.take("i"), answer.take("q")
        answer.varint()
        return known

    def replicas():
        return [replica() for _ in range(answer.varint() - 1)]

    for _ in range(answer.varint() - 1):
        answer.text(answer.varint() - 1)
        for _ in range(answer.varint() - 1):
            index, error, leader, epoch, high_watermark = (answer.take(form) for form in "ihiiq")
            found[index] = Quorum(error, leader, epoch, high_watermark, dict(replicas() + replicas()))
            answer.varint()
        answer.varint()
    return found


def metadata_leader(address, seconds=5):
    """Who leads the metadata log, by what this node knows: (epoch, node)."""
    quorum = quorums(address, "__cluster_metadata", [0], seconds)[0]
    if quorum.error or quorum.leader < 0:
        raise ConnectionError(f"{address} knows no leader of the metadata log, error {quorum.error}")
    return quorum.epoch, quorum.leader


def _text(text):
    return struct.pack(">h", len(text)) + text.encode()


def coordinator(address, group, seconds=5):
    """Who coordinates the group, by what this node knows."""
    answer = _ask(address, FIND_COORDINATOR, 1, _text(group) + b"\0", False, seconds)
    answer.take("i")
    error = answer.take("h")
    answer.string()
    if error:
        raise ConnectionError(f"{address} knows no coordinator of {group}, error {error}")
    return answer.take("i")


def committed(address, group, partitions, seconds=5):
    """{(topic, partition): offset} that the group has committed, or -1; `partitions` is {topic: how many}."""
    body = _text(group) + struct.pack(">i", len(partitions))
    for topic, count in partitions.items():
        body += _text(topic) + struct.pack(f">{count + 1}i", count, *range(count))
    answer, found, errors = _ask(address, OFFSET_FETCH, 3, body, False, seconds), {}, []
    answer.take("i")

    def topic_answer():
        topic = answer.string()

        def partition():
            index, found[topic, index] = answer.take("i"), answer.take("q")
            answer.string()
            errors.append(answer.take("h"))
        answer.array(partition)

    answer.array(topic_answer)
    errors.append(answer.take("h"))
    if any(errors):
        raise ConnectionError(f"{address} answered OffsetFetch of {group} with error {max(errors)}")
    return found
