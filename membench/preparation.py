"""A case made ready on a built layer: its inputs, the check against the reference, its exact cost. Nothing is timed."""

import torch
from torch import Tensor

from layers.layer import Layer
from layers.optim import LayerOptimizer
from layers.spec import Cost, ExternalSpec, has_backward
from layers.verification import Verification, verify
from membench.case import Case
from membench.check_size import sampled_tokens
from membench.implementations import Call
from membench.inputs import Input, make_inputs, pool_size
from membench.measure.traffic import Traffic, count_traffic


class WrongAnswer(RuntimeError):
    """The layer disagrees with its float64 reference; nothing may be timed."""


class Preparation:
    """Prepares the cases of one built layer; what several modes share is made once."""

    def __init__(self, layer: Layer, device: str, cache_bytes: int) -> None:
        self.layer, self.device, self.cache_bytes = layer, device, cache_bytes
        self._inputs: dict[str, tuple[list[Input], Traffic]] = {}
        self._verified: dict[tuple[str, str, bool], Verification | None] = {}

    def inputs(self, case: Case) -> tuple[list[Input], Traffic]:
        """The case's inputs, past the caches, and what they touch.

        Raises:
            ValueError: the case's routing cannot be imposed on this layer.
        """
        key = _pool_key(case)
        if key not in self._inputs:
            self._inputs.clear()  # one pool at a time: tables leave little room
            with torch.no_grad():
                inputs = make_inputs(self.layer, case, pool_size(case, self.cache_bytes), self.device)
                self._inputs[key] = inputs, count_traffic(self.layer, inputs)
        return self._inputs[key]

    def input_bytes(self) -> int:
        """Device memory of the inputs at hand, but for the one in use."""
        inputs = next(iter(self._inputs.values()))[0]
        return sum(item.x.nbytes for item in inputs[1:])

    def upstream(self, case: Case) -> Tensor:
        """The gradient that is sent back, (b, d)."""
        x = self.inputs(case)[0][0].x
        generator = torch.Generator().manual_seed(case.seed + 2)
        return torch.randn(x.shape, generator=generator).to(x)

    def optimizer(self, case: Case) -> LayerOptimizer | None:
        """The case's optimizer, at a learning rate of 0: what is timed stays the layer that was checked."""
        return LayerOptimizer(self.layer, case.optimizer, learning_rate=0.0) if case.optimizer else None

    def check(self, case: Case, name: str, call: Call) -> Verification | None:
        """The errors against the reference; None for a layer from outside, which has none. Each is found once.

        Args:
            name: the implementation that ``call`` is.

        Raises:
            WrongAnswer: they are too large.
        """
        key = _pool_key(case), name, has_backward(case.mode)
        if key not in self._verified:
            self._verified[key] = self._checked(case, name, call)
        return self._verified[key]

    def _checked(self, case: Case, name: str, call: Call) -> Verification | None:
        if isinstance(case.layer, ExternalSpec):
            return None
        first = self.inputs(case)[0][0]
        found = verify(
            self.layer,
            first.x,
            first.routing,
            gradients=has_backward(case.mode),
            sampled_tokens=sampled_tokens(case.layer),
            seed=case.seed,
            call=call,
        )
        if found.failure:
            raise WrongAnswer(f"wrong answer ({name}): {found.failure}; not timed")
        return found

    def cost(self, case: Case, traffic: Traffic) -> tuple[Cost, str]:
        """The cost of what these inputs really touch, and its source (``exact`` but for layers from outside)."""
        if isinstance(case.layer, ExternalSpec):
            from layers.external import External, counted_cost

            assert isinstance(self.layer, External)
            return counted_cost(self.layer, case.tokens, case.mode, self.device)
        cost = case.layer.cost(
            case.tokens,
            mode=case.mode,
            optimizer=case.optimizer,
            unique_rows=traffic.unique_rows,
            active_experts=traffic.active_experts,
            assignments=traffic.assignments,
            ranks=case.ranks,
            cache_bytes=self.cache_bytes,
        )
        return cost, "exact"


def _pool_key(case: Case) -> str:
    """Cases of equal keys have the same inputs."""
    return case.model_copy(update={"mode": "forward", "optimizer": None}).id
