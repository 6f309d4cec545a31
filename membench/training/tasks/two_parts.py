"""Numbered things in two parts, one trained on and one asked, so that none is in both."""

from membench.training.tasks.drawing import Integers, key_of
from membench.training.tasks.permutation import permuted


class TwoParts:
    """The numbers 0 … count - 1 in an order of the seed's; the first share of them is one part, the rest the other.

    Nothing is held, however many there are. Each part has at least one.
    """

    def __init__(self, seed: int, count: int, first_share: float) -> None:
        self._key, self._count = key_of(seed, "two parts", count), count
        self.first = min(max(1, round(count * first_share)), count - 1)
        self.rest = count - self.first

    def of_first(self, places: Integers) -> Integers:
        """The things at these places of the first part."""
        return permuted(self._key, places, self._count)

    def of_rest(self, places: Integers) -> Integers:
        """The things at these places of the other."""
        return permuted(self._key, places + self.first, self._count)
