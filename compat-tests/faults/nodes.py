"""The nodes as processes that are killed, stopped and started again, and what is known of them from outside."""
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import time

import wire
from clocks import Clock
from network import Network
from volumes import Volume

READY_SECONDS, END_SECONDS, SYNC_SECONDS = 90, 60, 180
LOOK_SECONDS = 0.1
# One that is told to stop before it listens to that ends by the signal itself.
STARTING_SECONDS = 2
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """The cluster did not do what it should; the run ends here and is judged."""


def dies_with_us():
    """Between fork and exec: nothing that is started here outlives this process, however it ends. Ctrl-C is for this process alone."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Node:
    """One node. `command` starts it, its address is where clients connect; `volume` is what it keeps its data on, `clock` what tells it
    the time, when those are ours."""

    def __init__(self, number, address, command, folder):
        self.id, self.address, self.command = number, address, command
        self.log, self.volume, self.clock = os.path.join(folder, f"node-{number}.log"), None, None
        self.process, self.started = None, 0
        # While its disk is full or broken it may end by itself, and is started again as soon as it is not.
        self.may_end, self.full, self.ended, self.ends = False, False, False, 0

    @property
    def runs(self):
        return self.process is not None

    def start(self):
        self.started, self.ended = time.monotonic(), False
        environment = {**os.environ, **(self.clock.environment if self.clock else {})}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=dies_with_us)  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn

    def check(self):
        """That it has not ended by itself."""
        if self.process and self.process.poll() is not None:
            status, self.process = self.process.returncode, None
            # A store that failed ends the process by SIGABRT; a panic would be found in the log.
            if not self.may_end or status not in (1, -signal.SIGABRT):
                raise Failed(f"node {self.id} ended by itself with status {status}, see {self.log}")
            self.ended, self.ends = True, self.ends + 1
        if self.ended and not self.full:
            self.start()

    def take_ends(self):
        """How often it ended by itself, as it might, since this was asked last."""
        ends, self.ends = self.ends, 0
        return ends

    def kill(self):
        """Kills it, unless it has ended by itself, as it might."""
        if self.process:
            self.ends += self.may_end and self.process.poll() is not None
            self.process.kill()
            self.process.wait()
        self.process, self.ended = None, False

    def signal(self, number):
        if self.process:
            self.process.send_signal(number)

    def stop(self):
        """SIGTERM; how long the end took, in seconds."""
        began = time.monotonic()
        self.check()
        if not self.process:
            self.ended = False
            return 0
        starting = began - self.started < STARTING_SECONDS
        self.process.terminate()
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"node {self.id} had not ended {END_SECONDS} s after SIGTERM, see {self.log}") from None
        self.process = None
        # A JVM that was told to stop says so in its status.
        if status not in (0, 128 + signal.SIGTERM) and not (starting and status == -signal.SIGTERM):
            raise Failed(f"node {self.id} ended with status {status} after SIGTERM, see {self.log}")
        return time.monotonic() - began

    def panics(self):
        """Lines of its log that tell of a panic, which need not have ended it."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return [line.strip() for line in log if "panicked at" in line]


