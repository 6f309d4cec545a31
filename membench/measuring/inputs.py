"""The inputs of a case: a pool of token batches with their routing, rotated past the caches.

Letters: b tokens of this rank, d model dim.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from membench.case import Case
from membench.layers.layer import Layer, Routing, has_gradient
from membench.layers.routing import StatedRouting
from membench.layers.spec import Spec
from membench.scenario.traces import read_rows, trace_for

_OF_RANK = 1_000_003  # between the seeds of two ranks
PAST_CACHES = 4  # inputs rotate past this many times the last-level cache


@dataclass(frozen=True, slots=True)
class Input:
    """One batch x (b, d), or an operator's own x, and how its tokens are routed (None: by the layer alone)."""

    x: Tensor
    routing: Routing | None

    @property
    def nbytes(self) -> int:
        """What it holds but for indices."""
        weights = None if self.routing is None else self.routing.weights
        return self.x.nbytes + (0 if weights is None else weights.nbytes)

    def leaves(self) -> tuple[Tensor, Routing | None]:
        """Both for a pass with a backward: what then has a gradient is a new leaf."""
        return self.x.detach().requires_grad_(has_gradient(self.x)), self.routing and self.routing.with_leaf_weights()


def pool_size(case: Case, cache_bytes: int, counted_as: Spec | None = None) -> int:
    """How many inputs it takes until a round of them touches 4x the cache.

    ``counted_as`` is the layer's, where that is not the case's own config.

    A round touches the weights that all inputs share once, and of each input its tokens and
    the table rows that only it reads. A layer whose shared weights are larger than that
    needs no more than two inputs, and a kind may say that fewer are enough.
    """
    spec, tokens = counted_as or case.layer, case.tokens
    own = spec.input_bytes(tokens)
    shared = 0.0
    if spec.COUNTED:
        cost = case.cost_of(spec, replace(case.step(), mode="forward", optimizer=None))
        own += sum(stage.row_bytes_unique for stage in cost.stages)
        shared = float((cost.rank_params - spec.table_params // case.ranks) * spec.item_bytes)
    past = PAST_CACHES * cache_bytes
    streaming = math.ceil(past / (shared + own)) if shared > cache_bytes else None
    return max(2, min(spec.most_inputs(streaming), math.ceil((past - shared) / own)))


def make_inputs(layer: Layer, case: Case, count: int, device: str, rank: int = 0) -> list[Input]:
    """``count`` inputs drawn from the case's seed; each ``rank`` that is there has tokens of its own.

    Raises:
        ValueError: the case's routing cannot be imposed on this layer, or its trace does not fit.
    """
    if error := case.layer.routing_error(case.routing.kind):
        raise ValueError(error)
    generator = torch.Generator(device=device).manual_seed(case.seed + 1 + rank * _OF_RANK)
    return [Input(*layer.draw_input(case.tokens, _stated(case, index, rank), generator)) for index in range(count)]


def _stated(case: Case, index: int, rank: int) -> StatedRouting:
    """The case's routing for batch number ``index``; what a trace holds is repeated when it runs out."""
    routing, group = case.routing, case.ranks * case.tokens
    recorded = None
    if routing.kind == "trace" and case.layer.choice_of_token is not None:
        if routing.trace is None:
            raise ValueError("routing.kind 'trace' needs routing.trace: an .npy file of recorded indices")
        trace_for(case.layer, routing)
        # all ranks' tokens follow each other, of which a rank that is there takes its own
        own = range(index * group, (index + 1) * group)
        own = own if case.shared_by is None else own[rank * case.tokens :][: case.tokens]
        recorded = torch.from_numpy(read_rows(routing.trace, own))
    return StatedRouting(routing.kind, routing.zipf_exponent, recorded)
