"""Multi-query associative recall (arXiv 2312.04927): pairs of a key and a value, then keys whose values are asked.

A row is all pairs, then each key again with its value behind it, in an order of its own and with blanks between. The
loss counts on those values. Of the paper is: that all pairs come first, and each is asked once. Not of it are the gaps
before a question, which it draws by a power law: here the places of questions are any, all alike.
Tokens: the blank, keys, values. Letters: n rows, P pairs.
"""

import numpy as np

from membench.learning.extent import extent_of
from membench.learning.tasks import InContextRecall
from membench.training.scoring.answers import Answers
from membench.training.tasks.drawing import Hashes, Integers, hashes
from membench.training.tasks.numbered import ENDLESS, NumberedData, Rows
from membench.training.tasks.permutation import permuted

BLANK = 0


class InContextRecallData(NumberedData):
    """The task ``in_context_recall``. Samples never end; which value a key goes with is drawn anew in each."""

    def __init__(self, config: InContextRecall, seed: int) -> None:
        self._pairs, self._keys = config.pairs, config.symbols // 2
        self._values = config.symbols - self._keys
        self._places = config.length // 2 - config.pairs  # where a key and its value may be asked
        super().__init__(seed, extent_of(config), ENDLESS)

    def samples(self, numbers: Integers) -> Rows:
        return self._rows(hashes(self.key("samples"), numbers))

    def asked(self, numbers: Integers) -> Rows:
        return self._rows(hashes(self.key("questions"), numbers))

    def text(self, tokens: list[int]) -> str:
        return " ".join(self._word(token) for token in tokens)

    def _word(self, token: int) -> str:
        if token == BLANK:
            return "_"
        return f"k{token - 1}" if token <= self._keys else f"v{token - 1 - self._keys}"

    def _rows(self, row_keys: Hashes) -> Rows:
        keys = 1 + self._some(row_keys, "keys", self._keys)
        values = 1 + self._keys + self._some(row_keys, "values", self._values)
        asked_at = 2 * (self._pairs + self._some(row_keys, "places", self._places))
        tokens = np.full((len(row_keys), self.length + 1), BLANK, np.int64)
        tokens[:, 0 : 2 * self._pairs : 2] = keys
        tokens[:, 1 : 2 * self._pairs : 2] = values
        np.put_along_axis(tokens, asked_at, keys, axis=1)
        np.put_along_axis(tokens, asked_at + 1, values, axis=1)
        scored = np.zeros((len(row_keys), self.length), bool)
        np.put_along_axis(scored, asked_at, True, axis=1)  # the loss at a key is of the value behind it
        return Rows(tokens, scored)

    def _some(self, row_keys: Hashes, use: str, count: int) -> Integers:
        """Of each row P of 0 … count - 1, no two alike: (n, P)."""
        places = np.broadcast_to(np.arange(self._pairs), (len(row_keys), self._pairs))
        return permuted((row_keys + np.uint64(self.key(use)))[:, None], places, count)

    def metrics(self, total: Answers) -> dict[str, float | None]:
        """A question is one key: its share of right values, as the paper has it, is the exact match."""
        return {"answer_nll": total.nll, "em": total.right_share, "f1": total.right_share, "row_em": total.em}
