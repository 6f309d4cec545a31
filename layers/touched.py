"""What a layer chooses and touches: for every one that reads rows, and every one that has experts.

Letters: B tokens, H heads, k rows a head reads, K experts a token uses.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from membench.layers.layer import Layer, RemoteAssignments, RemoteLookups, Routing, Selection, Touched

_SELECTED_ELEMENTS = 2**26  # fp32 scores that are held at a time while rows or experts are chosen


def select_in_parts(select: Callable[[Tensor], Selection], x: Tensor, scores: int) -> list[Selection]:
    """A layer's choice for tokens of several ranks, as many at a time as their scores leave room for.

    Rank by rank, each would read all keys and projections for its few tokens.

    Args:
        select: the layer's ``select``, or what does the same.
        scores: that a token is given, fp32.
    """
    together = max(1, _SELECTED_ELEMENTS // scores)
    return [select(part) for part in x.split(together)]


def touched_rows(layer: Layer, x: Tensor, routing: Routing | None) -> Touched:
    """What a layer that looks up rows touches: its own tokens' rows and those that other ranks send."""
    rows = chosen_indices(layer, x, routing).flatten()
    if routing is not None and isinstance(routing.remote, RemoteLookups):
        rows = torch.cat([rows, routing.remote.indices.flatten()])
    return Touched(rows=rows)


def touched_experts(layer: Layer, x: Tensor, routing: Routing | None, num_experts: int) -> Touched:
    """What a layer whose tokens choose experts touches: those of this rank, for the tokens of all."""
    if routing is not None and isinstance(routing.remote, RemoteAssignments):
        return Touched(expert_load=routing.remote.counts)
    chosen = chosen_indices(layer, x, routing)
    return Touched(expert_load=torch.bincount(chosen.flatten(), minlength=num_experts))


def chosen_indices(layer: Layer, x: Tensor, routing: Routing | None) -> Tensor:
    """The indices in force: imposed ones, else the layer's own."""
    if routing is not None and routing.selected is not None:
        return routing.selected
    selection = layer.select(x)
    if selection is None:
        raise ValueError(f"{type(layer).__name__} chooses nothing: its routing needs selected")
    return selection.indices
