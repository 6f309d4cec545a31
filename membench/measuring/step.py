"""What is called and timed: one step of a mode."""

from collections.abc import Callable

import torch
from torch import Tensor

from membench.layers.layer import Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Mode, has_backward
from membench.measuring.implementations import Call
from membench.measuring.inputs import Input
from membench.measuring.time import StepCall


def make_step(
    mode: Mode,
    call: Call,
    layer: Layer,
    inputs: list[Input],
    upstream: Tensor,
    optimizer: LayerOptimizer | None,
    *,
    of_loss: Callable[[Tensor], Tensor] = torch.ones_like,
) -> StepCall:
    """One call of a mode on input number i.

    forward, prefill, decode: y, without autograd. forward_backward: y and every gradient,
    of x, the parameters (materialized anew) and the touched rows, a router's auxiliary loss
    included; where ranks share the layer, summed over them. train_step: the same and the optimizer's update, of table
    rows in the backward pass itself. ``of_loss`` gives the gradient that is sent back to an auxiliary loss.
    """
    together = layer.exchange.together

    def forward(i: int) -> Tensor:
        item = inputs[i % len(inputs)]
        with torch.no_grad():
            return call(item.x, item.routing)

    def passes(i: int) -> None:
        item = inputs[i % len(inputs)]
        layer.zero_gradients()
        y = call(*item.leaves())
        loss = layer.auxiliary_loss
        if loss is None:
            y.backward(upstream)
        else:
            torch.autograd.backward([y, loss], [upstream, of_loss(loss)])

    def forward_backward(i: int) -> None:
        passes(i)
        if together:
            layer.sum_gradients()

    def train_step(i: int) -> None:
        assert optimizer is not None
        with optimizer.fused():
            passes(i)
        if together:
            layer.sum_gradients()
        optimizer.step()

    step = train_step if mode == "train_step" else forward_backward if has_backward(mode) else forward

    def on_path(i: int) -> object:
        with layer.on_path():
            return step(i)

    return on_path
