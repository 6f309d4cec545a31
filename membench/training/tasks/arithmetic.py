"""Sums, which a rule gives and which nothing has to be stored for.

A row is ``0 4 7 + 9 6 1 = 1 0 0 8``: both numbers with all their digits, the sum with one more, the highest first.
Tokens: the ten digits, the plus, the equals sign.
"""

import numpy as np

from membench.learning.extent import extent_of
from membench.learning.tasks import Arithmetic
from membench.training.tasks.drawing import Integers
from membench.training.tasks.numbered import NumberedData, Rows, of_epoch
from membench.training.tasks.two_parts import TwoParts

PLUS, EQUALS = 10, 11


class ArithmeticData(NumberedData):
    """The task ``arithmetic``: every pair of training once an epoch, and asked the pairs that it has not."""

    def __init__(self, config: Arithmetic, seed: int) -> None:
        self._digits, self._numbers = config.digits, 10**config.digits
        self._pairs = TwoParts(seed, self._numbers**2, 1 - config.asked_share)
        super().__init__(seed, extent_of(config), self._pairs.rest)
        self._scored = np.arange(self.length) >= 2 * config.digits + 1
        self.description = {"pairs_trained": self._pairs.first, "pairs_asked": self._pairs.rest}

    def samples(self, numbers: Integers) -> Rows:
        return self._rows(self._pairs.of_first(of_epoch(self.key("epochs"), numbers, self._pairs.first)))

    def asked(self, numbers: Integers) -> Rows:
        return self._rows(self._pairs.of_rest(numbers))

    def text(self, tokens: list[int]) -> str:
        return "".join("0123456789+="[token] for token in tokens)

    def _rows(self, pairs: Integers) -> Rows:
        a, b = np.divmod(pairs, self._numbers)
        plus, equals = (np.full((len(pairs), 1), sign) for sign in (PLUS, EQUALS))
        written = [
            _digits(a, self._digits), plus, _digits(b, self._digits), equals, _digits(a + b, self._digits + 1)
        ]  # fmt: skip
        return Rows(np.concatenate(written, axis=1), np.tile(self._scored, (len(pairs), 1)))


def _digits(numbers: Integers, count: int) -> Integers:
    """The decimal digits (n, count), the highest first."""
    return numbers[:, None] // 10 ** np.arange(count - 1, -1, -1) % 10
