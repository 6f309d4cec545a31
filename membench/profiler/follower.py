"""Knows at any moment of a step which stage is running, forward and backward.

Forward, the layers say so themselves (``layers.kernels.stages``). Backward, a node of autograd's
graph belongs to the stage that was running when it was made, which its sequence number tells: the
numbers rise, and that at each change of stage is kept. A hook on every node then says when it
begins; a stage named inside a node's own backward interrupts it, as it does forward.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch._C._autograd import _get_sequence_nr as next_sequence_number  # of this thread's next node
from torch.autograd import Variable
from torch.autograd.graph import Node

from membench.results.profile import REST, StageKey


class StageFollower(ABC):
    """Calls ``moved`` whenever another stage begins to run; None stands for what is no part of the step.

    A step is enclosed by ``begin`` and ``end``, and ``follow`` is given its outputs between
    forward and backward.
    """

    def __init__(self) -> None:
        self._here: StageKey | None = REST
        self._in_backward = False
        self._changes: list[tuple[int, StageKey]] = []  # forward: the sequence number at each change
        self._hooks: list[Any] = []

    @abstractmethod
    def moved(self, key: StageKey | None) -> None:
        """From now on this stage runs."""

    def begin(self) -> None:
        """A step begins."""
        self._in_backward = False
        self._changes.clear()
        self._go(REST)

    def end(self) -> None:
        """A step has ended."""
        self._go(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = self._here
        self._go(StageKey(name, self._in_backward))
        try:
            yield
        finally:
            self._go(before)

    def follow(self, *outputs: Tensor | None) -> None:
        """Hear of every node of the graph behind these outputs. The hooking itself is no part of the step."""
        self._go(None)
        roots = [output.grad_fn for output in outputs if output is not None and output.grad_fn is not None]
        for node, key in owners(roots, self._made_in):
            self._hooks.append(node.register_prehook(partial(self._node_begins, key)))
        self._go(REST)

    def _go(self, key: StageKey | None) -> None:
        self._here = key
        if not self._in_backward and key is not None:
            self._changes.append((next_sequence_number(), key))
        self.moved(key)

    def _made_in(self, sequence_number: int) -> StageKey:
        """The stage that ran when a node was made, as its backward."""
        before = bisect_right(self._changes, sequence_number, key=lambda change: change[0])
        made_in = self._changes[before - 1][1] if before else REST
        return made_in if made_in == REST else StageKey(made_in.name, backward=True)

    def _node_begins(self, key: StageKey, gradients: Any) -> None:
        del gradients
        if not self._in_backward:
            self._in_backward = True
            engine: Any = Variable._execution_engine
            engine.queue_callback(self._backward_ends)
        self._go(key)

    def _backward_ends(self) -> None:
        self._go(REST)
        self._in_backward = False


def owners(roots: list[Node], made_in: Callable[[int], StageKey]) -> Iterator[tuple[Node, StageKey]]:
    """Every node of a graph with the stage it belongs to.

    What accumulates a gradient belongs to the stage that alone uses the tensor; to the rest where
    several do.
    """
    leaves: dict[Node, set[StageKey]] = {}
    seen, waiting = set(roots), list(roots)
    while waiting:
        node = waiting.pop()
        key = made_in(node._sequence_nr())
        yield node, key
        for child, _ in node.next_functions:
            if child is None:
                continue
            if hasattr(child, "variable"):
                leaves.setdefault(child, set()).add(key)
            elif child not in seen:
                seen.add(child)
                waiting.append(child)
    for leaf, users in leaves.items():
        yield leaf, users.pop() if len(users) == 1 else REST
