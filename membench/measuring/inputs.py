"""The inputs of a case: a pool of token batches with their routing, rotated past the caches.

Letters: b tokens of this rank, P ranks, d model dim, H heads, k rows a head, K experts a token.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from membench.case import Case, RoutingConfig
from membench.layers.kernels.lookups import index_dtype
from membench.layers.layer import Layer, RemoteAssignments, RemoteLookups, Routing, Selection, torch_dtype
from membench.layers.operators.operator import Operator
from membench.layers.routing import busiest_rank, draw_experts, draw_lookups
from membench.layers.spec import (
    ExternalSpec,
    GroupedExpertsSpec,
    MemorySpec,
    MoESpec,
    PeerSpec,
    RowOperatorSpec,
    Spec,
    TokenSpec,
)
from membench.scenario.traces import checked, read_rows

_POOL_CACHES = 4  # inputs rotate past this many times the last-level cache
_MAX_POOL = 256
_SELECTED_ELEMENTS = 2**26  # fp32 scores that are held at a time while rows or experts are chosen


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
        return self.x.detach().requires_grad_(True), self.routing and self.routing.with_leaf_weights()


def pool_size(case: Case, cache_bytes: int, counted_as: Spec | None = None) -> int:
    """How many inputs it takes until a round of them touches 4x the cache.

    ``counted_as`` is the layer's, where that is not the case's own config.

    A round touches the weights that all inputs share once, and of each input its tokens and
    the table rows that only it reads. A layer whose shared weights are larger than that
    needs no more than two inputs.
    """
    spec, tokens = counted_as or case.layer, case.tokens
    own = spec.input_bytes(tokens)
    shared = 0.0
    if not isinstance(spec, ExternalSpec):
        cost = spec.cost(tokens, ranks=case.ranks)
        own += sum(stage.row_bytes_unique for stage in cost.stages)
        shared = float((cost.rank_params - spec.table_params // case.ranks) * spec.item_bytes)
    return max(2, min(_MAX_POOL, math.ceil((_POOL_CACHES * cache_bytes - shared) / own)))


def make_inputs(layer: Layer, case: Case, count: int, device: str) -> list[Input]:
    """``count`` inputs drawn from the case's seed.

    Raises:
        ValueError: the case's routing cannot be imposed on this layer, or its trace does not fit.
    """
    generator = torch.Generator(device=device).manual_seed(case.seed + 1)
    return [_make_input(layer, case, index, device, generator) for index in range(count)]


def _tokens(count: int, case: Case, device: str, generator: torch.Generator) -> Tensor:
    assert isinstance(case.layer, TokenSpec)
    x = torch.randn(count, case.layer.model_dim, dtype=torch.float32, device=device, generator=generator)
    return x.to(torch_dtype(case.layer.dtype))


def _make_input(layer: Layer, case: Case, index: int, device: str, generator: torch.Generator) -> Input:
    if isinstance(layer, Operator):
        return _operator_input(layer, case, index, device, generator)
    x = _tokens(case.tokens, case, device, generator)
    spec = case.layer
    if isinstance(spec, (MemorySpec, PeerSpec)):
        return Input(x, _lookup_routing(layer, spec, case, index, device, generator))
    if isinstance(spec, MoESpec):
        return Input(x, _expert_routing(layer, spec, case, x, index, device, generator))
    return Input(x, None)


def _lookup_routing(
    layer: Layer, spec: MemorySpec | PeerSpec, case: Case, index: int, device: str, generator: torch.Generator
) -> Routing | None:
    others = (case.ranks - 1) * case.tokens
    group = case.tokens + others
    imposed = _imposed_rows(spec, case.routing, group, index, device, generator)
    selected = None if imposed is None else imposed[: case.tokens]
    if not others:
        return None if selected is None else Routing(selected=selected)
    x_others = _tokens(others, case, device, generator)
    chosen = _selections(layer, x_others, scores=2 * spec.heads * spec.sub_keys)
    indices = torch.cat([c.indices for c in chosen]) if imposed is None else imposed[case.tokens :]
    weights = torch.cat([c.weights for c in chosen])
    if isinstance(spec, MemorySpec):
        return Routing(selected, RemoteLookups(indices, weights))
    columns = spec.model_dim // case.ranks
    # u·x of unit-variance tokens has unit variance, of which the other ranks hold (P-1)/P
    share = math.sqrt((case.ranks - 1) / case.ranks)
    products = share * torch.randn(
        group, spec.heads, spec.top_k, dtype=torch.float32, device=device, generator=generator
    )
    return Routing(selected, RemoteLookups(indices, weights, x_others[:, :columns].contiguous(), products))


def _selections(layer: Layer, x: Tensor, scores: int) -> list[Selection]:
    """The layer's choice for tokens of several ranks, as many at a time as their scores leave room for.

    Rank by rank, each would read all keys and projections for its few tokens.

    Args:
        scores: that a token is given, fp32.
    """
    together = max(1, _SELECTED_ELEMENTS // scores)
    return [found for part in x.split(together) if (found := layer.select(part)) is not None]


def _expert_routing(
    layer: Layer, spec: MoESpec, case: Case, x: Tensor, index: int, device: str, generator: torch.Generator
) -> Routing | None:
    kind = case.routing.kind
    if spec.choice == "expert":
        if kind != "routed":
            raise ValueError(f"routing kind {kind!r} cannot be imposed on expert choice: each expert picks its tokens")
        return None
    group = case.ranks * case.tokens
    experts = _imposed_experts(spec, case.routing, group, index, device, generator)
    if case.ranks == 1:
        return None if experts is None else Routing(selected=experts)
    if experts is None:
        x_others = _tokens(group - case.tokens, case, device, generator)
        chosen = _selections(layer, torch.cat([x, x_others]), scores=spec.num_experts)
        experts = torch.cat([c.indices for c in chosen])
    counts = busiest_rank(experts, spec.num_experts, case.ranks)
    return Routing(remote=RemoteAssignments(counts))


def _operator_input(operator: Operator, case: Case, index: int, device: str, generator: torch.Generator) -> Input:
    """An operator's x, and what a layer would have chosen: rows as retrieval gives them, experts as a router does."""
    spec = operator.spec
    x, weights = operator.draw(case.tokens, generator)
    if isinstance(spec, RowOperatorSpec):
        rows = _imposed_rows(spec, case.routing, case.tokens, index, device, generator)
        # torch.topk, which a plain composition has its rows from, gives int64
        if rows is not None and spec.path != "plain":
            rows = rows.to(index_dtype(spec.num_keys))
        return Input(x, Routing(selected=rows, weights=weights))
    if isinstance(spec, GroupedExpertsSpec):
        experts = _imposed_experts(spec, case.routing, case.tokens, index, device, generator)
        return Input(x, Routing(selected=experts, weights=weights))
    return Input(x, None)