class Cluster:
    """All nodes, by id."""

    def __init__(self, addresses, command, folder):
        self.nodes = {}
        for number, address in addresses.items():
            words = [word.replace("{id}", str(number)) for word in shlex.split(command)]
            self.nodes[number] = Node(number, address, words, folder)
        self.bootstrap, self.network = ",".join(addresses.values()), None
        # How long it may take until all is in sync again; what takes longer is a hang.
        self.sync_seconds = SYNC_SECONDS

    def add_network(self):
        """Each node gets a network namespace with an address; to be called before it starts."""
        self.network = Network(self.nodes)
        self.network.make()
        for node in self.nodes.values():
            node.command = self.network.inside(node.id) + node.command

    def add_volumes(self, folder):
        """Each node gets a file system for its data, mounted where its configuration says; to be called before it starts."""
        for node in self.nodes.values():
            node.volume = Volume(os.path.join(folder, f"volume-{node.id}"))
            node.volume.make()

    def add_clocks(self, folder):
        """Each node gets a wall clock of its own; to be called before it starts."""
        for node in self.nodes.values():
            node.clock = Clock(os.path.join(folder, f"clock-{node.id}"))

    def check(self):
        for node in self.nodes.values():
            node.check()

    def end(self):
        """Whatever still runs is killed."""
        for node in self.nodes.values():
            if node.process and node.process.poll() is None:
                node.kill()
            if node.volume:
                node.volume.unmount()

    def wait(self, seconds, what, condition):
        """Until condition() gives nothing; what it gives says what is missing. How long it took, in seconds."""
        began = time.monotonic()
        missing = "?"
        while missing:
            self.check()
            if time.monotonic() - began > seconds:
                raise Failed(f"not within {seconds} s: {what}: {missing}")
            try:
                missing = condition()
            except (OSError, socket.timeout) as error:
                missing = str(error) or type(error).__name__
            if missing:
                time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def wait_serves(self, node):
        """Until the node answers clients."""
        return self.wait(READY_SECONDS, f"node {node.id} serves", lambda: None if wire.metadata(node.address)[0] else "it names no broker")

    def wait_in_sync(self, topics=()):
        """Until each node knows all nodes, and a leader and all replicas in sync of every partition; these topics have to be there."""
        return self.wait(self.sync_seconds, "all nodes and replicas in sync", lambda: self.out_of_sync(topics))

    def out_of_sync(self, topics=()):
        """What is not as it should be, in words; nothing when all is."""
        for node in self.nodes.values():
            brokers, partitions = wire.metadata(node.address)
            if sorted(brokers) != sorted(self.nodes):
                return f"node {node.id} names the nodes {sorted(brokers)}"
            absent = set(topics) - {topic for topic, _ in partitions}
            if absent:
                return f"node {node.id} does not know {', '.join(absent)}"
            for (topic, partition), (leader, replicas, in_sync) in partitions.items():
                if leader not in self.nodes or len(in_sync) < len(replicas):
                    return f"node {node.id} has {topic}-{partition} led by {leader}, in sync {in_sync} of {replicas}"
        return None

    def wait_caught_up(self, numbers):
        """Until these nodes have of every partition what was committed when the wait began. Only Klamm's nodes tell."""
        marks = {}
        for place, quorum in self.led():
            marks[place] = quorum.high_watermark
        return self.wait(self.sync_seconds, f"nodes {numbers} have caught up", lambda: self.behind(numbers, marks))

    def behind(self, numbers, marks):
        """Of which partition one of these nodes lacks what is below the mark, in words."""
        seen = set()
        for (topic, partition), quorum in self.led():
            seen.add((topic, partition))
            mark = marks.get((topic, partition), 0)
            for number in numbers:
                if quorum.ends.get(number, mark) < mark:
                    return f"{topic}-{partition}: node {number} has {quorum.ends[number]} of {mark}"
        unseen = marks.keys() - seen
        return f"no leader of {unseen}" if unseen else None

    def led(self):
        """[((topic, partition), Quorum)] of all partitions, from the nodes that lead them."""
        found = []
        for node in self.nodes.values():
            led = {}
            for (topic, partition), (leader, _, _) in wire.metadata(node.address)[1].items():
                if leader == node.id:
                    led.setdefault(topic, []).append(partition)
            for topic, partitions in led.items():
                found += [((topic, index), quorum) for index, quorum in wire.quorums(node.address, topic, partitions).items() if not quorum.error]
        return found

    def led_by(self, number):
        """How many partitions this node leads."""
        leaders = [leader for leader, _, _ in wire.metadata(self.nodes[number].address)[1].values()]
        return leaders.count(number)

    def led_partitions(self, numbers):
        """The partitions that these nodes lead, as (topic, partition), by what the first node that answers at once knows."""
        for node in self.nodes.values():
            if node.runs:
                try:
                    partitions = wire.metadata(node.address, 0.3)[1]
                except OSError:
                    continue
                return frozenset(place for place, (leader, _, _) in partitions.items() if leader in numbers)
        return frozenset()

    def committed(self, group, partitions):
        """{(topic, partition): offset} that the group has committed."""
        found = {}

        def ask():
            node = self.nodes[wire.coordinator(self.nodes[min(self.nodes)].address, group)]
            found.update(wire.committed(node.address, group, partitions))
        self.wait(self.sync_seconds, f"what {group} has committed is told", ask)
        return found

    def metadata_leader(self):
        """The node that leads the metadata log, as the node with the highest epoch has it."""
        known = []
        for node in self.nodes.values():
            try:
                known.append(wire.metadata_leader(node.address))
            except OSError:
                continue
        if not known:
            raise Failed("no node knows who leads the metadata log")
        return max(known)[1]
