"""The float64 reference of a built layer on a few of its tokens, with leaves for just what those touch.

Letters: B tokens, T of them sampled, P ranks, E experts, K experts a token, H heads, k rows a head.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.layer import Layer, RemoteAssignments, RemoteLookups, Routing, Selection
from membench.layers.spec import DenseSpec, MemorySpec, MoESpec, PeerSpec, RetrievalSpec
from membench.layers.tables.quantized_table import AnyTable, exact_rows, tables_of

_ZERO = 1e-9  # float64 rounds seven orders below this
_EXPERT_PARAMETERS = ("expert_gate_up", "expert_down")


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


def sampled_reference(
    layer: Layer, x: Tensor, sample: Tensor, selection: Selection | None, routing: Routing | None
) -> "SampledReference":
    """The reference of any layer that has one, on the tokens x[sample].

    Args:
        x: (B, d) all tokens.
        sample: (T,) ascending indices of the compared ones.
        selection: the layer's own choice for x.

    Raises:
        ValueError: this kind of layer has no reference.
    """
    if isinstance(layer.spec, DenseSpec):
        return SampledReference(layer, x, sample)
    assert selection is not None
    if isinstance(layer.spec, MoESpec):
        return _SampledExperts(layer, x, sample, selection, routing or Routing())
    if isinstance(layer.spec, RetrievalSpec):
        return _SampledRows(layer, x, sample, selection, routing or Routing())
    raise ValueError(f"no reference for a layer of kind {type(layer.spec).__name__}")


class SampledReference:
    """Of a dense layer, and what the others share. ``y`` (T, d) is the output; ``x`` and ``w`` are leaves."""

    def __init__(self, layer: Layer, x: Tensor, sample: Tensor) -> None:
        self.layer, self.sample = layer, sample
        self.x = float64_leaf(x[sample])
        self.w = self._leaves()
        self.y = self._output()

    def _leaves(self) -> dict[str, Tensor]:
        """Every parameter of which all is touched."""
        partial = {id(part) for table in tables_of(self.layer).values() for part in table.parameters()}
        named = self.layer.named_parameters()
        return {name: float64_leaf(p) for name, p in named if id(p) not in partial and name not in _EXPERT_PARAMETERS}

    def _output(self) -> Tensor:
        assert isinstance(self.layer.spec, DenseSpec)
        return reference.dense(self.layer.spec, self.w, self.x)

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
        return gradient

    def _strays(self) -> list[str]:
        """Parameters with a gradient where there must be none."""
        return []

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        """How far the worst chosen score lies below the k-th best, over the scores' RMS; inf on a repeat."""
        del x


class _SampledExperts(SampledReference):
    """A mixture: leaves for the experts that compute a sampled token."""

    def __init__(self, layer: Layer, x: Tensor, sample: Tensor, selection: Selection, routing: Routing) -> None:
        assert isinstance(layer.spec, MoESpec)
        self.spec, self.selection, self.routing, self.batch = layer.spec, selection, routing, len(x)
        super().__init__(layer, x, sample)

    def _output(self) -> Tensor:
        if self.spec.choice == "expert":
            chosen = self._sampled_tokens_of_experts()
            weights = self._with_experts([e for e, tokens in enumerate(chosen) if len(tokens)])
            return reference.moe_expert_choice(self.spec, weights, self.x, chosen)
        computed_by = self._computed_by()
        weights = self._with_experts(computed_by.unique().tolist())
        return reference.moe_token_choice(
            self.spec, weights, self.x, self.selection.indices[self.sample].long(), computed_by
        )

    def _sampled_tokens_of_experts(self) -> list[Tensor]:
        """Per expert, the positions within the sample of the sampled tokens that it takes."""
        position = torch.full((self.batch,), -1, device=self.sample.device)
        position[self.sample] = torch.arange(len(self.sample), device=self.sample.device)
        return [row[row >= 0] for row in position[self.selection.indices]]

    def _computed_by(self) -> Tensor:
        """(T, K) the experts, by index on this rank, that compute each sampled token."""
        remote = self.routing.remote
        if isinstance(remote, RemoteAssignments):
            experts = torch.arange(len(remote.counts), device=remote.counts.device)
            expert_of_row = torch.repeat_interleave(experts, remote.counts)
            slots = torch.arange(self.spec.top_k, device=self.sample.device)
            return expert_of_row[self.sample[:, None] + self.batch * slots]
        chosen = self.selection.indices if self.routing.selected is None else self.routing.selected
        return chosen[self.sample].long()

    def _with_experts(self, touched: Collection[int]) -> dict[str, object]:
        """The weights by name; of the experts' a mapping from expert to leaf."""
        self.touched = set(touched)
        parameters = dict(self.layer.named_parameters())
        slices = {name: {e: float64_leaf(parameters[name][e]) for e in self.touched} for name in _EXPERT_PARAMETERS}
        weights: dict[str, object] = {**self.w, **slices}
        self.w |= {f"{name}[{e}]": leaf for name, leaves in slices.items() for e, leaf in leaves.items()}
        return weights

    def _parameter(self, name: str) -> str:
        return name.partition("[")[0]

    def _gradient(self, name: str) -> Tensor:
        parameter, _, expert = name.partition("[")
        whole = super()._gradient(parameter)
        return whole[int(expert.removesuffix("]"))] if expert else whole

    def _strays(self) -> list[str]:
        def stray(name: str) -> bool:
            gradient = super(_SampledExperts, self)._gradient(name)
            return any(bool(gradient[e].count_nonzero()) for e in range(len(gradient)) if e not in self.touched)

        return [name for name in _EXPERT_PARAMETERS if stray(name)]

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        if self.spec.choice == "expert":  # every expert looks at all tokens
            scores, chosen = reference.router_scores(self.spec, self.w, x.double()).T, self.selection.indices.long()
        else:
            scores = reference.router_scores(self.spec, self.w, self.x)
            bias = getattr(self.layer, "expert_bias", None)
            scores = scores if bias is None else scores + bias.double()
            chosen = self.selection.indices[self.sample].long()
        best = scores.topk(chosen.shape[-1], dim=-1).values[..., -1:]
        return shortfall(chosen, scores.gather(-1, chosen), best)


