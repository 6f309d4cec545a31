"""The float64 reference of a built layer on a few of its tokens, with leaves for just what those touch.

Letters: B tokens, T of them sampled, H heads, k rows a head, K experts a token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from membench.layers.layer import Layer, Routing, Selection
from membench.layers.parallel.cut_tensors import whole_of
from membench.layers.tables.quantized_table import tables_of

_ZERO = 1e-9  # float64 rounds seven orders below this


def relative_rms(actual: Tensor, expected: Tensor, scale: float = 0.0) -> float:
    """RMS of the difference over RMS of what was expected.

    A gradient that is zero by arithmetic (of a softmax over one score, say) leaves only
    rounding to compare: where the expected RMS is below 1e-9 of ``scale``, the error is relative to
    ``scale``, and absolute where that is zero too.
    """
    return _Difference.of(actual, expected).relative_to(scale)


@dataclass(frozen=True, slots=True)
class _Difference:
    """RMS of a difference and of what was expected."""

    difference_rms: float
    expected_rms: float

    @classmethod
    def of(cls, actual: Tensor, expected: Tensor) -> "_Difference":
        """Compared a part at a time: float64 copies of whole tables would not fit."""
        difference = norm = 0.0
        rows = max(1, 2**22 // max(1, actual[0].numel())) if actual.dim() else 1
        for part, wanted in zip(actual.split(rows), expected.split(rows), strict=True):
            difference += (part.double() - wanted).square().sum().item()
            norm += wanted.double().square().sum().item()
        count = max(1, actual.numel())
        return cls((difference / count) ** 0.5, (norm / count) ** 0.5)

    def relative_to(self, scale: float) -> float:
        base = self.expected_rms if self.expected_rms > _ZERO * scale else scale
        error = self.difference_rms / (base or 1.0)
        return math.inf if math.isnan(error) else error  # a NaN would slip through comparisons


class SampledReference:
    """What the reference of any kind is; a kind says its ``output``, and more where a token touches a part only.

    ``y`` (T, d) is the output; ``x`` (T, d) and ``w``, by name, are leaves. ``IN_PARTS`` names parameters, besides
    tables, of which a token touches a part only.

    Args:
        x: (B, d) all tokens.
        sample: (T,) ascending indices of the compared ones.
        selection: the layer's own choice for x.
        routing: of the compared pass; its weights have the gradient.
        given: (T, d) the sampled tokens in float64, where they are what another part's reference gave.
    """

    IN_PARTS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        layer: Layer,
        x: Tensor,
        sample: Tensor,
        selection: Selection | None,
        routing: Routing | None,
        given: Tensor | None = None,
    ) -> None:
        self.layer, self.sample, self.batch = layer, sample, len(x)
        self.selection, self.routing = selection, routing or Routing()
        self.x = self.input(x) if given is None else given
        self.w = self.leaves()
        self.y = self.output()

    def leaves(self) -> dict[str, Tensor]:
        """Float64 leaves by name: of every parameter of which all is touched."""
        of_tables = {id(part) for table in tables_of(self.layer).values() for part in table.parameters()}
        named = self.layer.named_parameters()
        own = [(name, p) for name, p in named if id(p) not in of_tables and name not in self.IN_PARTS]
        return {name: float64_leaf(whole_of(p)) for name, p in own}

    def input(self, x: Tensor) -> Tensor:
        """The leaf that the sampled tokens are."""
        return float64_leaf(x[self.sample])

    def input_error(self, gradient: Tensor) -> float:
        """The error of the gradient of all tokens (B, d), where sampled ones have one; after ``gradient_errors``.

        Raises:
            ValueError: there is none.
        """
        if self.x.grad is None:
            raise ValueError("the reference does not depend on x in a way that autograd sees")
        return relative_rms(gradient[self.input_tokens()], self.x.grad)

    def input_tokens(self) -> Tensor:
        """The tokens that ``x`` are."""
        return self.sample

    def output(self) -> Tensor:
        """y (T, d), of x and w."""
        raise TypeError(f"{type(self).__name__} must define output()")

    @property
    def chosen(self) -> Tensor:
        """(T, H, k) rows or (T, K) experts: what the layer chose for the compared tokens."""
        assert self.selection is not None
        return self.selection.indices[self.sample].long()

    @property
    def in_force(self) -> Tensor:
        """The same, with what was imposed in place of what was chosen."""
        selected = self.routing.selected
        return self.chosen if selected is None else selected[self.sample].long()

    def gradient_errors(self, upstream: Tensor) -> dict[str, float]:
        """Sends upstream (T, d) back; the relative RMS error of each parameter's gradient, by name.

        A leaf's gradient is compared and dropped as soon as it is there. What must be untouched must be zero.
        """
        found: dict[str, _Difference] = {}

        def compare(name: str, leaf: Tensor) -> None:
            assert leaf.grad is not None
            found[name] = _Difference.of(self._gradient(name), leaf.grad)
            leaf.grad = None

        for name, leaf in self.w.items():
            leaf.register_post_accumulate_grad_hook(partial(compare, name))
        self.y.backward(upstream)
        scale = max((each.expected_rms for each in found.values()), default=0.0)
        errors: dict[str, float] = dict.fromkeys(self._strays(), math.inf)
        for name, difference in found.items():
            parameter = self._parameter(name)
            errors[parameter] = max(errors.get(parameter, 0.0), difference.relative_to(scale))
        return errors

    def _parameter(self, name: str) -> str:
        """The parameter that a leaf is of, or is a part of."""
        return name

    def _gradient(self, name: str) -> Tensor:
        """The layer's gradient of what a leaf stands for."""
        gradient = self.layer.get_parameter(name).grad
        assert gradient is not None, f"{name} got no gradient"
        return whole_of(gradient)

    def _strays(self) -> list[str]:
        """Parameters with a gradient where there must be none."""
        return []

    def whole_rows(self, values: Callable[[Tensor], Tensor], rows: Tensor, num_rows: int) -> Tensor:
        """(U, D) float64 of a table's rows (U,), whoever holds them; ``values`` gives this rank's, by index here."""
        first, past = self.layer.exchange.rows_held(num_rows)
        held = rows[(rows >= first) & (rows < past)] - first
        return self.layer.exchange.whole_rows(values(held).double(), rows, num_rows)

    def whole_expert(self, parts: Tensor, expert: int) -> Tensor:
        """Of one expert of all, whoever holds it; ``parts`` (experts, …) are those of this rank's."""
        exchange, num_experts = self.layer.exchange, self.layer.spec.model_dump()["num_experts"]
        first, past = exchange.experts_held(num_experts)
        if not exchange.together:
            return parts[expert]
        own = parts[expert - first].double() if first <= expert < past else parts.new_zeros(parts.shape[1:]).double()
        return exchange.total(own)

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        """How far the worst chosen score lies below the k-th best, over the scores' RMS; inf on a repeat."""
        del x


def kth_best_sum(first: Tensor, second: Tensor, top_k: int) -> Tensor:
    """(…, 1) of both halves' scores (…, n): the best k sums lie in the k x k grid of both halves' best k."""
    grid = first.topk(top_k).values[..., :, None] + second.topk(top_k).values[..., None, :]
    return grid.flatten(-2).topk(top_k).values[..., -1:]


def shortfall(chosen: Tensor, values: Tensor, best: Tensor) -> float:
    """How far the worst of the scores (…, k) of the chosen lies below the k-th best (…, 1); inf on a repeat."""
    ordered = chosen.sort(dim=-1).values
    if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        return float("inf")
    scale = values.square().mean().sqrt().item() or 1.0
    return (best - values).clamp(min=0).max().item() / scale


def float64_leaf(tensor: Tensor) -> Tensor:
    """A copy whose gradient can be asked for."""
    return tensor.detach().double().requires_grad_(True)
