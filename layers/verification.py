"""Is a layer right, at the size at which it will be timed?

The layer runs on the whole batch; the gradient that is sent back is zero but for a few
sampled tokens, so that every gradient depends on those tokens alone and a float64
reference of just them, and just the rows and experts they touch, is exact.

The selection is checked first (each chosen score within rounding of the k-th best), then
values and gradients given that selection, as relative RMS error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layers import reference
from layers.layer import Layer, RemoteAssignments, RemoteLookups, Routing, Selection
from layers.spec import DenseSpec, MemorySpec, MoESpec, PeerSpec

# fp32: some hundred roundings of 6e-8. 16-bit dtypes: eight units of their roundoff (eps / 2), a chain of
# about sixteen independent roundings, doubled because a softmax's gradient is a difference.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2.0**-5, "float16": 2.0**-8}
_ZERO = 1e-9  # float64 rounds seven orders below this
_SELECTION_SLACK = 4  # a score is a longer chain than a value, and the worst one is judged, not their RMS


@dataclass(frozen=True, slots=True)
class Verification:
    """Errors against the float64 reference on ``tokens`` sampled tokens.

    ``selection_shortfall`` is the largest amount by which a chosen score lies below the k-th
    best, over the scores' RMS; None where nothing is chosen. ``errors`` are relative RMS:
    ``output``, ``x`` (its gradient) and each parameter's gradient by name.
    """

    tokens: int
    errors: dict[str, float]
    selection_shortfall: float | None
    tolerance: float

    @property
    def worst(self) -> tuple[str, float]:
        """The largest error with its name; a NaN is larger than everything."""
        return max(self.errors.items(), key=lambda item: item[1] if item[1] == item[1] else float("inf"))

    @property
    def failure(self) -> str | None:
        """What is wrong, in a line; None if the layer is right."""
        allowed = _SELECTION_SLACK * self.tolerance
        if self.selection_shortfall is not None and not self.selection_shortfall <= allowed:
            return f"a chosen score is {self.selection_shortfall:.3g} RMS below the k-th best (tolerance {allowed:.3g})"
        name, error = self.worst
        if not error <= self.tolerance:
            return f"{name} is off by {error:.3g} relative RMS (tolerance {self.tolerance:.3g})"
        return None


def verify(
    layer: Layer,
    x: Tensor,
    routing: Routing | None = None,
    *,
    gradients: bool = True,
    sampled_tokens: int = 4,
    seed: int = 0,
    call: Callable[[Tensor, Routing | None], Tensor] | None = None,
) -> Verification:
    """Compare a layer with its float64 reference on a few tokens of x (B, d).

    ``call`` is another way to run the same layer (compiled, say). Gradients left on the layer
    are dropped before and after.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(sampled_tokens, x.shape[0])
    sample = torch.randperm(x.shape[0], generator=generator)[:count].sort().values.to(x.device)
    upstream = torch.zeros_like(x)
    upstream[sample] = torch.randn(count, x.shape[1], generator=generator).to(x.device, x.dtype)

    layer.zero_gradients()
    inputs = x.detach().clone().requires_grad_(gradients)
    with torch.no_grad():
        selection = layer.select(inputs)
    with torch.set_grad_enabled(gradients):
        y = (call or layer)(inputs, routing)
        if gradients:
            y.backward(upstream)

    expected = _Reference(layer, x, sample, selection, routing)
    errors = {"output": relative_rms(y.detach()[sample], expected.y.detach())}
    if gradients:
        expected.y.backward(upstream[sample].double())
        assert inputs.grad is not None
        errors["x"] = relative_rms(inputs.grad[sample], expected.x.grad)
        errors |= expected.gradient_errors(layer)
        layer.zero_gradients()
    shortfall = None if selection is None else expected.selection_shortfall(layer, x, selection)
    return Verification(count, errors, shortfall, TOLERANCE[layer.spec.dtype])


