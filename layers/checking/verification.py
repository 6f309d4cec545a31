"""Is a layer right, at the size at which it will be timed?

The layer runs on the whole batch; the gradient that is sent back is zero but for a few
sampled tokens, so that every gradient depends on those tokens alone and a float64
reference of just them, and just the rows and experts they touch, is exact.

The selection is checked first (each chosen score within rounding of the k-th best), then
values and gradients given that selection, as relative RMS error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from membench.layers.checking.answer import output_faults
from membench.layers.checking.references import reference_of
from membench.layers.checking.sampled_reference import relative_rms
from membench.layers.kernels.paths import untold
from membench.layers.layer import Layer, Routing, Selection, has_gradient
from membench.layers.spec import Spec

# fp32: some hundred roundings of 6e-8. 16-bit dtypes: eight units of their roundoff (eps / 2), a chain of
# about sixteen independent roundings, doubled because a softmax's gradient is a difference.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2.0**-5, "float16": 2.0**-8}
_SELECTION_SLACK = 4  # a score is a longer chain than a value, and the worst one is judged, not their RMS


def tolerance_of(spec: Spec, *, gradients: bool) -> float:
    """The relative RMS error that a layer, or a model of any depth, is allowed.

    In 16 bits it grows as the root of the depth: each of L blocks adds to the residual stream and rounds anew, and
    independent roundings add in quadrature. Measured in bf16 at widths 64 to 768 with 4 to 32 blocks, in units of
    roundoff: the output is off by 0.9 to 1.4 sqrt(L), with a tied embedding, which adds next to nothing to the stream,
    by up to 2.2. A gradient meets the roundings of the blocks before it on its way there and those of the blocks after
    it on its way back: the worst of a model is off by 1.7 to 2.9 sqrt(L), of a router that few tokens train by up to
    4.3. Allowed are 2.8 sqrt(L) and 5.7 sqrt(L), beside a layer's 8 units. In fp32 a layer's tolerance is 168 units,
    of which 32 blocks take at most 131.
    """
    tolerance, of_block = TOLERANCE[spec.dtype], 1 / 2 if gradients else 1 / 8
    return tolerance if spec.dtype == "float32" else tolerance * math.sqrt(1 + of_block * spec.stacked_blocks)


@dataclass(frozen=True, slots=True)
class Verification:
    """Errors against the float64 reference on ``tokens`` sampled tokens.

    ``selection_shortfall`` is the largest amount by which a chosen score lies below the k-th
    best, over the scores' RMS; None where nothing is chosen. ``errors`` are relative RMS:
    ``output``, ``x`` (its gradient) and each parameter's gradient by name. ``fault`` is what
    makes an answer one that nothing can be compared with; None where there is no such thing.
    """

    tokens: int
    errors: dict[str, float]
    selection_shortfall: float | None
    tolerance: float
    fault: str | None = None

    @property
    def worst(self) -> tuple[str, float]:
        """The largest error with its name; a NaN is larger than everything."""
        return max(self.errors.items(), key=lambda item: item[1] if item[1] == item[1] else float("inf"))

    @property
    def failure(self) -> str | None:
        """What is wrong, in a line; None if the layer is right."""
        if self.fault:
            return self.fault
        allowed = _SELECTION_SLACK * self.tolerance
        if self.selection_shortfall is not None and not self.selection_shortfall <= allowed:
            return f"a chosen score is {self.selection_shortfall:.3g} RMS below the k-th best (tolerance {allowed:.3g})"
        name, error = self.worst
        if not error <= self.tolerance:
            return f"{name} is off by {error:.3g} relative RMS (tolerance {self.tolerance:.3g})"
        return None


@untold()
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
    """Compare a layer, or an operator, with its float64 reference on a few tokens of x (B, …).

    ``call`` is another way to run the same layer (compiled, say). Gradients left on the layer
    are dropped before and after. ``paths.taken`` learns nothing of it.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(sampled_tokens, x.shape[0])
    sample = torch.randperm(x.shape[0], generator=generator)[:count].sort().values.to(x.device)
    upstream = layer.output_like(x).zero_()
    upstream[sample] = torch.randn(count, *upstream.shape[1:], generator=generator).to(upstream)

    tolerance = tolerance_of(layer.spec, gradients=gradients)
    layer.zero_gradients()
    inputs, routing = (
        x.detach().clone().requires_grad_(gradients and has_gradient(x)),
        routing and routing.with_leaf_weights(),
    )
    with torch.set_grad_enabled(gradients):  # as the pass below: without a gradient kernels may round otherwise
        selection = layer.select(inputs)
    with torch.set_grad_enabled(gradients), layer.on_path():
        y = (layer if call is None else call)(inputs, routing)
        fault = next(output_faults(y, upstream, inputs, backward=gradients), None)
        if gradients and not fault:
            y.backward(upstream)
            if layer.exchange.together:
                layer.sum_gradients()
    if gradients and not fault and has_gradient(x) and inputs.grad is None:
        fault = "no gradient reaches x"
    if fault:
        layer.zero_gradients()
        return Verification(count, {}, None, tolerance, fault)

    everyone = _of_all_ranks if layer.exchange.together else _Compared
    given = everyone(layer, x, sample, selection, routing)
    of_everyone = layer.exchange.of_everyone
    answer, sent = of_everyone(y[sample]), of_everyone(upstream[sample])
    with torch.set_grad_enabled(gradients):
        expected = reference_of(layer)(*given)
    errors = {"output": relative_rms(answer, expected.y.detach())}
    if gradients:
        errors |= expected.gradient_errors(sent.double())
        if inputs.grad is not None:
            of_all = inputs.grad
            if layer.exchange.together:
                of_all = inputs.grad.new_zeros(len(given.x), *inputs.grad.shape[1:])
                of_all[given.sample] = of_everyone(inputs.grad[sample])
            errors["x"] = expected.input_error(of_all)
        layer.zero_gradients()
    return Verification(count, errors, expected.selection_shortfall(given.x), tolerance)


class _Compared(NamedTuple):
    """What a reference is given: tokens x, those of them that are compared, and how they are routed."""

    layer: Layer
    x: Tensor
    sample: Tensor
    selection: Selection | None
    routing: Routing | None


@torch.no_grad()
def _of_all_ranks(
    layer: Layer, x: Tensor, sample: Tensor, selection: Selection | None, routing: Routing | None
) -> _Compared:
    """The same of the tokens of all ranks, who share the parameters: of the sampled ones, where these are enough.

    Where experts choose, they choose among all.
    """
    everyone, chosen = layer.exchange.of_everyone, selection
    if selection is not None and layer.spec.choice_of_token is None:
        rank = layer.exchange.scores_of_all(x)[1] // max(1, len(x))
        taken = everyone(selection.indices.where(selection.indices < 0, selection.indices + rank * len(x))[None])
        of_ranks = torch.arange(len(taken), device=x.device)[:, None] * len(x)
        places = (of_ranks + sample).flatten()
        return _Compared(layer, everyone(x), places, Selection(taken.amax(0), selection.weights), routing)
    if selection is not None:
        chosen = Selection(everyone(selection.indices[sample]), everyone(selection.weights[sample]))
    if routing is not None:
        imposed = None if routing.selected is None else everyone(routing.selected[sample])
        routing = Routing(imposed)
    tokens = everyone(x[sample])
    return _Compared(layer, tokens, torch.arange(len(tokens), device=x.device), chosen, routing)
