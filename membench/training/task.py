"""What a task gives the loop: batches that are a pure function of seed and sample number, and questions.

Letters: S sequences, T tokens of each that a loss can be of, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits (S, T, V) of the token after each of tokens (S, T), which a later token does not change; T may be less than
# ``length``.
Logits = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """``tokens`` (S, T + 1) int64; ``scored`` (S, T) bool: whose loss counts, of tokens 1 to T. Both on the CPU."""

    tokens: Tensor
    scored: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """What a model answered. ``metrics`` have names with units; unknown is None, never 0.

    All tasks have ``answer_nll`` (nats a scored token). Where it is known: ``em`` and ``f1`` (0 to 1),
    ``bits_learnt`` (of all that there is to learn), ``bits_per_fact``, ``right_by_place`` and the like.
    """

    metrics: dict[str, float | None]


class TaskData(ABC):
    """The data of a task for one seed. Two of the same config and seed are the same, on every machine."""

    vocab_size: int
    length: int  # T, the longest
    # What was made or read, as JSON values: counts, bits, and of text and files name, size and sha256.
    description: dict[str, Any]

    @abstractmethod
    def batch(self, first: int, count: int) -> Batch:
        """Training samples ``first`` to ``first + count``: those numbers, whatever was asked before."""

    @abstractmethod
    def questions(self, most: int) -> Iterator[Batch]:
        """What is asked in an evaluation, at most so many sequences, in batches; the same each time."""

    @abstractmethod
    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        """The answers of a model to ``questions``."""
