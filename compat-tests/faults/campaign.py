"""A campaign of faults of many kinds: which, of whom and for how long is drawn from a seed; then they are done and undone."""
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field

import clocks
from network import CLIENTS

# Between a fault that is healed and the next one: at most so long for clients to be back, then a little more.
CLIENTS_SECONDS, SETTLE_SECONDS = 3, 0.2
# Nothing that was done leaves the nodes more to catch up with than this takes.
HEALED_SECONDS = 60
# A second fault begins while the first one lasts, or so soon after it was undone.
RECOVERING_SECONDS = 1.5
OVERLAPPING = 0.35
PROCESS, NETWORK, VOLUME, CLOCK = "process", "network", "volume", "clock"


@dataclass
class Kind:
    """How often it is drawn beside the others, how long it lasts in seconds, what it needs, of how many nodes at least, and words."""

    weight: int
    least: float
    most: float
    needs: str
    nodes: int
    words: str


KINDS = {
    "kill": Kind(3, 0.2, 5, PROCESS, 1, "kill -9"),
    "restart": Kind(1, 0.1, 2, PROCESS, 1, "SIGTERM"),
    "pause": Kind(3, 0.5, 6, PROCESS, 1, "SIGSTOP, SIGCONT"),
    "cut": Kind(3, 0.5, 6, NETWORK, 3, "cut off both ways"),
    "cut-in": Kind(2, 0.5, 6, NETWORK, 3, "hears nobody"),
    "cut-out": Kind(2, 0.5, 6, NETWORK, 3, "heard by nobody"),
    "power": Kind(3, 0.2, 4, VOLUME, 1, "power cut of one node"),
    "power-majority": Kind(2, 0.2, 3, VOLUME, 3, "power cut of a majority"),
    "power-all": Kind(2, 0.2, 2, VOLUME, 3, "power cut of all nodes"),
    "power-twice": Kind(2, 0.2, 2, VOLUME, 1, "power cut, and again while it recovers"),
    "disk-full": Kind(1, 1, 4, VOLUME, 1, "volume full to the last block"),
    "disk-broken": Kind(1, 0.5, 4, VOLUME, 1, "every access to the volume fails with EIO"),
    "clock": Kind(1, 0.5, 6, CLOCK, 1, "the wall clock jumps, and back"),
}


@dataclass
class Plan:
    """One fault as drawn. `after` counts from the beginning of the one it overlaps, `again` from the start after which power is cut
    once more, `jump` is how far a clock jumps, in seconds; `silent` says that other nodes hear no last word of who loses power, `clients` that the cut or this silence goes for clients, too."""

    kind: str
    victims: tuple
    hold: float
    after: float = 0
    again: float = 0
    jump: float = 0
    clients: bool = False
    silent: bool = False


# Clients wait for up to half a minute for what they asked of one that went silent, by their own defaults.
SILENT, CUT_CLIENTS, SILENT_CLIENTS = 1 / 2, 1 / 3, 1 / 10
# A clock jumps ahead by up to two days, less than anything is kept, or back by less than the hour after which records are of a future that no
# broker believes in (message.timestamp.after.max.ms).
JUMP_SECONDS, AHEAD, BACK = 1, 2 * 86400, 3000


def draw(rng, kinds, nodes, count, overlap):
    """`count` faults in lists of one, or of two that overlap."""
    names, plans = list(kinds), []
    while count > 0:
        plans.append([_one(rng, names, range(nodes))])
        count -= 1
        if overlap and count and rng.random() < OVERLAPPING:
            first = plans[-1][0]
            after = rng.uniform(0.05, first.hold + RECOVERING_SECONDS)
            left = range(nodes) if after > first.hold else [node for node in range(nodes) if node not in first.victims]
            fitting = [name for name in names if _size(rng, name, nodes)[1] <= len(left)]
            if fitting:
                plans[-1].append(_one(rng, fitting, left, nodes))
                plans[-1][1].after = after
                count -= 1
    return plans


