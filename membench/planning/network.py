"""How long a collective takes: an alpha-beta model. Pure arithmetic.

Every prediction of communication goes through ``Network.seconds``: a rank's measured share and a plan for devices that
nobody has alike. Letters: P ranks, M payload bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from membench.layers.spec import COLLECTIVES, Collective, CollectiveKind


class Network(Protocol):
    """What connects ranks."""

    @property
    def description(self) -> str:
        """In a few words."""
        ...

    def seconds(self, collective: Collective) -> float:
        """All calls of it, one after the other, with nothing else in the way."""
        ...


def total_ms(network: Network | None, collectives: Iterable[Collective]) -> float | None:
    """All of them, one after the other; 0 where nothing is sent, None where the network is unknown."""
    sent = [each for each in collectives if each.ranks > 1 and each.payload_bytes > 0]
    if not sent:
        return 0.0
    return None if network is None else 1e3 * sum(map(network.seconds, sent))


def steps_of(kind: CollectiveKind, ranks: int) -> int:
    """Messages that a rank sends one after the other: one to each other rank, in an all-reduce two."""
    return (2 if kind == "all_reduce" else 1) * (ranks - 1)


@dataclass(frozen=True, slots=True)
class AlphaBeta:
    """One collective: so long for each message, and for each byte that a rank sends."""

    alpha_s: float
    bytes_per_s: float

    def seconds(self, collective: Collective) -> float:
        messages = collective.calls * steps_of(collective.kind, collective.ranks)
        return messages * self.alpha_s + collective.sent_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class FlatNetwork:
    """All ranks alike, whoever talks to whom: as measured (``membench doctor --nproc``), or as a scenario states it.

    Of several lines the longest time counts: what a byte takes rises where messages outgrow a cache.
    """

    description: str
    lines: Mapping[CollectiveKind, tuple[AlphaBeta, ...]]

    def seconds(self, collective: Collective) -> float:
        return max(line.seconds(collective) for line in self.lines[collective.kind])


def plain_network(link_gb_s: float) -> FlatNetwork:
    """Of which only the bandwidth of a rank is known."""
    line = (AlphaBeta(0.0, link_gb_s * 1e9),)
    return FlatNetwork(f"{link_gb_s:g} GB/s a rank", dict.fromkeys(COLLECTIVES, line))
