"""How large a task's data is: what a model has to know of it before any is made."""

from dataclasses import dataclass

from membench.learning.tasks import AnyTask


@dataclass(frozen=True, slots=True)
class Extent:
    """V, tokens that there are, and T, the longest sequence that a step is trained on."""

    vocab_size: int
    length: int


def extent_of(task: AnyTask) -> Extent:
    """The extent of a task's data."""
    return Extent(task.name_symbols + task.value_symbols, task.name_tokens + task.value_tokens - 1)
