"""How long NCCL's collectives take over links of hosts: ring against tree, and its three protocols. Pure arithmetic.

Latencies, and shares of the bandwidth that a protocol reaches, are those of NCCL's own tuning model (nccl,
src/graph/tuning.cc), as torch has them too (torch/_inductor/comm_analysis.py, torch 2.13). NVLink SHARP (sums formed in
the switch) is not in it.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from membench.layers.spec import Collective
from membench.machine.datasheet import Hardware
from membench.planning.network import steps_of

Algorithm = Literal["ring", "tree"]
ProtocolName = Literal["ll", "ll128", "simple"]


@dataclass(frozen=True, slots=True)
class _Protocol:
    """Seconds to start, of a hop inside a host, of one between hosts; and of the bandwidth so much."""

    base_s: float
    inside_s: float
    between_s: float
    share: float


_PROTOCOLS: dict[tuple[Algorithm, ProtocolName], _Protocol] = {
    ("ring", "ll"): _Protocol(6.6e-6, 0.6e-6, 2.7e-6, 1 / 2),
    ("ring", "ll128"): _Protocol(14.0e-6, 1.9e-6, 4.0e-6, 120 / 128),
    ("ring", "simple"): _Protocol(8.4e-6, 3.4e-6, 14.0e-6, 1.0),
    ("tree", "ll"): _Protocol(6.8e-6, 0.6e-6, 5.0e-6, 1 / 3.8),
    ("tree", "ll128"): _Protocol(14.0e-6, 1.25e-6, 8.5e-6, 7 / 9),
    ("tree", "simple"): _Protocol(8.4e-6, 4.0e-6, 14.0e-6, 0.92),
}
# LL sends a flag with every four bytes, at no more than this share of NVLink's bandwidth in 1, 2 and more hosts:
# Hopper's 141, 45 and 35 GB/s of 370; Ampere's and Blackwell's are within a fifth of these shares.
_LL_MOST = (0.38, 0.12, 0.095)
_LEAST_INSIDE_S = {"ll": 1.0e-6, "ll128": 1.0e-6, "simple": 3.0e-6}  # of a hop inside a host, where there are others
# Of a tree's bandwidth, at 64 bytes and each doubling.
_TREE: dict[ProtocolName, str] = {
    "ll": "1 1 1 1 .9 .8 .7 .7 .7 .7 .6 .5 .4 .4 .5 .6 .7 .8 .9",
    "ll128": "1 1 1 1 1 .9 .8 .8 .8 .7 .6 .6 .6 .6 .6 .6 .8 .9 .9 .9 .9",
    "simple": ".9 .9 .9 .9 .9 .9 .9 .8 .7 .6 .6 .5 .5 .5 .5 .6 .7 .8 .7 .7 .8 .9 .9 .9",
}
_TREE_SHARES = {name: tuple(map(float, text.split())) for name, text in _TREE.items()}


@dataclass(frozen=True, slots=True)
class NcclNetwork:
    """Hosts of so many devices, each with a link to the others inside and a link of its own to other hosts.

    ``host_devices`` is None where all ranks are in one host, however many.
    """

    inside_bytes_per_s: float
    between_bytes_per_s: float | None
    host_devices: int | None

    @property
    def description(self) -> str:
        host = "one host" if self.host_devices is None else f"a host of {self.host_devices}"
        inside = f"{self.inside_bytes_per_s / 1e9:g} GB/s a device inside {host}"
        if self.between_bytes_per_s is None:
            return inside
        return f"{inside}, {self.between_bytes_per_s / 1e9:g} GB/s between hosts"

    def seconds(self, collective: Collective) -> float:
        if collective.kind == "all_to_all":
            inside, between = self.to_all(collective)
            one = self.exchange_s(inside, between, starts=collective.ranks - 1)
        else:
            one = min(self._way_s(collective, *way) for way in _PROTOCOLS)
        return collective.calls * one

    def hosts(self, collective: Collective) -> tuple[int, int]:
        """(ranks of the group in a host, hosts that it is in)."""
        room = collective.ranks if self.host_devices is None else self.host_devices // collective.stride
        here = max(1, min(collective.ranks, room))
        return here, -(-collective.ranks // here)

    def to_all(self, collective: Collective) -> tuple[float, float]:
        """Bytes that a rank of an all-to-all sends inside its host, and to others."""
        here, _ = self.hosts(collective)
        each = collective.payload_bytes / collective.ranks
        return each * (here - 1), each * (collective.ranks - here)

    def exchange_s(self, inside_bytes: float, between_bytes: float, *, starts: int) -> float:
        """Of messages from each rank to others: both kinds of links are used at once, and the slower one counts.

        Args:
            inside_bytes: that a rank sends inside its host.
            between_bytes: to other hosts.
            starts: messages that are started one after the other; 0: all at once.
        """
        simple = _PROTOCOLS["ring", "simple"]
        flight_s = simple.between_s if between_bytes else simple.inside_s
        moved_s = inside_bytes / self.inside_bytes_per_s
        if between_bytes:
            moved_s = max(moved_s, between_bytes / self._between)
        return simple.base_s + starts * simple.inside_s + flight_s + moved_s

    @property
    def _between(self) -> float:
        assert self.between_bytes_per_s is not None, "several hosts have a network"
        return self.between_bytes_per_s

    def _way_s(self, collective: Collective, algorithm: Algorithm, name: ProtocolName) -> float:
        """One call by one algorithm and protocol; infinite where NCCL has no such."""
        here, hosts = self.hosts(collective)
        if (algorithm == "tree" and collective.kind != "all_reduce") or (name == "ll128" and hosts > 1):
            return inf
        way, ranks = _PROTOCOLS[algorithm, name], collective.ranks
        # a ring enters and leaves a host by one NIC; as many rings as a host has ranks use all of them
        full = self.inside_bytes_per_s if hosts == 1 else min(self.inside_bytes_per_s, here * self._between)
        rate = full * way.share
        if name == "ll":
            rate = min(rate, self.inside_bytes_per_s * _LL_MOST[min(hosts, 3) - 1])
        inside_s = way.inside_s if hosts == 1 else max(way.inside_s, _LEAST_INSIDE_S[name])
        if algorithm == "tree":
            hops_s = 2 * ((here - 1) * inside_s + _floor_log2(hosts) * way.between_s)
            return way.base_s + hops_s + 2 * collective.payload_bytes / (rate * self._tree_share(collective, name))
        steps = steps_of(collective.kind, ranks)
        between = collective.passes * (hosts - 1)
        hops_s = (steps - between) * inside_s + between * way.between_s
        return way.base_s + hops_s + collective.payload_bytes * steps / ranks / rate

    @staticmethod
    def _tree_share(collective: Collective, name: ProtocolName) -> float:
        shares = _TREE_SHARES[name]
        place = _floor_log2(max(1, int(collective.payload_bytes) >> 6))
        return shares[place] if place < len(shares) else 1.0


def nccl_network(hardware: Hardware) -> NcclNetwork:
    """Of named hardware, by what is known best of its links."""
    entry = hardware.entry
    between = entry.network.best_known_bytes_per_s if entry.network and hardware.hosts > 1 else None
    return NcclNetwork(entry.link.best_known_bytes_per_s, between, hardware.count if hardware.devices > 1 else None)


def _floor_log2(count: int) -> int:
    return count.bit_length() - 1