def relative_rms(actual: Tensor, expected: Tensor | None, scale: float = 0.0) -> float:
    """RMS of the difference over RMS of what was expected (None: zeros).

    A gradient that is zero by arithmetic (of a softmax over one score, say) leaves only
    rounding to compare: where the expected RMS is below 1e-9 of ``scale``, the error is relative to
    ``scale``, and absolute where that is zero too.
    """
    if expected is None:
        expected = torch.zeros((), dtype=torch.float64, device=actual.device).expand(actual.shape)
    difference = norm = 0.0
    rows = max(1, 2**22 // max(1, actual[0].numel())) if actual.dim() else 1
    for part, wanted in zip(actual.split(rows), expected.split(rows), strict=True):
        difference += (part.double() - wanted).square().sum().item()
        norm += wanted.double().square().sum().item()
    count = max(1, actual.numel())
    wanted_rms = (norm / count) ** 0.5
    return (difference / count) ** 0.5 / ((wanted_rms if wanted_rms > _ZERO * scale else scale) or 1.0)


def _rms(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.square().mean().sqrt().item()


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(True)


class _Reference:
    """The float64 layer on the sampled tokens, with leaves for just what they touch."""

    def __init__(
        self, layer: Layer, x: Tensor, sample: Tensor, selection: Selection | None, routing: Routing | None
    ) -> None:
        self.sample = sample
        self.x = _leaf(x[sample])
        self.partial: dict[str, Tensor] = {}  # parameter -> the rows or experts of it that were touched
        routing = routing or Routing()
        match layer.spec:
            case DenseSpec():
                self.w = self._leaves(layer)
                self.y = reference.dense(layer.spec, self.w, self.x)
            case MoESpec():
                assert selection is not None
                self.y = self._moe(layer, layer.spec, selection, routing)
            case MemorySpec() | PeerSpec():
                assert selection is not None
                self.y = self._retrieval(layer, layer.spec, selection, routing)
            case _:
                raise ValueError(f"no reference for a layer of kind {type(layer.spec).__name__}")

    def _leaves(self, layer: Layer, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
        tables = {id(table.weight) for table in layer.tables()}
        return {
            name: _leaf(parameter)
            for name, parameter in layer.named_parameters()
            if name not in without and id(parameter) not in tables
        }

    def _moe(self, layer: Layer, spec: MoESpec, selection: Selection, routing: Routing) -> Tensor:
        experts = ("expert_gate_up", "expert_down")
        self.w = self._leaves(layer, without=experts)
        chosen: Tensor | list[Tensor]
        if spec.choice == "expert":
            position = torch.full((int(selection.indices.max()) + 1,), -1, device=self.sample.device)
            inside = self.sample[self.sample < len(position)]
            position[inside] = torch.arange(len(inside), device=self.sample.device)
            picked = position[selection.indices]
            chosen = [row[row >= 0] for row in picked]
            touched = torch.tensor([e for e, row in enumerate(chosen) if len(row)], dtype=torch.long)
        else:
            chosen = selection.indices[self.sample].long()
            computed_by = self._computed_by(spec, routing, chosen, len(selection.indices))
            touched = computed_by.unique().cpu()
        parameters = dict(layer.named_parameters())
        weights: dict[str, object] = dict(self.w)
        for name in experts:
            slices = {e: _leaf(parameters[name][e]) for e in touched.tolist()}
            weights[name] = slices
            self.w |= {f"{name}[{e}]": leaf for e, leaf in slices.items()}
            self.partial[name] = touched
        if spec.choice == "expert":
            return reference.moe_expert_choice(spec, weights, self.x, chosen)
        assert isinstance(chosen, Tensor)
        return reference.moe_token_choice(spec, weights, self.x, chosen, computed_by)

    def _computed_by(self, spec: MoESpec, routing: Routing, chosen: Tensor, batch: int) -> Tensor:
        if isinstance(routing.remote, RemoteAssignments):
            counts = routing.remote.counts
            expert_of_row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
            rows = self.sample[:, None] + batch * torch.arange(spec.top_k, device=self.sample.device)
            return expert_of_row[rows]
        return chosen if routing.selected is None else routing.selected[self.sample].long()

    def _retrieval(self, layer: Layer, spec: MemorySpec | PeerSpec, selection: Selection, routing: Routing) -> Tensor:
        self.w = self._leaves(layer)
        tokens = layer.spec and routing.remote
        chosen = selection.indices[self.sample].long()
        rows = chosen if routing.selected is None else routing.selected[self.sample].long()
        groups = [rows]
        remote = tokens if isinstance(tokens, RemoteLookups) else None
        offsets: list[Tensor] = []
        if remote is not None:
            batch = len(remote.indices) // (layer.ranks - 1)
            offsets = [self.sample + rank * batch for rank in range(layer.ranks - 1)]
            groups += [remote.indices[at].long() for at in offsets]
        touched = torch.cat([group.flatten() for group in groups]).unique()
        names = {id(table.weight): name for name, table in layer.named_modules() if hasattr(table, "weight")}
        for table in layer.tables():
            name = names[id(table.weight)]
            self.w[name] = _leaf(table.weight[touched])
            self.partial[name] = touched
        local, *others = [torch.searchsorted(touched, group) for group in groups]
        if isinstance(spec, MemorySpec):
            parts = (
                []
                if remote is None
                else [(rows, remote.weights[at].double()) for rows, at in zip(others, offsets, strict=True)]
            )
            return reference.memory(spec, self.w, self.x, chosen, local, parts)
        if remote is None:
            return reference.peer(spec, self.w, self.x, chosen, local)
        assert remote.columns is not None and remote.products is not None
        batch = len(remote.indices) // (layer.ranks - 1)
        peer_parts = [
            (rows, remote.weights[at].double(), remote.columns[at].double())
            for rows, at in zip(others, offsets, strict=True)
        ]
        products = [remote.products[self.sample + rank * batch].double() for rank in range(layer.ranks)]
        return reference.peer(spec, self.w, self.x, chosen, local, peer_parts, products)

    def gradient_errors(self, layer: Layer) -> dict[str, float]:
        """Relative RMS error of every parameter's gradient; what was not touched must be exactly zero."""
        tables = {id(table.weight): table for table in layer.tables()}
        self.scale = max(_rms(leaf.grad) for leaf in self.w.values())
        errors = {}
        for name, parameter in layer.named_parameters():
            if id(parameter) in tables:
                errors[name] = self._table_error(tables[id(parameter)], name.removesuffix(".weight"))
            elif name in self.partial:
                errors[name] = self._expert_error(parameter, name)
            else:
                assert parameter.grad is not None, f"{name} got no gradient"
                errors[name] = relative_rms(parameter.grad, self.w[name].grad, self.scale)
        return errors

    def _expert_error(self, parameter: Tensor, name: str) -> float:
        assert parameter.grad is not None, f"{name} got no gradient"
        touched = set(self.partial[name].tolist())
        if any(bool(parameter.grad[e].count_nonzero()) for e in range(len(parameter)) if e not in touched):
            return float("inf")
        return max(relative_rms(parameter.grad[e], self.w[f"{name}[{e}]"].grad, self.scale) for e in touched)

    def _table_error(self, table, name: str) -> float:  # noqa: ANN001 - ValueTable, typed in layer.py
        gradient, touched = table.gradient, self.partial[name]
        assert gradient is not None, f"{name} got no row gradient"
        at = torch.searchsorted(gradient.rows, touched)
        if bool((gradient.rows[at.clamp(max=len(gradient.rows) - 1)] != touched).any()):
            return float("inf")
        others = torch.ones(len(gradient.rows), dtype=torch.bool, device=at.device)
        others[at] = False
        if bool(gradient.values[others].count_nonzero()):
            return float("inf")
        return relative_rms(gradient.values[at], self.w[name].grad, self.scale)

    @torch.no_grad()
    def selection_shortfall(self, layer: Layer, x: Tensor, selection: Selection) -> float:
        """How far the worst chosen score lies below the k-th best, over the scores' RMS; inf on a repeat."""
        spec = layer.spec
        if isinstance(spec, MoESpec):
            scores, chosen = self._router_choice(layer, spec, x, selection)
            best = scores.topk(chosen.shape[-1], dim=-1).values[..., -1:]
        else:
            assert isinstance(spec, (MemorySpec, PeerSpec))
            chosen = selection.indices[self.sample].long()
            first, second = reference.half_scores(spec, self.w, self.x)
            # the k best sums lie in the k x k grid of both halves' best k
            k = spec.top_k
            grid = first.topk(k).values[..., :, None] + second.topk(k).values[..., None, :]
            best = grid.flatten(-2).topk(k).values[..., -1:]
            scores = None
            values = first.gather(-1, chosen // spec.sub_keys) + second.gather(-1, chosen % spec.sub_keys)
        if scores is not None:
            values = scores.gather(-1, chosen)
        ordered = chosen.sort(dim=-1).values
        if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
            return float("inf")
        scale = values.square().mean().sqrt().item() or 1.0
        return (best - values).clamp(min=0).max().item() / scale

    def _router_choice(self, layer: Layer, spec: MoESpec, x: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
        if spec.choice == "expert":  # every expert looks at all tokens
            return reference.router_scores(spec, self.w, x.double()).T, selection.indices.long()
        scores = reference.router_scores(spec, self.w, self.x)
        bias = getattr(layer, "expert_bias", None)
        return scores if bias is None else scores + bias.double(), selection.indices[self.sample].long()
