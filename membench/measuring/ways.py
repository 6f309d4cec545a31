"""How a case is run by an implementation: what is checked, and what is timed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from membench.layers.layer import Layer, Routing
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Mode, has_backward
from membench.measuring.captured_step import CapturedStep
from membench.measuring.implementations import Call, check_capturable, implementation
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.measuring.time import StepCall


@dataclass(frozen=True, slots=True)
class Way:
    """``call`` is checked, ``step`` is timed; ``whole``: the step can only be made as a whole, its update too."""

    call: Call
    step: StepCall
    whole: bool = False


def way_of(
    name: str, mode: Mode, layer: Layer, inputs: Sequence[Input], upstream: Tensor, optimizer: LayerOptimizer | None
) -> Way:
    """The way of implementation ``name`` in a mode.

    Raises:
        ValueError: it cannot run this layer in this mode (the message says why).
    """
    first = inputs[0]
    if name == "cuda_graph" and has_backward(mode):
        check_capturable(layer, first.x, backward=True)
        return _captured(mode, layer, inputs, upstream, optimizer)
    call = implementation(name, layer, first.x, first.routing)
    return Way(call, make_step(mode, call, layer, list(inputs), upstream, optimizer))


def _captured(
    mode: Mode, layer: Layer, inputs: Sequence[Input], upstream: Tensor, optimizer: LayerOptimizer | None
) -> Way:
    with layer.on_path():
        captured = CapturedStep(mode, layer, inputs[0], upstream, optimizer)

    def step(i: int) -> None:
        item = inputs[i % len(inputs)]
        captured.run(item.x, item.routing)

    def passes_alone(x: Tensor, routing: Routing | None = None) -> Tensor:
        """An update in a backward pass leaves no gradient of rows to check: captured without it, and not kept."""
        return CapturedStep("forward_backward", layer, Input(x.detach(), routing), upstream, None)(x, routing)

    if optimizer is None:
        return Way(captured, step)
    return Way(passes_alone, step, whole=True)
