"""Data that is made by number: what all tasks share of batches and questions.

Letters: n samples, T tokens of each that a loss can be of.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from membench.learning.extent import Extent
from membench.training.scoring.answers import Answers, all_answered
from membench.training.task import Batch, Logits, Score, TaskData
from membench.training.tasks.drawing import Integers, key_of
from membench.training.tasks.permutation import permuted

_BLOCK_TOKENS = 2**15  # made at once, so that numpy's cost a call is shared by many batches
_HELD_BLOCKS = 4
_LOGITS_HELD = 2**25  # of a batch of questions: 128 MiB in float32
_MAX_ASKED_ROWS = 1024
ENDLESS = 2**31  # questions of a task whose questions are drawn, not counted


class Rows(NamedTuple):
    """``tokens`` (n, T + 1) int64; ``scored`` (n, T) bool: whose loss counts, of tokens 1 to T."""

    tokens: Integers
    scored: NDArray[np.bool_]

    def batch(self) -> Batch:
        return Batch(torch.from_numpy(self.tokens), torch.from_numpy(self.scored))


class NumberedData(TaskData):
    """Data of which every training sample and every question has a number that it is made from.

    Args:
        seed: of all that is drawn, the task's own added.
        extent: V and T.
        questions: how many there are.
    """

    def __init__(self, seed: int, extent: Extent, questions: int) -> None:
        self.seed, self.question_count = seed, questions
        self.vocab_size, self.length = extent.vocab_size, extent.length
        self.description = {}
        self._block_rows = max(1, _BLOCK_TOKENS // (extent.length + 1))
        self._block = lru_cache(maxsize=_HELD_BLOCKS)(self._made_block)

    @abstractmethod
    def samples(self, numbers: Integers) -> Rows:
        """Training samples of these numbers (n,)."""

    @abstractmethod
    def asked(self, numbers: Integers) -> Rows:
        """Questions of these numbers (n,) with their answers, which are what is scored."""

    @abstractmethod
    def text(self, tokens: list[int]) -> str:
        """Tokens as a person reads them."""

    def key(self, *use: str | int) -> int:
        """The key of what is drawn for a use."""
        return key_of(self.seed, *use)

    def batch(self, first: int, count: int) -> Batch:
        rows, end = self._block_rows, first + count
        parts: list[Rows] = []
        while first < end:
            number, begin = divmod(first, rows)
            taken = min(rows - begin, end - first)
            tokens, scored = self._block(number)
            parts.append(Rows(tokens[begin : begin + taken], scored[begin : begin + taken]))
            first += taken
        # A copy, also of one part: what is held is not the caller's to change.
        return Rows(*(np.concatenate(each) for each in zip(*parts, strict=True))).batch()

    def questions(self, most: int) -> Iterator[Batch]:
        for numbers in self.asked_numbers(most, self.question_count):
            yield self.asked(numbers).batch()

    def score(self, logits: Logits, most: int, device: torch.device) -> Score:
        return Score(self.metrics(all_answered(logits, self.questions(most), device)))

    def metrics(self, total: Answers) -> dict[str, float | None]:
        """What is said of all answers. The F1 of answers of one word is their exact match."""
        return {"answer_nll": total.nll, "em": total.em, "f1": total.em}

    def asked_numbers(self, most: int, count: int) -> Iterator[Integers]:
        """The numbers of at most so many of ``count`` questions, any as likely as any, in parts that fit memory."""
        places = np.arange(min(most, count))
        numbers = places if len(places) == count else permuted(self.key("which are asked", count), places, count)
        rows = max(1, min(_MAX_ASKED_ROWS, _LOGITS_HELD // (self.length * self.vocab_size)))
        for first in range(0, len(numbers), rows):
            yield numbers[first : first + rows]

    def _made_block(self, number: int) -> Rows:
        return self.samples(np.arange(number * self._block_rows, (number + 1) * self._block_rows))


def of_epoch(key: int, numbers: Integers, count: int) -> Integers:
    """Which of ``count`` things each sample shows: every one once in an epoch, in an order of the epoch's own."""
    epochs, places = np.divmod(numbers, count)
    return permuted(np.uint64(key) + epochs.astype(np.uint64) * _EPOCH_STEP, places, count)


_EPOCH_STEP = np.uint64(0xA0761D6478BD642F)  # odd: epochs have keys of their own
