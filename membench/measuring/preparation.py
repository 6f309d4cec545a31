"""A case made ready on a built layer: its inputs, the check against the reference, its exact cost. Nothing is timed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from membench.case import Case
from membench.layers.checking.answer import find_fault, parameter_faults
from membench.layers.checking.digest import Digest
from membench.layers.checking.update_verification import update_errors
from membench.layers.checking.verification import Verification, verify
from membench.layers.layer import Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Cost, Step, has_backward, sent_by_kind
from membench.measuring.as_record import verification_of
from membench.measuring.checked_answer import CheckedAnswer
from membench.measuring.implementations import Call
from membench.measuring.in_step import Alone
from membench.measuring.inputs import Input, make_inputs, pool_size
from membench.measuring.stored_inputs import InputStore, Pool
from membench.measuring.traffic import Traffic, mean_traffic, traffic_of
from membench.planning.check_size import sampled_inputs


class WrongAnswer(RuntimeError):
    """The layer disagrees with its float64 reference, or its answer is none; nothing may be timed."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that is right. ``verification`` is None for a layer from outside that brings no reference.

    ``digest`` is of it; ``bit_equal_to_round`` the earlier round whose verification this is; ``of_updates`` names the
    errors in it that are of rows after an optimizer's update.
    """

    verification: Verification | None
    digest: str
    bit_equal_to_round: int | None = None
    of_updates: tuple[str, ...] = ()


class Preparation:
    """Prepares the cases of one built layer; what several modes share is made once."""

    def __init__(
        self,
        layer: Layer,
        device: str,
        cache_bytes: int,
        store: InputStore | None = None,
        ranks: Alone | None = None,
    ) -> None:
        self.ranks = ranks or Alone()
        self.layer, self.device, self.cache_bytes, self.store = layer, device, cache_bytes, store
        self._inputs: dict[str, tuple[list[Input], Traffic]] = {}
        self._checked: dict[tuple[str, str, bool], Checked] = {}

    def inputs(self, case: Case) -> tuple[list[Input], Traffic]:
        """The case's inputs, past the caches, and what they touch.

        Raises:
            ValueError: the case's routing cannot be imposed on this layer.
        """
        key = _pool_key(case)
        if key not in self._inputs:
            self._inputs.clear()  # one pool at a time: tables leave little room
            (count,) = self.ranks.seconds([pool_size(case, self.cache_bytes, self.layer.counted_as)])
            pool = self._pool(case, int(count))
            self._inputs[key] = [each for each, _ in pool], mean_traffic([traffic for _, traffic in pool])
        return self._inputs[key]

    @torch.no_grad()
    def _pool(self, case: Case, count: int) -> Pool:
        """So many inputs with what each touches: those that another process of the run has kept, or new ones."""
        name = None if self.store is None else self.store.name(self.layer, case)
        if self.store is None or name is None:
            return self._drawn(case, count)
        found = self.store.load(name, count, self.device)
        if found is None:
            self.store.save(name, found := self._drawn(case, count))
        return found

    def _drawn(self, case: Case, count: int) -> Pool:
        inputs = make_inputs(self.layer, case, count, self.device, self.ranks.rank)
        return [(each, traffic_of(self.layer, each)) for each in inputs]

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

    def check(self, case: Case, name: str, call: Call, known: CheckedAnswer | None = None) -> Checked:
        """A call's answer, found right. Each is checked once.

        What must hold of every answer is checked first, whether there is a reference or not. The comparison with the
        reference, which takes far longer, is left out where an earlier round made it for a bit-equal answer.

        Args:
            name: the implementation that ``call`` is.
            known: what an earlier round found of the case.

        Raises:
            WrongAnswer: it does not hold, or the errors are too large.
        """
        key = _pool_key(case), name, has_backward(case.mode)
        if key not in self._checked:
            found = None
            if known is not None and known.implementation == name and not self.layer.FROM_OUTSIDE:
                found = self._bit_equal(case, name, call, known)
                found = found if self.ranks.agree(found is not None) else None
            self._checked[key] = found or self._compared(case, name, call)
        return self._checked[key]

    def check_again(self, case: Case, name: str, call: Call) -> None:
        """The same of a layer from outside after it was timed: what it keeps between calls may have changed its answer.

        Raises:
            WrongAnswer: it does not hold any more.
        """
        if self.layer.FROM_OUTSIDE:
            self._compared(case, name, call, when="after it was timed")

    def _bit_equal(self, case: Case, name: str, call: Call, known: CheckedAnswer) -> Checked | None:
        """The findings of an earlier round, if the answer is the one that they are of."""
        digest = self._digest(case, name, call, "not timed")
        if digest != known.of_rank(self.ranks.rank):
            return None
        return Checked(verification_of(known.reference), digest, bit_equal_to_round=known.round)

    def _digest(self, case: Case, name: str, call: Call, when: str) -> str:
        """The digest of a call's answer, of which all holds that must hold of any."""
        (first, second), gradients, digest = self.inputs(case)[0][:2], has_backward(case.mode), Digest()
        # a graph writes where it did before: that is what it is; and compiling once more, without gradients, is dear
        again = name != "cuda_graph" and (name == "eager" or not gradients)
        fault = find_fault(
            self.layer,
            first.x,
            first.routing,
            call=call,
            upstream=self.upstream(case) if gradients else None,
            other=(second.x.clone(), second.routing) if again else None,
            digest=digest,
        )
        if fault:
            raise WrongAnswer(f"wrong answer ({name}): {fault}; {when}")
        return digest.hexdigest()

    def _compared(self, case: Case, name: str, call: Call, when: str = "not timed") -> Checked:
        inputs, gradients = self.inputs(case)[0], has_backward(case.mode)
        digest = self._digest(case, name, call, when)
        if not self.layer.has_reference:
            return Checked(None, digest)
        found = verify(
            self.layer,
            inputs[0].x,
            inputs[0].routing,
            gradients=gradients,
            sampled_tokens=sampled_inputs(self.layer.counted_as, case.tokens // case.sequences),
            seed=case.seed,
            call=call,
        )
        return Checked(_right(found, name, when), digest)

    def check_update(
        self,
        found: Verification,
        name: str,
        optimizer: LayerOptimizer,
        backward: Callable[[], object],
        update: Callable[[], object] | None,
    ) -> Verification:
        """What ``check`` found and, besides, the errors of table rows after one update, as ``update_errors`` makes it.

        Raises:
            WrongAnswer: they are too large.
        """
        errors = update_errors(optimizer, backward, update)
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
        return self._cost(case, case.step())[0]

    def cost(self, case: Case, traffic: Traffic) -> tuple[Cost, str]:
        """The cost of what these inputs really touch, and its source."""
        return self._cost(case, self._step(case, traffic))

    def sent(self, case: Case, traffic: Traffic) -> dict[str, Any]:
        """Of ranks that share the layer, what one sends in a step by kind of collective, by the formulas."""
        if case.layout is None:
            return {}
        _, exchanged = case.layout.cost(self.layer.spec, self._step(case, traffic))
        return {"communication_bytes": sent_by_kind(exchanged)}

    def _step(self, case: Case, traffic: Traffic) -> Step:
        return case.step(
            unique_rows=traffic.unique_rows,
            active_experts=traffic.active_experts,
            assignments=traffic.assignments,
            cache_bytes=self.cache_bytes,
        )

    def _cost(self, case: Case, step: Step) -> tuple[Cost, str]:
        return self.layer.cost(step) if case.layout is None else (case.cost_of(self.layer.spec, step), "exact")


def _right(found: Verification, name: str, when: str = "not timed") -> Verification:
    if found.failure:
        raise WrongAnswer(f"wrong answer ({name}): {found.failure}; {when}")
    return found


def _pool_key(case: Case) -> str:
    """Cases of equal keys have the same inputs. A model's are others in training: each token needs the next."""
    alike = "forward" if case.level in ("layer", "op") else "forward_backward" if has_backward(case.mode) else case.mode
    return case.model_copy(update={"mode": alike, "optimizer": None}).id
