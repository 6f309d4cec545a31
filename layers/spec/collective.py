"""The collectives of a step: which there are, among which ranks, and how often. Pure arithmetic, no torch.

A cost says by name what one rank sends in all calls (``Cost.communication_bytes``); a name is that of the collective
and of what it moves. What a network makes of it also depends on who takes part, and on the number of calls.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

CollectiveKind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
COLLECTIVES: tuple[CollectiveKind, ...] = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")
Among = Literal["group", "columns", "rows"]

# (among whom, calls of a forward pass, calls of a backward pass): all ranks that hold a layer once, those of one table
# shard's columns, or those of its rows.
_NAMED: dict[str, tuple[Among, int, int]] = {
    "all_reduce_gradients": ("group", 0, 1),
    "all_gather_weights": ("group", 1, 1),
    "reduce_scatter_gradients": ("group", 0, 1),
    "all_gather_tokens": ("group", 1, 1),
    "reduce_scatter_tokens": ("group", 1, 1),
    "all_to_all_tokens": ("group", 2, 2),
    "all_gather_scores": ("group", 1, 0),
    "all_gather_lookups": ("columns", 1, 0),
    "all_gather_counts": ("columns", 1, 0),
    "all_to_all_columns": ("columns", 1, 1),
    "reduce_scatter_weights": ("columns", 0, 1),
    "all_reduce_products": ("columns", 1, 1),
    "all_reduce_row_squares": ("columns", 0, 1),
    "all_to_all_counts": ("rows", 1, 0),
    "all_to_all_lookups": ("rows", 1, 0),
    "all_to_all_weights": ("rows", 0, 1),
    "all_gather_columns": ("rows", 1, 1),
    "reduce_scatter_columns": ("rows", 1, 1),
}


@dataclass(frozen=True, slots=True)
class Collective:
    """So many calls of one collective in a step.

    Attributes:
        kind: which.
        payload_bytes: M of one call, the larger of what a rank gives and what it gets: an all-gather's whole result,
            a reduce-scatter's and an all-to-all's whole input.
        ranks: P of the group that exchanges.
        stride: ranks of the group are so far apart among all ranks; 1: they are neighbours, as many in a host as fit.
        calls: in a step.
    """

    kind: CollectiveKind
    payload_bytes: float
    ranks: int
    stride: int = 1
    calls: float = 1

    @property
    def sent_bytes(self) -> float:
        """What one rank sends in all calls: (P-1)/P of the payload, in an all-reduce twice that."""
        return self.calls * self.payload_bytes * self.passes * (self.ranks - 1) / self.ranks

    @property
    def passes(self) -> int:
        """How often a payload goes around: an all-reduce is a reduce-scatter and an all-gather."""
        return 2 if self.kind == "all_reduce" else 1


def sending(kind: CollectiveKind, sent_bytes: float, ranks: int, stride: int = 1, calls: float = 1) -> Collective:
    """The collective in which one rank sends so many bytes in all calls together."""
    whole = Collective(kind, 1.0, ranks, stride, calls)
    return Collective(kind, sent_bytes / whole.sent_bytes, ranks, stride, calls)


def collectives(
    sent_bytes: Mapping[str, float],
    *,
    ranks: int,
    row_shards: int = 1,
    rows_inside: bool = False,
    backward: bool,
    layers: float = 1,
) -> list[Collective]:
    """The collectives of a step, from what a rank sends by name.

    Args:
        sent_bytes: as a cost says it.
        ranks: P, that share the layer.
        row_shards: of them R; P / R share the columns.
        rows_inside: neighbouring ranks hold other rows; else other columns of the same rows.
        backward: whether the step has a backward pass.
        layers: layers that the bytes are of, each with calls of its own.

    Raises:
        KeyError: of a name that no cost has.
    """
    columns = ranks // row_shards
    groups: dict[Among, tuple[int, int]] = {
        "group": (ranks, 1),
        "columns": (columns, row_shards if rows_inside else 1),
        "rows": (row_shards, 1 if rows_inside else columns),
    }
    found = []
    for name, sent in sent_bytes.items():
        among, forward, back = _NAMED[name]
        size, stride = groups[among]
        calls = layers * (forward + (back if backward else 0))
        found.append(sending(_kind(name), sent, size, stride, calls))
    return found


def sent_by_kind(found: Iterable[Collective]) -> dict[str, float]:
    """What a rank sends in all collectives of each kind, where it sends any."""
    sent: dict[str, float] = {}
    for each in found:
        sent[each.kind] = sent.get(each.kind, 0.0) + each.sent_bytes
    return {kind: count for kind, count in sent.items() if count}


def _kind(name: str) -> CollectiveKind:
    return next(kind for kind in COLLECTIVES if name.startswith(kind))