class _SampledRows(SampledReference):
    """Memory and peer: leaves for the table rows that a sampled token's output depends on."""

    def __init__(self, layer: Layer, x: Tensor, sample: Tensor, selection: Selection, routing: Routing) -> None:
        assert isinstance(layer.spec, (MemorySpec, PeerSpec))
        self.spec, self.batch = layer.spec, len(x)
        self.chosen = selection.indices[sample].long()
        self.rows = self.chosen if routing.selected is None else routing.selected[sample].long()
        self.remote = routing.remote if isinstance(routing.remote, RemoteLookups) else None
        super().__init__(layer, x, sample)

    def _output(self) -> Tensor:
        remote = self.remote
        # rank r's columns of token t stand for the lookups of that rank's token t
        places = [self.sample + rank * self.batch for rank in range(self.layer.ranks - 1)]
        groups = [self.rows, *(remote.indices[at].long() for at in places if remote is not None)]
        self.touched = torch.cat([group.flatten() for group in groups]).unique()
        self.tables = tables_of(self.layer)
        self.w |= {name: float64_leaf(exact_rows(table, self.touched)) for name, table in self.tables.items()}
        local, *others = [torch.searchsorted(self.touched, group) for group in groups]
        if isinstance(self.spec, MemorySpec):
            parts = [
                (rows, remote.weights[at].double())
                for rows, at in zip(others, places, strict=True)
                if remote is not None
            ]
            return reference.memory(self.spec, self.w, self.x, self.chosen, local, parts)
        assert isinstance(self.spec, PeerSpec)
        if remote is None:
            return reference.peer(self.spec, self.w, self.x, self.chosen, local)
        assert remote.columns is not None and remote.products is not None
        peers = [
            (rows, remote.weights[at].double(), remote.columns[at].double())
            for rows, at in zip(others, places, strict=True)
        ]
        ranks = range(self.layer.ranks)
        products = [remote.products[self.sample + rank * self.batch].double() for rank in ranks]
        return reference.peer(self.spec, self.w, self.x, self.chosen, local, peers, products)

    def _parameter(self, name: str) -> str:
        return f"{name}.weight" if name in self.tables else name

    def _gradient(self, name: str) -> Tensor:
        if name not in self.tables:
            return super()._gradient(name)
        gradient = self.tables[name].gradient
        assert gradient is not None, f"{name} got no row gradient"
        touched = self.touched.to(gradient.rows)  # of a table in host memory, the gradient is there too
        at = torch.searchsorted(gradient.rows, touched).clamp(max=len(gradient.rows) - 1)
        missing = gradient.rows[at] != touched
        return gradient.values[at].masked_fill(missing[:, None], math.nan).to(self.touched.device)

    def _strays(self) -> list[str]:
        def stray(table: AnyTable) -> bool:
            assert table.gradient is not None
            others = ~torch.isin(table.gradient.rows, self.touched.to(table.gradient.rows))
            return bool(table.gradient.values[others].count_nonzero())

        return [f"{name}.weight" for name, table in self.tables.items() if stray(table)]

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        first, second = reference.half_scores(self.spec, self.w, self.x)
        n = self.spec.sub_keys
        values = first.gather(-1, self.chosen // n) + second.gather(-1, self.chosen % n)
        return shortfall(self.chosen, values, kth_best_sum(first, second, self.spec.top_k))


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
