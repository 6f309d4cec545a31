"""A case made ready on a built layer: its inputs, the check against the reference, its exact cost. Nothing is timed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from membench.case import Case
from membench.layers.checking.answer import find_fault, parameter_faults
from membench.layers.checking.update_verification import update_errors
from membench.layers.checking.verification import Verification, verify
from membench.layers.layer import Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Cost, Step, has_backward
from membench.measuring.implementations import Call
from membench.measuring.inputs import Input, make_inputs, pool_size
from membench.measuring.traffic import Traffic, count_traffic
from membench.planning.check_size import sampled_tokens


class WrongAnswer(RuntimeError):
    """The layer disagrees with its float64 reference, or its answer is none; nothing may be timed."""


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
                count = pool_size(case, self.cache_bytes, self.layer.counted_as)
                inputs = make_inputs(self.layer, case, count, self.device)
                self._inputs[key] = inputs, count_traffic(self.layer, inputs)
        return self._inputs[key]

    def input_bytes(self) -> int:
        """Device memory of the inputs at hand, but for the one in use."""
        inputs = next(iter(self._inputs.values()))[0]
        return sum(item.nbytes for item in inputs[1:])

    def upstream(self, case: Case) -> Tensor:
        """The gradient that is sent back, of y's shape."""
        like = self.layer.output_like(self.inputs(case)[0][0].x)
        generator = torch.Generator().manual_seed(case.seed + 2)
        return like.copy_(torch.randn(like.shape, generator=generator))

    def optimizer(self, case: Case) -> LayerOptimizer | None:
        """The case's optimizer, at a learning rate of 0: what is timed stays the layer that was checked."""
        return LayerOptimizer(self.layer, case.optimizer, learning_rate=0.0) if case.optimizer else None

    def check(self, case: Case, name: str, call: Call) -> Verification | None:
        """The errors against the reference; None for a layer from outside that brings none. Each is found once.

        What must hold of every answer is checked first, whether there is a reference or not.

        Args:
            name: the implementation that ``call`` is.

        Raises:
            WrongAnswer: it does not hold, or the errors are too large.
        """
        key = _pool_key(case), name, has_backward(case.mode)
        if key not in self._verified:
            self._verified[key] = self._checked(case, name, call)
        return self._verified[key]

    def check_again(self, case: Case, name: str, call: Call) -> None:
        """The same of a layer from outside after it was timed: what it keeps between calls may have changed its answer.

        Raises:
            WrongAnswer: it does not hold any more.
        """
        if self.layer.FROM_OUTSIDE:
            self._checked(case, name, call, when="after it was timed")

    def _checked(self, case: Case, name: str, call: Call, when: str = "not timed") -> Verification | None:
        inputs, gradients = self.inputs(case)[0], has_backward(case.mode)
        first, second = inputs[0], inputs[1]
        # a graph writes where it did before: that is what it is; and compiling once more, without gradients, is dear
        again = name != "cuda_graph" and (name == "eager" or not gradients)
        fault = find_fault(
            self.layer,
            first.x,
            first.routing,
            call=call,
            upstream=self.upstream(case) if gradients else None,
            other=(second.x.clone(), second.routing) if again else None,
        )
        if fault:
            raise WrongAnswer(f"wrong answer ({name}): {fault}; {when}")
        if not self.layer.has_reference:
            return None
        found = verify(
            self.layer,
            first.x,
            first.routing,
            gradients=gradients,
            sampled_tokens=sampled_tokens(self.layer.counted_as),
            seed=case.seed,
            call=call,
        )
        return _right(found, name, when)

    def check_update(
        self, found: Verification, name: str, optimizer: LayerOptimizer, backward: Callable[[], object]
    ) -> Verification:
        """What ``check`` found and, besides, the errors of table rows after one update.

        Raises:
            WrongAnswer: they are too large.
        """
        errors = update_errors(optimizer, backward)
        self.layer.zero_gradients()
        return _right(replace(found, errors=found.errors | errors), name)

    def check_step(self, case: Case, name: str, step: Callable[[], object]) -> None:
        """One training step of a layer from outside, whose optimizer may be its own: parameters must stay numbers.

        Raises:
            WrongAnswer: they do not.
        """
        if not self.layer.FROM_OUTSIDE:
            return
        step()
        if fault := next(parameter_faults(self.layer), None):
            raise WrongAnswer(f"wrong answer ({name}): after a step with {case.optimizer} {fault}; not timed")
        self.layer.zero_gradients()

    def planned_cost(self, case: Case) -> Cost:
        """The cost by formulas alone: the same whatever the inputs and caches turn out to be."""
        return self.layer.cost(Step(case.tokens, mode=case.mode, optimizer=case.optimizer, ranks=case.ranks))[0]

    def cost(self, case: Case, traffic: Traffic) -> tuple[Cost, str]:
        """The cost of what these inputs really touch, and its source."""
        step = Step(
            case.tokens,
            mode=case.mode,
            optimizer=case.optimizer,
            unique_rows=traffic.unique_rows,
            active_experts=traffic.active_experts,
            assignments=traffic.assignments,
            ranks=case.ranks,
            cache_bytes=self.cache_bytes,
        )
        return self.layer.cost(step)


def _right(found: Verification, name: str, when: str = "not timed") -> Verification:
    if found.failure:
        raise WrongAnswer(f"wrong answer ({name}): {found.failure}; {when}")
    return found


def _pool_key(case: Case) -> str:
    """Cases of equal keys have the same inputs."""
    return case.model_copy(update={"mode": "forward", "optimizer": None}).id
