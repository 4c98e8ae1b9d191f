"""A network namespace and an address for each node, all on one bridge with the clients beside them. What one host sends another can be
dropped, without anybody being told. To be made in the network and mount namespace that run-faults makes, with which it goes away."""
import os
import subprocess

PREFIX, BRIDGE = "10.77.0", "klamm"
# The clients, and this process.
CLIENTS = None


class Network:
    """Hosts by the nodes' ids, and CLIENTS."""

    def __init__(self, nodes):
        self.nodes = sorted(nodes)
        # {key: pairs (from, to) that are dropped until this key is healed}
        self.drops = {}

    def make(self):
        # Where `ip` keeps names.
        _run("mount -t tmpfs tmpfs /run")
        os.mkdir("/run/netns")
        _run("ip link set lo up")
        _run(f"ip link add {BRIDGE} type bridge")
        _run(f"ip addr add {self.address(CLIENTS)}/24 dev {BRIDGE}")
        _run(f"ip link set {BRIDGE} up")
        for node in self.nodes:
            _run(f"ip netns add n{node}")
            _run(f"ip link add v{node} type veth peer name eth0 netns n{node}")
            _run(f"ip link set v{node} master {BRIDGE} up")
            _run(f"ip -n n{node} addr add {self.address(node)}/24 dev eth0")
            _run(f"ip -n n{node} link set eth0 up")
            _run(f"ip -n n{node} link set lo up")
        for host in [*self.nodes, CLIENTS]:
            self._rules(host, "add table inet klamm\nadd chain inet klamm in { type filter hook input priority 0 ; }\n")

    @staticmethod
    def address(host):
        return f"{PREFIX}.{254 if host is CLIENTS else host + 1}"

    @staticmethod
    def inside(node):
        """What a command is to begin with to run there. Not `ip netns exec`: that makes mounts of its own, which keep volumes busy."""
        return ["nsenter", f"--net=/run/netns/n{node}"] if node is not CLIENTS else []

    def cut(self, key, pairs):
        """What is sent from one to the other of each pair is dropped until `key` is healed."""
        self.drops[key] = set(pairs)
        self._apply({to for _, to in pairs})

    def heal(self, key):
        self._apply({to for _, to in self.drops.pop(key)})

    def _apply(self, hosts):
        for host in hosts:
            senders = {sender for pairs in self.drops.values() for sender, to in pairs if to == host}
            self._rules(host, "flush chain inet klamm in\n" + "".join(f"add rule inet klamm in ip saddr {self.address(sender)} drop\n" for sender in senders))

    def _rules(self, host, rules):
        _run(" ".join(self.inside(host) + ["nft", "-f", "-"]), rules)


def _run(line, text=""):
    done = subprocess.run(line.split(), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{line}: {done.stderr.strip()}")
