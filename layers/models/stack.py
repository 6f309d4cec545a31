"""A decoder's blocks, one after the other.

Of one new token of each sequence, on a CPU, they are one C++ call (``kernels.in_turn``). What Python does before that,
block by block, to check what it is given and to pack addresses, takes a tenth to a fourth of the time in which the
weights are read. From one token to the next only the place in the caches changes. So the call is kept, and made again
for as long as everything lies where it did: as a GPU runs a captured graph again, except that nobody has to ask for it.

Letters: S sequences, B tokens, d model dim.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from membench.layers.kernels.few_tokens import can_step
from membench.layers.kernels.in_turn import Steps, StepsAgain, finish_steps, in_turn, seen_between
from membench.layers.kernels.native.block_step import move
from membench.layers.kernels.stages import is_observed
from membench.layers.layer import Routing
from membench.layers.models.cache import KVCache

if TYPE_CHECKING:
    from membench.layers.models.block import Block


class Stack:
    """Blocks that read what the one before gives. A copy of a model has one of its own, which has kept nothing.

    Attributes:
        owner: the model whose own parameters an ``end`` reads.
    """

    def __init__(self, blocks: "Sequence[Block]", owner: nn.Module | None = None) -> None:
        self.blocks, self.owner = blocks, owner
        self._kept: _Kept | None = None

    def __reduce__(self) -> "tuple[type[Self], tuple[Sequence[Block], nn.Module | None]]":
        return type(self), (self.blocks, self.owner)

    def __call__(
        self,
        x: Tensor,
        sequences: int,
        routing: Routing | None = None,
        end: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(B, d) after the last block of x (B, d), tokens of so many sequences; or what ``end`` makes of that.

        Args:
            end: gives it to a step, or finishes those that wait; it reads parameters of ``owner`` alone.
        """
        if seen_between(self.blocks):
            return self._each(x, sequences, routing, end)
        if routing is not None or not self._is_a_token_of_each(x, sequences):
            with in_turn():
                return self._each(x, sequences, routing, end)
        if self._kept is None or not self._kept.would_do(self.blocks, x, end):
            given = x.clone(memory_format=torch.contiguous_format)  # of one that lies apart, a copy would be read
            with in_turn() as steps:
                y = self._each(given, sequences, None, end)
            self._kept = _Kept.of(self, steps, given, y, end)
            return y if self._kept is None else y.clone()
        return self._kept.again(x)

    def _each(
        self, x: Tensor, sequences: int, routing: Routing | None, end: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        for block in self.blocks:
            if block.sequences != sequences:  # a module's attributes are slow to set
                block.sequences = sequences
            x = block(x, routing)
        return x if end is None else end(x)

    def _is_a_token_of_each(self, x: Tensor, sequences: int) -> bool:
        if len(x) != sequences or torch.is_grad_enabled() or is_observed() or not self.blocks:
            return False
        return can_step(x) and all(block.cache is not None for block in self.blocks)


class _Kept:
    """A token's call, and everything that must be as it was for another one to be the same.

    Each token looks at that, by as little code as will do: the weights have driven all of it out of the caches.
    """

    def __init__(self, stack: Stack, steps: Steps, x: Tensor, y: Tensor, end: object) -> None:
        self.blocks, self._x, self._y = list(stack.blocks), x, y
        self._modules = [module for block in self.blocks for module in block.modules()]
        self._children = [module._modules for module in self._modules if module._modules]
        read = self._modules if stack.owner is None else [*self._modules, stack.owner]
        self._named = [named for each in read for named in (each._parameters, each._buffers) if named]
        self._tensors = [each for each in _values(self._named) if each is not None]
        # weights and caches, which are looked for before every run, need not be kept from being freed
        self._steps = StepsAgain(steps, without={each.data_ptr() for each in self._looked_for()})
        self._of_blocks = self._steps.numbers_of("block_step")
        self._then = self._state(x, end)
        self._find_angles(x)

    @classmethod
    def of(cls, stack: Stack, steps: Steps, x: Tensor, y: Tensor, end: object) -> Self | None:
        """What is kept of a call that took x (S, d) to y; None if it was not all that was done."""
        blocks = stack.blocks
        if not steps.ran_together or steps.names.count("block_step") != len(blocks):
            return None
        if end is not None and steps.names[-1] != "head_step":
            return None
        if len({(block.spec.attention, _cache(block).held) for block in blocks}) > 1:
            return None
        kept = cls(stack, steps, x, y, end)
        return kept if all(each.is_contiguous() for each in kept._tensors) else None  # of others copies were read

    def would_do(self, blocks: "Sequence[Block]", x: Tensor, end: object) -> bool:
        """Whether this call would do for x what these blocks, and this end, would do."""
        return [*blocks] == self.blocks and self._state(x, end) == self._then

    def again(self, x: Tensor) -> Tensor:
        """What becomes of x (S, d).

        Raises:
            ValueError: a cache has no room for the token.
        """
        cache = _cache(self.blocks[0])
        cache.place(1)
        if (held := cache.held) >= self._positions:
            self._find_angles(x)
        cosines, sines = (first + held * self._angle_bytes for first in self._angles_lie)
        for numbers in self._of_blocks:
            move(numbers, cosines, sines, held)
        self._x.copy_(x)
        finish_steps()
        self._steps.run()
        return self._y.clone()

    def _find_angles(self, x: Tensor) -> None:
        """Those of every position up to this token's, and of some that follow."""
        first = self.blocks[0]
        self._angles = cosines, sines = first.attention.turns(_cache(first).held + 1, x)
        self._angles_lie = cosines.data_ptr(), sines.data_ptr()
        self._positions, self._angle_bytes = len(cosines), cosines[0].nbytes

    def _looked_for(self) -> list[Tensor]:
        """Weights and caches."""
        caches = [_cache(block) for block in self.blocks]
        return [*self._tensors, *(each.keys for each in caches), *(each.values for each in caches)]

    def _state(self, x: Tensor, end: object) -> list[Any]:
        """What tells it: tensors by where they lie, and objects by which they are."""
        of_blocks, caches = [block.__dict__ for block in self.blocks], [_cache(block) for block in self.blocks]
        tensors, held = self._looked_for(), caches[0].held
        return [
            (end, x.shape, x.dtype, torch.is_inference_mode_enabled(), [each.held == held for each in caches]),
            [each["sequences"] for each in of_blocks],
            [each["auxiliary_loss"] is None for each in of_blocks],
            [each.get("forward") for each in of_blocks],
            [each._compiled_call_impl for each in self.blocks],
            [each.training for each in self._modules],
            [*map(id, _values(self._children))],
            [*map(id, _values(self._named))],
            [*map(Tensor.data_ptr, tensors)],
            [*map(Tensor.size, tensors)],
            [*map(Tensor.is_contiguous, tensors)],
            [*map(_dtype, tensors)],
        ]


_dtype = attrgetter("dtype")


def _values(named: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    return chain.from_iterable(each.values() for each in named)


def _cache(block: "Block") -> KVCache:
    assert block.cache is not None
    return block.cache
