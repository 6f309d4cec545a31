"""Which fact a training sample shows: each once an epoch, or some far more often than others."""

from abc import ABC, abstractmethod

import numpy as np

from membench.training.tasks.drawing import Integers, fractions, key_of
from membench.training.tasks.numbered import of_epoch


class Exposure(ABC):
    """Which fact each sample shows."""

    @abstractmethod
    def of(self, numbers: Integers) -> Integers:
        """The facts (n,) of samples (n,)."""


class Even(Exposure):
    """Every fact once in an epoch, each epoch in an order of its own."""

    def __init__(self, seed: int, facts: int) -> None:
        self._key, self._facts = key_of(seed, "epochs"), facts

    def of(self, numbers: Integers) -> Integers:
        return of_epoch(self._key, numbers, self._facts)


class Zipf(Exposure):
    """Fact i with a chance in proportion to (i + 1)^-exponent, drawn for each sample. It holds eight bytes a fact.

    The sums are rounded to 2^-40 of the whole, so that what a processor's last bits of a power are does not matter.
    """

    def __init__(self, seed: int, facts: int, exponent: float) -> None:
        self._key = key_of(seed, "exposure")
        weights = np.arange(1, facts + 1, dtype=np.float64)
        np.power(weights, -exponent, out=weights)
        np.cumsum(weights, out=weights)
        weights *= 2.0**40 / weights[-1]
        self._bounds = np.rint(weights, out=weights)

    def of(self, numbers: Integers) -> Integers:
        places = np.searchsorted(self._bounds, np.floor(fractions(self._key, numbers) * 2.0**40), side="right")
        return np.minimum(places, len(self._bounds) - 1)


def exposure_of(seed: int, facts: int, exponent: float) -> Exposure:
    """As a task states it: an exponent of 0 is even exposure."""
    return Zipf(seed, facts, exponent) if exponent else Even(seed, facts)