def _size(rng, kind, nodes):
    """Of how many nodes it is, at least and at most."""
    if kind == "power-twice":
        return 1, nodes
    size = {"power-majority": nodes // 2 + 1, "power-all": nodes}.get(kind, 1)
    return size, size


def _one(rng, names, among, nodes=None):
    name = rng.choices(names, [KINDS[name].weight for name in names])[0]
    kind, (least, most) = KINDS[name], _size(rng, name, nodes or len(among))
    victims = rng.sample(list(among), rng.choice((least, most)))
    hold = math.exp(rng.uniform(math.log(kind.least), math.log(kind.most)))
    return Plan(name, tuple(victims), round(hold, 3), again=round(math.exp(rng.uniform(math.log(0.05), math.log(1.5))), 3),
                jump=_jump(rng),
                clients=rng.random() < (SILENT_CLIENTS if kind.needs == VOLUME else CUT_CLIENTS), silent=rng.random() < SILENT)


def _jump(rng):
    sign, most = rng.choice(((1, AHEAD), (-1, BACK)))
    return sign * round(math.exp(rng.uniform(math.log(JUMP_SECONDS), math.log(most))))


@dataclass
class _Harm:
    """A fault that is being done."""

    plan: Plan
    number: int
    nodes: list
    fault: object = None
    cut: list = field(default_factory=list)


class Campaign:
    """Does the faults to the cluster of a Run."""

    def __init__(self, run, network):
        self.run, self.cluster, self.network = run, run.cluster, network
        self.number = 0
        self.cluster.sync_seconds = HEALED_SECONDS

    def go(self, plans, seconds):
        began = time.monotonic()
        for together in plans:
            if time.monotonic() - began > seconds:
                break
            self._together(together)

    def _together(self, plans):
        harms, steps = [], []
        for plan in plans:
            self.number += 1
            harm = _Harm(plan, self.number, [self.cluster.nodes[victim] for victim in plan.victims])
            harms.append(harm)
            steps += [(plan.after, self._begin, harm), (plan.after + plan.hold, self._end, harm)]
        began = time.monotonic()
        for at, step, harm in sorted(steps, key=lambda step: step[0]):
            self.run.pause(began + at - time.monotonic())
            step(harm)
        self._heal(harms)

    def _begin(self, harm):
        plan, nodes = harm.plan, harm.nodes
        words = f"{plan.kind} {harm.number} ({KINDS[plan.kind].words}: {', '.join(f'node {node.id}' for node in nodes)})"
        led = self.cluster.led_partitions(plan.victims)
        facts = {"nodes": list(plan.victims), "hold_s": plan.hold}
        if plan.after:
            facts["overlaps_s"] = round(plan.after, 3)
        harm.fault = self.run.fault(plan.kind, words, led=led, **facts)
        if plan.kind == "kill":
            nodes[0].kill()
        elif plan.kind == "restart":
            harm.fault.facts["stops_s"] = round(nodes[0].stop(), 2)
        elif plan.kind == "pause":
            nodes[0].signal(signal.SIGSTOP)
        elif plan.kind.startswith("cut"):
            harm.fault.facts["clients"] = plan.clients
            self._cut(harm, plan.kind, plan.clients)
        elif plan.kind == "disk-full":
            nodes[0].may_end = nodes[0].full = True
            nodes[0].volume.fill()
        elif plan.kind == "disk-broken":
            nodes[0].may_end = nodes[0].full = True
            nodes[0].volume.cut()
        elif plan.kind == "clock":
            harm.fault.facts["jump_s"] = plan.jump
            nodes[0].clock.jump(plan.jump)
        else:
            if self.network and plan.silent:
                harm.fault.facts["silent"] = "to all" if plan.clients else "to nodes"
            self._power_off(harm)

    def _cut(self, harm, kind, clients):
        node = harm.nodes[0].id
        others = [other for other in self.cluster.nodes if other != node] + ([CLIENTS] if clients else [])
        pairs = [(other, node) for other in others if kind != "cut-out"] + [(node, other) for other in others if kind != "cut-in"]
        self.network.cut(harm.number, pairs)

    def _power_off(self, harm):
        if self.network and harm.plan.silent:
            hosts = [*self.cluster.nodes] + ([CLIENTS] if harm.plan.clients else [])
            victims = harm.plan.victims
            self.network.cut(harm.number, {pair for victim in victims for host in hosts if host != victim for pair in ((victim, host), (host, victim))})
        for node in harm.nodes:
            node.volume.cut()
        for node in harm.nodes:
            # One may have ended at the first write that failed.
            node.kill()

    def _power_on(self, harm):
        for node in harm.nodes:
            node.volume.restore()
        if self.network and harm.plan.silent:
            self.network.heal(harm.number)
        for node in harm.nodes:
            node.start()

    def _end(self, harm):
        plan, nodes = harm.plan, harm.nodes
        if plan.kind in ("kill", "restart"):
            nodes[0].start()
        elif plan.kind == "pause":
            nodes[0].signal(signal.SIGCONT)
        elif plan.kind.startswith("cut"):
            self.network.heal(harm.number)
        elif plan.kind == "disk-full":
            nodes[0].volume.free()
            nodes[0].full = False
        elif plan.kind == "disk-broken":
            # It has ended at the first write that failed, if there was one.
            nodes[0].kill()
            nodes[0].volume.restore()
            nodes[0].full = False
            nodes[0].start()
        elif plan.kind == "clock":
            nodes[0].clock.jump(0)
        else:
            self._power_on(harm)
            if plan.kind == "power-twice":
                harm.fault.facts["again_s"] = plan.again
                self.run.pause(plan.again)
                self._power_off(harm)
                self.run.pause(plan.hold / 2)
                self._power_on(harm)
        harm.fault.undone = int(time.time() * 1000)

    def _heal(self, harms):
        began = time.monotonic()
        nodes = {node.id: node for harm in harms for node in harm.nodes}
        for node in nodes.values():
            self.cluster.wait_serves(node)
        serves = time.monotonic() - began
        self.cluster.wait_in_sync(self.run.topics)
        self.cluster.wait_caught_up(list(nodes))
        for node in nodes.values():
            node.may_end = False
        facts = harms[-1].fault.facts
        facts.update(serves_s=round(serves, 2), healed_s=round(time.monotonic() - began, 2))
        facts["clients_s"] = round(self.run.wait_clients(CLIENTS_SECONDS), 2)
        # What either hurt is not elsewhere.
        led = frozenset().union(*(harm.fault.led for harm in harms))
        for harm in harms:
            harm.fault.led = led
            ended = sum(node.take_ends() for node in harm.nodes)
            if ended:
                harm.fault.facts["ended"] = ended
            self.run.progress(f"{harm.fault.words}: {', '.join(f'{key} {value}' for key, value in harm.fault.facts.items())}")
        self.run.fetch_commits()
        self.run.pause(SETTLE_SECONDS)


def needs(kinds, what):
    return any(KINDS[name].needs == what for name in kinds)


def fitting(wanted, nodes, broker):
    """The kinds among those wanted, 'all' or by name; a ValueError says why there are none."""
    if wanted == "all":
        return [name for name in KINDS if not problem(name, nodes, broker)]
    for name in wanted.split(","):
        reason = problem(name, nodes, broker)
        if reason:
            raise ValueError(reason)
    return wanted.split(",")


def problem(name, nodes, broker):
    """Why this kind cannot be done to such nodes, in words."""
    if name not in KINDS:
        return f"no kind of fault '{name}'; there are {', '.join(KINDS)}"
    if broker != "klamm" and name not in ("kill", "restart"):
        return f"{name} is for Klamm only; for Apache Kafka there are kill and restart"
    if KINDS[name].nodes > nodes:
        return f"{name} wants {KINDS[name].nodes} nodes"
    if KINDS[name].needs == CLOCK and not clocks.library():
        return f"{name} needs libfaketime (package faketime)"
    if KINDS[name].needs == VOLUME and os.geteuid():
        return f"{name} needs file systems of its own, and those need root"
    return None


if __name__ == "__main__":
    try:
        print(",".join(fitting(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    except ValueError as error:
        sys.exit(str(error))
