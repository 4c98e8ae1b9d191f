"""Clients of three families produce and consume while faults are done to the nodes; then all they were told is compared with the
log. Started by compat-tests/run-faults; see README.md, "Clients during faults"."""
import argparse
import collections
import glob
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import campaign
import checker
import hangs
import report
from nodes import Cluster, Failed, dies_with_us

PARTITIONS = 12
# How long a killed node stays away: shorter and longer than it takes to be given up.
AWAY_SECONDS = (2, 5, 10)
CALM_SECONDS, SETTLE_SECONDS, CAMPAIGN_CALM_SECONDS = 8, 2, 3
# A record has at most five minutes by the clients' defaults (delivery.timeout.ms of librdkafka).
PRODUCED_SECONDS, CONSUMED_SECONDS, READ_SECONDS = 340, 60, 300


def now():
    return int(time.time() * 1000)


def progress(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Client:
    """The process of one client family, and the files it writes."""

    def __init__(self, name, command, bootstrap, rate, folder):
        self.name, self.folder = name, os.path.join(folder, name)
        self.topic, self.group = f"faults-{name}", f"faults-{name}-group"
        self.command = shlex.split(command) + [bootstrap, self.topic, self.group, str(rate), self.folder]
        self.process, self.problems, self.said, self.ended = None, [], {}, []
        # How many records it sent, and what its topic holds: known at the end.
        self.sent, self.log = None, None
        # A hang of its own that is known: then its consumer is not judged from there on.
        self.hangs = None
        # What its group had committed, now and then: (time asked, partition, offset).
        self.fetched = []
        # How far `acks` was read to see whether the producer goes on, and the partitions it was ever seen to write.
        self.seen, self.partitions = 0, set()
        self.heard = threading.Condition()
        os.makedirs(self.folder, exist_ok=True)

    def start(self):
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=dies_with_us)  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            with self.heard:
                self.said[word] = rest
                self.heard.notify_all()
        with self.heard:
            self.said["ended"] = ""
            self.heard.notify_all()

    @property
    def runs(self):
        """Whether it is there; the first time that it is not counts as an error of the application."""
        if self.process is None or self.ended:
            return False
        status = self.process.poll()
        if status is not None:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            self.ended.append((now(), "ended", f"the client ended {how}, see {self.folder}/log"))
            progress(f"FAILED {self.name} ended {how}; the others go on")
        return status is None

    def tell(self, *words):
        try:
            self.process.stdin.write(" ".join(words) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            self.problems.append(f"could not be told to {words[0]}: {error}")

    def hear(self, word, seconds):
        """What it says after this word."""
        with self.heard:
            self.heard.wait_for(lambda: word in self.said or "ended" in self.said, seconds)
            if word not in self.said:
                ended = "it ended" if "ended" in self.said else f"not within {seconds} s"
                self.write_threads()
                with open(self.file("threads"), encoding="utf-8") as threads:
                    self.hangs = hangs.known(threads.read())
                if not self.hangs:
                    self.problems.append(f"did not say '{word}': {ended}, see {self.folder}/log")
            return self.said.get(word)

    def silent(self, since):
        """Partitions without an acknowledgement since then, of what it wrote since this was asked last; takes note of those there are."""
        with open(self.file("acks"), "rb") as acks:
            acks.seek(self.seen)
            lines = acks.read().rpartition(b"\n")[0]
        self.seen += len(lines) + 1 if lines else 0
        rows = [line.split() for line in lines.splitlines()]
        self.partitions |= {int(row[2]) for row in rows}
        return self.partitions - {int(row[2]) for row in rows if int(row[0]) >= since}

    def hear_sent(self):
        said = self.hear("produced", PRODUCED_SECONDS)
        self.sent = int(said) if said else None

    def write_threads(self):
        """What each of its threads waits in, for whoever looks for the cause of a hang: the file `threads`."""
        with open(self.file("threads"), "w", encoding="utf-8") as file:
            for task in sorted(glob.glob(f"/proc/{self.process.pid}/task/*")):
                for name in ("comm", "wchan", "syscall", "stack"):
                    try:
                        with open(os.path.join(task, name), encoding="utf-8", errors="replace") as state:
                            file.write(f"{os.path.basename(task)} {name}: {state.read().strip()}\n")
                    except OSError:
                        continue
            if shutil.which("gdb"):
                file.flush()
                subprocess.run(["gdb", "-p", str(self.process.pid), "-batch", "-ex", "thread apply all backtrace 24"], stdin=subprocess.DEVNULL,
                               stdout=file, stderr=file, timeout=60, check=False)

    def write_rows(self):
        """What was read back and what the group had committed, beside what the client wrote itself."""
        with open(self.file("records"), "w", encoding="utf-8") as file:
            for partition, rows in self.log.items():
                file.writelines(f"{partition} {offset} {number} {crc}\n" for offset, number, crc in rows)
        with open(self.file("fetched"), "w", encoding="utf-8") as file:
            file.writelines(f"{asked} {partition} {offset}\n" for asked, partition, offset in self.fetched)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def file(self, name):
        return os.path.join(self.folder, name)



class Run:
    """One run: the cluster, the clients, what was done to them and when."""

    def __init__(self, args):
        self.args = args
        nodes = dict(node.split("=", 1) for node in args.node)
        self.cluster = Cluster({int(number): address for number, address in nodes.items()}, args.node_command, args.folder)
        commands = dict(client.split("=", 1) for client in args.client)
        self.clients = [Client(name, command, self.cluster.bootstrap, args.rate, args.folder) for name, command in commands.items()]
        self.topics = [client.topic for client in self.clients]
        self.faults, self.problems, self.began, self.stopped = [], [], now(), None
        self.progress = progress

    # What is done.

    def begin(self):
        if campaign.needs(self.args.kinds, campaign.NETWORK):
            self.cluster.add_network()
        if campaign.needs(self.args.kinds, campaign.VOLUME):
            self.cluster.add_volumes(self.args.folder)
        if campaign.needs(self.args.kinds, campaign.CLOCK):
            self.cluster.add_clocks(self.args.folder)
        for node in self.cluster.nodes.values():
            node.start()
        for node in self.cluster.nodes.values():
            self.cluster.wait_serves(node)
        self.cluster.wait_in_sync()
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        made = admin.create_topics([NewTopic(topic, PARTITIONS, min(3, len(self.cluster.nodes))) for topic in self.topics])
        for future in made.values():
            future.result(60)
        self.cluster.wait_in_sync(self.topics)
        for client in self.clients:
            client.start()
        for client in self.clients:
            self.cluster.wait(60, f"{client.name} produces and consumes", lambda client=client: self.missing(client))
        self.cluster.wait_in_sync()
        progress(f"{len(self.clients)} clients produce and consume on {self.cluster.bootstrap}")

    @staticmethod
    def missing(client):
        if not client.runs:
            raise Failed(f"{client.name} ended, see {client.folder}/log")
        for name in ("acks", "deliveries"):
            if not os.path.exists(client.file(name)) or os.path.getsize(client.file(name)) == 0:
                return f"no {name}"
        return None

    def pause(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.cluster.check()
            if not any([client.runs for client in self.clients]):
                raise Failed("no client is left")
            time.sleep(0.1)

    def fault(self, kind, words, led=frozenset(), **facts):
        fault = checker.Fault(kind, now(), words, led=led)
        fault.facts = facts
        self.faults.append(fault)
        return fault

    def restart(self, fault, node):
        node.start()
        fault.undone = now()
        fault.facts["serves_s"] = round(self.cluster.wait_serves(node), 2)
        fault.facts["in_sync_s"] = round(self.cluster.wait_in_sync(), 2)
        if self.args.broker == "klamm":
            fault.facts["caught_up_s"] = round(self.cluster.wait_caught_up([node.id]), 2)
        progress(f"{fault.words}: {', '.join(f'{key} {value}' for key, value in fault.facts.items())}")
        self.fetch_commits()
        self.pause(SETTLE_SECONDS)

    def wait_clients(self, seconds):
        """Until each client that runs has an acknowledgement from each partition, so that the next fault meets a load; no longer than so
        long: one that lost a connection without a word may wait for its own time-out. How long it took, in seconds."""
        began, since = time.monotonic(), now()
        silent = {client: client.silent(since) for client in self.clients if client.runs}
        while any(silent.values()) and time.monotonic() < began + seconds:
            self.pause(0.1)
            silent = {client: partitions & client.silent(since) for client, partitions in silent.items() if client.runs}
        return time.monotonic() - began

    def fetch_commits(self):
        """What the groups have committed, to be compared with what was acknowledged before."""
        for client in self.clients:
            asked = now()
            committed = self.cluster.committed(client.group, {client.topic: PARTITIONS})
            client.fetched += [(asked, partition, offset) for (_, partition), offset in committed.items()]

    def failovers(self, count):
        """Node after node is killed, every third time the one that leads the metadata log; never the one that came back last, which leads
        nothing yet."""
        victim = None
        for number in range(1, count + 1):
            metadata_leader = self.cluster.metadata_leader()
            order = sorted(self.cluster.nodes)
            if number % 3 == 1 and metadata_leader != victim:
                victim = metadata_leader
            else:
                victim = order[(order.index(victim) + 1) % len(order)] if victim is not None else order[0]
            node = self.cluster.nodes[victim]
            away = AWAY_SECONDS[(number - 1) % len(AWAY_SECONDS)] if count > 1 else AWAY_SECONDS[1]
            fault = self.fault("kill", f"failover {number} (kill -9 of node {victim})", self.cluster.led_partitions([victim]), nodes=[victim],
                               metadata_leader=victim == metadata_leader, away_s=away)
            node.kill()
            self.pause(away)
            self.restart(fault, node)

    def rolling_restarts(self, count):
        """Each node is told to stop and started again when it has ended, one after the other."""
        for number in range(1, count + 1):
            for node in self.cluster.nodes.values():
                metadata_leader = self.cluster.metadata_leader() == node.id
                fault = self.fault("restart", f"rolling restart {number} (SIGTERM to node {node.id})", self.cluster.led_partitions([node.id]),
                                   nodes=[node.id], metadata_leader=metadata_leader)
                fault.facts["stops_s"] = round(node.stop(), 2)
                self.restart(fault, node)

    def campaign(self):
        """Faults drawn from the seed, until there were so many or the time is over."""
        kinds = self.args.kinds
        plans = campaign.draw(random.Random(self.args.seed), kinds, len(self.cluster.nodes), self.args.faults, self.args.overlap)
        campaign.Campaign(self, self.cluster.network).go(plans, self.args.seconds)

    def finish(self):
        """Producers stop, what they sent is settled, and consumers get what there is."""
        self.stopped = now()
        left = [client for client in self.clients if client.runs]
        for client in left:
            client.tell("stop")
        for client in left:
            client.hear_sent()
        progress(f"producers stopped; sent: {', '.join(f'{client.name} {client.sent}' for client in left)}")
        for client in self.clients:
            client.log = read_back(self.cluster.bootstrap, client.topic)
        progress(f"read back: {', '.join(f'{client.name} {sum(map(len, client.log.values()))}' for client in self.clients)}")
        for client in left:
            client.tell("drain", *(f"{partition}:{rows.columns[0][-1] + 1}" for partition, rows in client.log.items() if rows))
        for client in left:
            client.hear("consumed", CONSUMED_SECONDS)
        self.fetch_commits()

    # What comes of it.

    def run(self):
        try:
            try:
                self.begin()
                self.fault("calm", "the calm before")
                self.pause(CAMPAIGN_CALM_SECONDS if self.args.kinds else CALM_SECONDS)
                if self.args.kinds:
                    self.campaign()
                else:
                    self.failovers(self.args.failovers)
                    self.rolling_restarts(self.args.rolling)
            except (Failed, KafkaException, OSError) as problem:
                self.problems.append(str(problem))
                progress(f"FAILED {problem}")
            if any(client.process for client in self.clients):
                self.finish()
        except (Failed, KafkaException, OSError) as problem:
            self.problems.append(f"after the faults: {problem}")
        except KeyboardInterrupt:
            self.problems.append("interrupted")
        finally:
            for client in self.clients:
                client.end()
            self.cluster.end()
        return self.result()

    def result(self):
        for node in self.cluster.nodes.values():
            self.problems += [f"node {node.id}: {line}" for line in node.panics()]
        result = {"broker": self.args.broker, "nodes": len(self.cluster.nodes), "seed": self.args.seed, "began": self.began,
                  "seconds": round((now() - self.began) / 1000), "rate": self.args.rate,
                  "faults": [{"kind": fault.kind, "begin": fault.begin, "undone": fault.undone, "words": fault.words, "led": len(fault.led), **fault.facts}
                             for fault in self.faults],
                  "problems": self.problems, "clients": {client.name: self.judged(client) for client in self.clients}}
        result["good"] = not self.problems and all(
            not any(client[count] for count in checker.COUNTS) for client in result["clients"].values())
        return result

    def judged(self, client):
        """The counts, findings and gaps of one client."""
        began = time.monotonic()
        acks, deliveries = checker.read_rows(client.file("acks"), checker.ack_rows()), checker.read_rows(client.file("deliveries"), checker.delivery_rows())
        commits = checker.read_rows(client.file("commits"), checker.commit_rows())
        errors, notes = (checker.read_words(client.file(name)) for name in ("errors", "notes"))
        errors += client.ended
        if client.log is None:
            self.problems.append(f"{client.name}: its records were not read back, only its errors are judged")
            history = checker.History((), (), errors, {}, consumed=False)
        else:
            history = checker.History(acks, deliveries, errors, client.log, commits, client.fetched, not client.ended and not client.hangs)
        verdict = checker.judge(history, self.faults)
        self.problems += [f"{client.name}: {problem}" for problem in client.problems + self.incomplete(client, acks, errors)]
        self.judge(client, history)
        stopped = client.ended[0][0] if client.ended else self.stopped or now()
        faults = [fault for fault in self.faults if fault.begin < stopped]
        judged = {
            "sent": client.sent, "acknowledged": len(acks), "in_log": sum(map(len, (client.log or {}).values())),
            "delivered_again": checker.delivered_again(deliveries),
            "commits": sum(commits.columns[3]),
            "notes": dict(collections.Counter([kind for _, kind, _ in notes] + ([client.hangs] if client.hangs else []))), **verdict.counts, "findings": verdict.findings,
            "by_fault": {str(at): dict(counts) for at, counts in verdict.by_fault.items()},
            "acknowledgement_gaps_ms": checker.gap_table(acks, faults, stopped),
            "delivery_gaps_ms": checker.gap_table(deliveries, faults, stopped),
            "gaps_by_fault_ms": checker.longest_gaps(acks, faults, stopped),
            "recoveries_ms": checker.recoveries(acks, client.topic, faults, stopped),
        }
        # The next client's take their place.
        client.log = None
        progress(f"{client.name} judged in {time.monotonic() - began:.1f} s")
        return judged

    def judge(self, client, history):
        """By the simulation's rules as well; its anomalies are problems."""
        if client.log is None or not self.args.judge:
            return
        client.write_rows()
        command = [self.args.judge, client.folder] + (["--consumed"] if history.consumed else [])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.problems += [f"{client.name}: {line}" for line in (done.stdout + done.stderr).splitlines()]
        if done.returncode and not done.stdout + done.stderr:
            self.problems.append(f"{client.name}: {self.args.judge} ended with {done.returncode}")

    @staticmethod
    def incomplete(client, acks, errors):
        """What is missing for a verdict on this client, in words."""
        missing = [f"wrote no {name}" for name in ("acks", "deliveries", "commits", "errors") if not os.path.exists(client.file(name))]
        if not acks:
            missing.append("no record was acknowledged")
        if client.sent is not None and not errors and len(acks) != client.sent:
            missing.append(f"{client.sent} records were sent, {len(acks)} acknowledged, and none failed")
        return missing


def read_back(bootstrap, topic):
    """{partition: log_rows} of the whole topic, by a consumer without a group that starts at the first record there is."""
    broken = []
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error",
                         "check.crcs": True, "error_cb": lambda error: broken.append(error) if error.fatal() else None})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    bounds = {place.partition: consumer.get_watermark_offsets(place, timeout=60) for place in places}
    log, position = {partition: checker.log_rows() for partition in bounds}, {partition: first for partition, (first, _) in bounds.items()}
    consumer.assign([TopicPartition(topic, partition, first) for partition, (first, end) in bounds.items()])
    deadline = time.monotonic() + READ_SECONDS
    while any(position[partition] < end for partition, (_, end) in bounds.items()):
        for message in consumer.consume(10_000, 0.5):
            if message.error():
                raise KafkaException(message.error())
            value = message.value()
            log[message.partition()].append(message.offset(), checker.number_of(value), checker.checksum(message.key(), value))
            position[message.partition()] = message.offset() + 1
        if broken:
            raise KafkaException(broken[0])
        if time.monotonic() > deadline:
            short = {partition: (position[partition], end) for partition, (_, end) in bounds.items() if position[partition] < end}
            raise Failed(f"{topic} could not be read to its end within {READ_SECONDS} s: {{partition: (position, end)}} {short}")
    consumer.close()
    return log


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--node", action="append", required=True, metavar="ID=HOST:PORT")
    parser.add_argument("--node-command", required=True)
    parser.add_argument("--client", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--failovers", type=int, required=True)
    parser.add_argument("--rolling", type=int, required=True)
    parser.add_argument("--kinds", type=lambda text: text.split(",") if text else [], default=[])
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--judge", metavar="COMMAND")
    parser.add_argument("-o", dest="output")
    args = parser.parse_args()
    # Whoever started this in the background had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = Run(args).run()
    report.table(result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    progress(f"at most {peak} MiB of memory")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    sys.exit(0 if result["good"] else 1)


if __name__ == "__main__":
    main()
