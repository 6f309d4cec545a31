"""The collectives of a step: which there are, in which order, among which ranks. Pure arithmetic, no torch.

A cost says by name what one rank sends in all calls (``Cost.communication_bytes``); a name is that of the collective
and of what it moves. What a network makes of it also depends on who takes part, and on the number of calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CollectiveKind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
COLLECTIVES: tuple[CollectiveKind, ...] = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")
Among = Literal["group", "columns", "rows"]
Each = Literal["layer", "table", "step"]


@dataclass(frozen=True, slots=True)
class _Named:
    """Who exchanges what a name moves, and when; there is one call for each layer, or for each of ``each``.

    Attributes:
        among: all ranks that hold a layer once, those of one table shard's columns, or those of its rows.
        when: f, of a forward pass; b, of a backward pass; s, of the sums of gradients after it; u, of the update.
    """

    among: Among
    when: Literal["f", "b", "fb", "s", "u"]
    each: Each = "layer"


# In the order of a forward pass, which a backward pass goes the other way: ranks tell each other how much is coming,
# send what is asked for, and get the answers.
_NAMED: dict[str, _Named] = {
    "reduce_scatter_gradients": _Named("group", "b"),
    "all_gather_weights": _Named("group", "fb"),
    "all_gather_sizes": _Named("group", "f"),
    "all_gather_tokens": _Named("group", "f"),
    "reduce_scatter_token_parts": _Named("group", "b"),
    "reduce_scatter_results": _Named("group", "f"),
    "all_gather_result_gradients": _Named("group", "b"),
    "all_gather_scores": _Named("group", "f"),
    "all_reduce_loads": _Named("group", "f"),
    "all_to_all_loads": _Named("group", "f"),
    "all_to_all_tokens": _Named("group", "fb"),
    "all_to_all_results": _Named("group", "fb"),
    "all_to_all_counts": _Named("rows", "f"),
    "all_to_all_lookups": _Named("rows", "f"),
    "all_to_all_weights": _Named("rows", "b"),
    "all_gather_lookup_sizes": _Named("columns", "f"),
    "all_gather_counts": _Named("columns", "f"),
    "all_gather_lookups": _Named("columns", "f"),
    "reduce_scatter_weights": _Named("columns", "b"),
    "all_to_all_token_columns": _Named("columns", "fb"),
    "all_gather_token_columns": _Named("rows", "f"),
    "reduce_scatter_token_gradients": _Named("rows", "b"),
    "all_reduce_products": _Named("columns", "fb"),
    "reduce_scatter_columns": _Named("rows", "f"),
    "all_gather_column_gradients": _Named("rows", "b"),
    "all_to_all_columns": _Named("columns", "fb"),
    "all_reduce_gradients": _Named("group", "s", "step"),
    "all_reduce_row_squares": _Named("columns", "u", "table"),
    "all_reduce_step_loads": _Named("group", "u"),
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
    tables: float = 1,
    between: Sequence[Collective] = (),
) -> list[Collective]:
    """The collectives of a step in the order in which one layer sends them, from what a rank sends by name.

    Args:
        sent_bytes: as a cost says it.
        ranks: P, that share the layer.
        row_shards: of them R; P / R share the columns.
        rows_inside: neighbouring ranks hold other rows; else other columns of the same rows.
        backward: whether the step has a backward pass.
        layers: layers that the bytes are of, each with calls of its own.
        tables: tables that the bytes are of, each updated by itself.
        between: those with replicas, before the update.

    Raises:
        KeyError: of a name that no cost has.
    """
    columns = ranks // row_shards
    groups: dict[Among, tuple[int, int]] = {
        "group": (ranks, 1),
        "columns": (columns, row_shards if rows_inside else 1),
        "rows": (row_shards, 1 if rows_inside else columns),
    }
    counts: dict[Each, float] = {"layer": layers, "table": tables, "step": 1}
    if unknown := sent_bytes.keys() - _NAMED.keys():
        raise KeyError(min(unknown))

    def sent_when(when: Literal["f", "b", "s", "u"]) -> list[Collective]:
        found = []
        for name, named in _NAMED.items():
            if when in named.when and name in sent_bytes:
                passes = len(named.when) if backward else 1
                size, stride = groups[named.among]
                found.append(sending(_kind(name), sent_bytes[name] / passes, size, stride, counts[named.each]))
        return found

    forward = sent_when("f")
    if not backward:
        return forward
    return [*forward, *reversed(sent_when("b")), *sent_when("s"), *between, *sent_when("u")]


def sent_by_kind(found: Iterable[Collective]) -> dict[str, float]:
    """What a rank sends in all collectives of each kind, where it sends any."""
    sent: dict[str, float] = {}
    for each in found:
        sent[each.kind] = sent.get(each.kind, 0.0) + each.sent_bytes
    return {kind: count for kind, count in sent.items() if count}


def _kind(name: str) -> CollectiveKind:
    return next(kind for kind in COLLECTIVES if name.startswith(kind))
