"""Names and values that nothing but storage tells: each a function of its number.

Letters: n facts asked for, N tokens of a name, V tokens of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2

import numpy as np

from membench.training.tasks.drawing import Integers, drawn, key_of
from membench.training.tasks.permutation import MAX_COUNT, permuted

_HELD_NUMBERS = 2**20  # 8 MiB, made in less than a second


@dataclass(frozen=True, slots=True)
class Names:
    """Names of ``tokens`` symbols each, no two alike. The alphabets of the places do not overlap: place i has the
    symbols i·symbols to (i + 1)·symbols."""

    seed: int
    tokens: int
    symbols: int

    @property
    def vocab_size(self) -> int:
        return self.tokens * self.symbols

    def of(self, numbers: Integers) -> Integers:
        """The symbols (n, N) of the names of these numbers (n,)."""
        told_apart, combinations = 0, 1  # by so many places: as many combinations as a permutation takes
        while told_apart < self.tokens and combinations * self.symbols <= MAX_COUNT:
            told_apart, combinations = told_apart + 1, combinations * self.symbols
        rest = permuted(key_of(self.seed, "names"), numbers, combinations)
        found = np.empty((len(numbers), self.tokens), np.int64)
        for place in range(self.tokens):
            if place < told_apart:
                rest, found[:, place] = np.divmod(rest, self.symbols)
            else:
                found[:, place] = drawn(key_of(self.seed, "names", place), numbers, self.symbols)
        return found + np.arange(self.tokens) * self.symbols


@dataclass(frozen=True, slots=True)
class Values:
    """Values of ``tokens`` symbols each, every one drawn from the first ``pool``, all alike."""

    seed: int
    tokens: int
    pool: int

    @property
    def bits(self) -> float:
        """Of a value, that nobody knows."""
        return value_bits(self.tokens, self.pool)

    def of(self, numbers: Integers) -> Integers:
        """The symbols (n, V) of the values of these facts (n,)."""
        key = key_of(self.seed, "values")
        places = numbers[:, None] * self.tokens + np.arange(self.tokens)
        return drawn(key, places, self.pool)


def held(made: Callable[[Integers], Integers], count: int) -> Callable[[Integers], Integers]:
    """A function of numbers below ``count`` as a table of its rows, if that is small: to look up takes a fraction."""
    if count * made(np.zeros(1, np.int64)).shape[1] > _HELD_NUMBERS:
        return made
    table = made(np.arange(count))
    return lambda numbers: table[numbers]


def value_bits(tokens: int, pool: int) -> float:
    """Of a value of so many tokens, each drawn from so many symbols."""
    return tokens * log2(pool)


def bits_learnt(facts: int, bits: float, nats: float | None, asked: int) -> dict[str, float | None]:
    """What of all facts' bits is learnt, by the summed loss of those asked (arXiv 2404.05405).

    A fact's bits less the bits of its loss, at least 0: a model that is surer of wrong values than a guess is has
    learnt nothing.

    Args:
        facts: how many there are.
        bits: of one, that nobody knows.
        nats: the loss of all value tokens of those asked; None where it is unknown.
        asked: how many were asked.
    """
    if nats is None:
        return {"bits_learnt": None, "bits_per_fact": None}
    each = max(0.0, bits - nats / asked / np.log(2))
    return {"bits_learnt": float(each * facts), "bits_per_fact": float(each)}
