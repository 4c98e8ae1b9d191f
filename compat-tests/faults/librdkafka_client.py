"""A producer and a group's consumer of confluent-kafka (librdkafka). Arguments and files: see README.md, "Clients during faults"."""
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer

from checker import checksum, content, number_of

BOOTSTRAP, TOPIC, GROUP, RATE, FOLDER = sys.argv[1:]
# Contexts of librdkafka's own log, such as `eos`, to reduce a finding.
DEBUG = {"debug": os.environ["LIBRDKAFKA_DEBUG"]} if "LIBRDKAFKA_DEBUG" in os.environ else {}
# The default of delivery.timeout.ms is five minutes.
SETTLED_SECONDS = 330


class File:
    """Lines that reach the disk at least every 200 ms of use."""

    def __init__(self, name):
        self.file = open(os.path.join(FOLDER, name), "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.lock, self.flushed = threading.Lock(), 0

    def line(self, *words):
        now = time.time()
        with self.lock:
            self.file.write(f"{int(now * 1000)} {' '.join(map(str, words))}\n")
            if now - self.flushed > 0.2:
                self.flush(now)

    def flush(self, now=0):
        self.file.flush()
        self.flushed = now


acks, deliveries, commits, errors, notes = (File(name) for name in ("acks", "deliveries", "commits", "errors", "notes"))


def say(*words):
    print(*words, flush=True)


def informed(error):
    """librdkafka's error_cb: informational, says its documentation, unless the error is fatal."""
    (errors if error.fatal() else notes).line("fatal" if error.fatal() else "client", error)


def committed(error, places):
    if error:
        notes.line("commit", error)
    for place in places:
        if place.offset >= 0:
            commits.line(place.partition, place.offset, 0 if error or place.error else 1)


class Sender:
    """Sends numbered records at a steady rate until told to stop."""

    def __init__(self):
        # Everything else is the default; without this one, librdkafka's producer is not idempotent.
        self.producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "error_cb": informed, **DEBUG})
        self.stopping, self.sent, self.settled = threading.Event(), 0, 0
        self.threads = [threading.Thread(target=self.send, daemon=True), threading.Thread(target=self.poll, daemon=True)]
        for thread in self.threads:
            thread.start()

    def send(self):
        began = time.monotonic()
        while not self.stopping.is_set():
            number = self.sent
            time.sleep(max(0, began + number / float(RATE) - time.monotonic()))
            self.sent += 1
            try:
                key, value = content(number)
                self.producer.produce(TOPIC, key=key, value=value, on_delivery=lambda error, message, number=number: self.delivered(number, error, message))
            except (BufferError, KafkaException) as error:
                self.settled += 1
                errors.line("produce", f"record {number}: {error}")

    def delivered(self, number, error, message):
        self.settled += 1
        if error:
            errors.line("delivery", f"record {number}: {error}")
        else:
            # There is no offset of what the broker had already.
            acks.line(number, message.partition(), -1 if message.offset() is None else message.offset())

    def poll(self):
        while not self.stopping.is_set():
            self.producer.poll(0.1)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        self.producer.flush(SETTLED_SECONDS)
        if self.settled != self.sent:
            errors.line("unsettled", f"{self.sent - self.settled} records had neither an acknowledgement nor an error")
        acks.flush()


class Reader:
    """Reads as a member of the group, committing as it comes by default."""

    def __init__(self):
        self.ends, self.next = None, {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        # Read from the first record on: the default of a new group is the end.
        consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": GROUP, "auto.offset.reset": "earliest", "error_cb": informed,
                             "on_commit": committed})
        consumer.subscribe([TOPIC])
        while not self.is_done():
            try:
                for message in consumer.consume(500, 0.2):
                    if message.error():
                        errors.line("consumer", message.error())
                        continue
                    value = message.value()
                    deliveries.line(number_of(value), message.partition(), message.offset(), checksum(message.key(), value))
                    self.next[message.partition()] = message.offset() + 1
            except KafkaException as error:
                errors.line("consumer", error)
        consumer.close()
        deliveries.flush()

    def is_done(self):
        return self.ends is not None and all(self.next.get(partition, 0) >= end for partition, end in self.ends.items())


sender, reader = Sender(), Reader()
for command in sys.stdin:
    words = command.split()
    if words[0] == "stop":
        sender.stop()
        say("produced", sender.sent)
    if words[0] == "drain":
        reader.ends = dict(map(int, pair.split(":")) for pair in words[1:])
        reader.thread.join()
        for file in (commits, errors, notes):
            file.flush()
        say("consumed")
        break
