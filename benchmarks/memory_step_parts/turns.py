"""Things that are compared take turns, so that what else the machine does hits all alike."""

from collections.abc import Callable, Mapping
from itertools import repeat

from membench.measuring.time import Clock, StepCall

Timed = Callable[[int], float]  # seconds of something on input number i


def timed(step: StepCall) -> Timed:
    """The seconds of one call."""
    clock = Clock("cpu")
    return lambda number: clock.seconds(step, repeat(number), 1)


def take_turns(ways: Mapping[str, Timed], rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """The seconds of every way in every round, all on the round's input, forth and back in order."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warmup + rounds):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            taken = ways[name](number)
            if number >= warmup:
                seconds[name].append(taken)
    return seconds
