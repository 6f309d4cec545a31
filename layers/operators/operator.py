"""What the operators have in common: a path, inputs of their own, an imposed choice.

Letters: B tokens, H heads, k rows a head reads, K experts a token uses.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from membench.layers.kernels.paths import forced, path_of
from membench.layers.layer import Layer, Routing
from membench.layers.routing import StatedRouting, stated_choice
from membench.layers.spec import OperatorSpec


class Operator(Layer):
    """One operator; ``forward(x, routing)`` maps its own x to its own y, both with B first.

    What a layer would have chosen is ``routing.selected`` with ``routing.weights``. Subclasses say what
    they compute, once as this project's operator (``operate``) and once by torch's own calls (``plain``).
    A path holds for the backward pass too, so all of a step belongs inside ``on_path``.
    """

    spec: OperatorSpec

    def __init__(self, spec: OperatorSpec, ranks: int, device: torch.device | str) -> None:
        super().__init__(spec, ranks)
        self.device = torch.device(device)

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        compute = self.plain if self.spec.path == "plain" else self.operate
        return compute(x, routing)

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        """This project's operator."""
        raise TypeError(f"{type(self).__name__} must define operate()")

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        """What a user would write first."""
        raise TypeError(f"{type(self).__name__} must define plain()")

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """A random x for so many tokens, and the weights of what is imposed beside it, if any is."""
        raise TypeError(f"{type(self).__name__} must define draw()")

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        """Its own x, and what a layer would have chosen: rows as retrieval gives them, experts as a router does."""
        x, weights = self.draw(tokens, generator)
        if (choice := self.spec.choice_of_token) is None:
            return x, None
        return x, Routing(selected=stated_choice(choice, tokens, stated, generator), weights=weights)

    def on_path(self) -> AbstractContextManager[None]:
        if self.spec.path in ("auto", "plain"):
            return nullcontext()
        return forced(self.spec.path)

    @property
    def path(self) -> str | None:
        if self.spec.path == "plain" or not self.spec.PATHS:
            return "plain" if self.spec.path == "plain" else None
        with self.on_path():
            return path_of(torch.empty(0, device=self.device))

    @property
    def unavailable(self) -> str | None:
        if self.spec.path == "native" and self.device.type != "cpu":
            return f"path native computes on a CPU, not on {self.device.type}"
        if self.spec.path == "triton" and self.device.type != "cuda":
            return f"path triton needs a GPU, this is {self.device.type}"
        try:
            with self.on_path():
                return None
        except ValueError as error:
            return str(error)


def imposed(routing: Routing | None) -> tuple[Tensor, Tensor]:
    """Rows (B, H, k) or experts (B, K), and their weights of the same shape.

    Raises:
        ValueError: the routing lacks either.
    """
    if routing is None or routing.selected is None or routing.weights is None:
        raise ValueError("an operator chooses nothing itself: routing needs selected and weights")
    return routing.selected, routing.weights
