"""Routings drawn from a stated distribution, for sparse layers whose own weights are not trained.

Letters: B tokens, H heads, k rows a head reads, N rows, E experts, K experts a token uses, P ranks.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from membench.layers.spec import Choice, RoutingKind
from membench.layers.spec.expectation import rank_bounds

DrawnRouting = Literal["uniform", "zipf"]

_EXACT_RANKS = 1024  # popularity ranks with their own probability; the tail by the integral of its density
_REDRAWS = 16


@dataclass(frozen=True, slots=True)
class StatedRouting:
    """Where the choices of one input are to come from.

    ``recorded`` are those of a trace, (P·B, …) int64: of all ranks' tokens, this rank's first.
    """

    kind: RoutingKind = "routed"
    zipf_exponent: float = 1.0
    recorded: Tensor | None = None


def stated_choice(choice: Choice, tokens: int, stated: StatedRouting, generator: torch.Generator) -> Tensor | None:
    """(B, H, k) rows or (B, K) experts of a stated routing; None where the layer's own weights decide.

    Raises:
        ValueError: a trace is stated and not given, or holds another shape.
    """
    if stated.kind == "routed":
        return None
    if stated.kind == "trace":
        shape = (tokens, *choice.shape)
        if stated.recorded is None or stated.recorded.shape != shape:
            found = None if stated.recorded is None else tuple(stated.recorded.shape)
            raise ValueError(f"routing of kind trace wants recorded indices {shape}, not {found}")
        return stated.recorded.to(generator.device)
    exponent, device = stated.zipf_exponent, generator.device
    if choice.of == "rows":
        heads, top_k = choice.shape
        return draw_lookups(stated.kind, choice.count, heads, top_k, tokens, exponent, generator, device)
    (top_k,) = choice.shape
    return draw_experts(stated.kind, choice.count, top_k, tokens, exponent, generator, device)


def draw_lookups(
    kind: DrawnRouting,
    num_rows: int,
    heads: int,
    top_k: int,
    tokens: int,
    exponent: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(B, H, k) int64 rows, the k of a head distinct.

    ``zipf``: the i-th most popular row is read in proportion to i^-exponent; popular rows lie
    scattered over the table, as learned ones do.

    Raises:
        ValueError: ``top_k`` exceeds ``num_rows``.
    """
    if top_k > num_rows:
        raise ValueError(f"{top_k} distinct rows cannot be drawn from {num_rows}")

    def draw(count: int) -> Tensor:
        if kind == "uniform":
            return torch.randint(num_rows, (count,), generator=generator, device=device)
        uniform = torch.rand(count, dtype=torch.float64, generator=generator, device=device)
        return _zipf_quantile(uniform, num_rows, exponent)

    ranks = _distinct(draw(tokens * heads * top_k).view(-1, top_k), num_rows, draw)
    rows = ranks if kind == "uniform" else _scatter(ranks, num_rows)
    return rows.view(tokens, heads, top_k)


def _zipf_quantile(uniform: Tensor, count: int, exponent: float) -> Tensor:
    """The popularity rank, from 0, at which the cumulative Zipf distribution reaches each of ``uniform``.

    The first ranks have their exact probabilities; the tail is inverted as the continuous
    density x^-a, each rank i standing for [i - 1/2, i + 1/2].
    """
    head = min(count, _EXACT_RANKS)
    ranks = torch.arange(1, head + 1, dtype=torch.float64, device=uniform.device)
    head_mass = ranks.pow(-exponent).cumsum(0)
    low, high = head + 0.5, count + 0.5

    def integral(x: float) -> float:
        return math.log(x) if exponent == 1 else x ** (1 - exponent) / (1 - exponent)

    mass = uniform * (head_mass[-1].item() + integral(high) - integral(low))
    in_head = torch.searchsorted(head_mass, mass, right=True).clamp(max=head - 1)
    beyond = (mass - head_mass[-1]).clamp(min=0) + integral(low)
    x = beyond.exp() if exponent == 1 else (beyond * (1 - exponent)).pow(1 / (1 - exponent))
    in_tail = (x.round().long() - 1).clamp(min=0, max=count - 1)
    return torch.where(mass < head_mass[-1], in_head, in_tail)


def _distinct(ranks: Tensor, count: int, draw: Callable[[int], Tensor]) -> Tensor:
    """Ranks (R, k) with each list's repeats drawn again, which is drawing without replacement.

    Under a steep distribution that could go on for long: repeats still left are moved to the
    next free rank.
    """
    unsettled = torch.arange(len(ranks), device=ranks.device)
    for _ in range(_REDRAWS):
        ascending, order = ranks[unsettled].sort(dim=-1)
        repeated = torch.zeros_like(ascending, dtype=torch.bool)
        repeated.scatter_(1, order[:, 1:], ascending[:, 1:] == ascending[:, :-1])
        unsettled = unsettled[repeated.any(dim=-1)]
        if not len(unsettled):
            return ranks
        again = ranks[unsettled]
        repeated = repeated[repeated.any(dim=-1)]
        again[repeated] = draw(int(repeated.sum()))
        ranks[unsettled] = again
    ascending, order = ranks[unsettled].sort(dim=-1)
    place = torch.arange(ranks.shape[1], device=ranks.device)
    strict = torch.minimum((ascending - place).cummax(dim=-1).values, torch.tensor(count - ranks.shape[1])) + place
    ranks[unsettled] = torch.empty_like(ascending).scatter_(1, order, strict)
    return ranks


def _scatter(ranks: Tensor, count: int) -> Tensor:
    """A fixed bijection of popularity ranks to rows: multiplication by a number coprime to N, modulo N."""
    factor = max(1, min(int(count * 0.618), 2**62 // count))  # the product must fit 63 bits
    while math.gcd(factor, count) != 1:
        factor += 1
    return (ranks * factor + count // 3) % count


def draw_experts(
    kind: DrawnRouting,
    num_experts: int,
    top_k: int,
    tokens: int,
    exponent: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(B, K) int64 distinct experts a token, drawn without replacement (Gumbel top-k, arXiv 1903.06059).

    ``zipf``: chances in proportion to popularity^-exponent, with the fixed random placement
    of popular experts that ``layers.spec.expectation.expected_rank_share`` assumes.
    """
    # Of exponential variables with rates p the smallest K are such a draw.
    fp32: dict[str, Any] = {"dtype": torch.float32, "device": device}  # of fewer bits many would be alike
    waits = torch.empty(tokens, num_experts, **fp32).exponential_(generator=generator)
    if kind == "zipf":
        popularity = [float(i) for i in range(1, num_experts + 1)]
        random.Random(num_experts).shuffle(popularity)
        waits *= torch.tensor(popularity, **fp32).pow(exponent)
    return waits.topk(top_k, dim=-1, largest=False).indices


def busiest_rank(experts: Tensor, num_experts: int, ranks: int) -> Tensor:
    """(ceil(E/P),) int64: how many tokens each expert of the most loaded rank gets; experts (P·B, K).

    A rank holds floor(E/P) or ceil(E/P) neighbouring experts; one that holds fewer is padded with 0.
    """
    bounds = rank_bounds(num_experts, ranks)
    counts = torch.bincount(experts.flatten(), minlength=num_experts).split(torch.tensor(bounds).diff().tolist())
    busiest = max(counts, key=lambda of_rank: int(of_rank.sum()))
    return torch.nn.functional.pad(busiest, (0, -(-num_experts // ranks) - len(busiest)))
