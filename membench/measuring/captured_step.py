"""A step with a backward pass, and the optimizer's update where there is one, as one CUDA graph.

Letters: B tokens, d model dim.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.layer import Layer, Routing
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Mode
from membench.measuring.captured import Places, capture
from membench.measuring.inputs import Input
from membench.measuring.step import make_step


class CapturedStep:
    """One step of a mode, captured on an input whose shapes all others must have.

    ``run`` makes the step: gradients, rows' gradients and the auxiliary loss are then the layer's, in memory that the
    next one writes over. Called as a layer is, it gives a y whose backward pass makes the step with the gradient that
    is sent back; so what is checked is what is timed.

    Args:
        first: what it is captured on.
        upstream: the gradient that ``run`` sends back, of y's shape.
        optimizer: of mode ``train_step``.

    Raises:
        ValueError: the host waits in this step, or the optimizer has to be asked in each.
    """

    def __init__(
        self, mode: Mode, layer: Layer, first: Input, upstream: Tensor, optimizer: LayerOptimizer | None
    ) -> None:
        self._layer, self._optimizer = layer, optimizer
        self._places, self._sent = Places(first.x, first.routing), upstream
        self._upstream = upstream.clone()
        self._of_loss: Tensor | None = None
        self._given: tuple[Tensor, Routing | None] | None = None
        self._y: Tensor | None = None
        self._anchor = torch.empty(0, requires_grad=True)  # of a y whose x has no gradient
        inputs = [Input(self._places.x, self._places.routing)]
        step = make_step(mode, self._noted, layer, inputs, self._upstream, optimizer, of_loss=self._of_loss_here)
        if optimizer is not None:
            optimizer.count_on_device()
        with nullcontext() if optimizer is None else optimizer.captured():
            self._replay = capture(lambda: step(0))
        leaf, routing, y = self._captured()
        weights = None if routing is None else routing.weights
        self._of_x, self._of_weights = leaf.grad, None if weights is None else weights.grad
        self._answer = y.detach()
        self._loss = None if layer.auxiliary_loss is None else layer.auxiliary_loss.detach()
        self._gradients = [(p, p.grad) for p in layer.parameters() if p.grad is not None]
        self._of_rows = [(table, table.held_gradient) for table in layer.tables()]
        self._leave()

    def run(self, x: Tensor, routing: Routing | None) -> None:
        """The step on an input x (B, d) or an operator's own.

        Raises:
            ValueError: it has other shapes than the first one.
        """
        self._places.take(x, routing)
        if self._optimizer is not None:
            self._optimizer.keep_clocks()
        self._replay()
        self._leave()

    def __call__(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y of x (B, d), with a graph where gradients are asked for. Its backward pass leaves what ``run`` does."""
        weights = None if routing is None else routing.weights
        y, loss = _Replayed.apply(self, x, routing, weights, self._anchor)
        self._layer.auxiliary_loss = None if self._loss is None else loss
        return y

    def answer(self) -> tuple[Tensor, Tensor]:
        """Copies of what the last step gave: y, and the auxiliary loss or nothing."""
        return self._answer.clone(), self._answer.new_empty(0) if self._loss is None else self._loss.clone()

    def send_back(self, x: Tensor, routing: Routing | None, of_y: Tensor, of_loss: Tensor) -> list[Tensor | None]:
        """The step with these gradients of y and of the loss; copies of those of x and of the routing's weights."""
        self._upstream.copy_(of_y)
        if self._of_loss is not None:
            self._of_loss.copy_(of_loss)
        self.run(x, routing)
        self._upstream.copy_(self._sent)
        if self._of_loss is not None:
            self._of_loss.fill_(1)
        return [None if each is None else each.clone() for each in (self._of_x, self._of_weights)]

    def _noted(self, x: Tensor, routing: Routing | None) -> Tensor:
        # the graph of the call before goes first: nodes of parameters would be used again, and remember its stream
        self._given = self._y = None
        y = self._layer(x, routing)
        self._given, self._y = (x, routing), y
        return y

    def _captured(self) -> tuple[Tensor, Routing | None, Tensor]:
        """What the layer was given last and what it gave, with the graph of that, which is not kept."""
        assert self._given is not None and self._y is not None
        (x, routing), y = self._given, self._y
        self._given = self._y = None
        return x, routing, y

    def _of_loss_here(self, loss: Tensor) -> Tensor:
        """What is sent back to an auxiliary loss, in memory that other numbers can be written to."""
        if self._of_loss is None:
            self._of_loss = torch.ones_like(loss)
        return self._of_loss

    def _leave(self) -> None:
        """What a step leaves on the layer, which others may have dropped since the last one."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for table, gradient in self._of_rows:
            table.held_gradient = gradient
        self._layer.auxiliary_loss = self._loss


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: CapturedStep, x: Tensor, routing: Routing | None, weights: Tensor | None, anchor: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.step, ctx.routing = step, routing
        ctx.save_for_backward(x)
        step.run(x, routing)
        return step.answer()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        of_x, of_weights = ctx.step.send_back(x, ctx.routing, *upstream)
        return None, of_x if ctx.needs_input_grad[1] else None, None, of_weights, None