def _imposed_rows(
    spec: MemorySpec | PeerSpec | RowOperatorSpec,
    routing: RoutingConfig,
    tokens: int,
    index: int,
    device: str,
    generator: torch.Generator,
) -> Tensor | None:
    """(tokens, H, k) rows of a stated routing; None where the layer's own weights decide."""
    if routing.kind == "routed":
        return None
    if routing.kind == "trace":
        return _from_trace(routing, (tokens, spec.heads, spec.top_k), spec.num_keys, index).to(device)
    sizes = (spec.num_keys, spec.heads, spec.top_k, tokens)
    return draw_lookups(routing.kind, *sizes, routing.zipf_exponent, generator, device)


def _imposed_experts(
    spec: MoESpec | GroupedExpertsSpec,
    routing: RoutingConfig,
    tokens: int,
    index: int,
    device: str,
    generator: torch.Generator,
) -> Tensor | None:
    """(tokens, K) experts of a stated routing; None where the layer's own weights decide."""
    if routing.kind == "routed":
        return None
    if routing.kind == "trace":
        return _from_trace(routing, (tokens, spec.top_k), spec.num_experts, index).to(device)
    sizes = (spec.num_experts, spec.top_k, tokens)
    return draw_experts(routing.kind, *sizes, routing.zipf_exponent, generator, device)


def _from_trace(routing: RoutingConfig, shape: tuple[int, ...], limit: int, index: int) -> Tensor:
    """Recorded indices (T, …) for batch number ``index``, repeated when they run out."""
    if routing.trace is None:
        raise ValueError("routing.kind 'trace' needs routing.trace: an .npy file of recorded indices")
    checked(routing.trace, shape[1:], limit)
    return torch.from_numpy(read_rows(routing.trace, range(index * shape[0], (index + 1) * shape[0])))
