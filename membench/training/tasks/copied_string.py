"""A random string, a mark, the string again. The loss counts on the second. Tokens: the mark, symbols."""

import numpy as np

from membench.learning.extent import extent_of
from membench.learning.tasks import Copy
from membench.training.scoring.answers import Answers
from membench.training.tasks.drawing import Integers, drawn
from membench.training.tasks.numbered import ENDLESS, NumberedData, Rows

MARK = 0


class CopyData(NumberedData):
    """The task ``copy``. Samples never end; questions are other draws of the same length."""

    def __init__(self, config: Copy, seed: int) -> None:
        self._config = config
        super().__init__(seed, extent_of(config), ENDLESS)
        self._scored = np.arange(self.length) >= config.length

    def samples(self, numbers: Integers) -> Rows:
        return self._rows(self.key("samples"), numbers)

    def asked(self, numbers: Integers) -> Rows:
        return self._rows(self.key("questions"), numbers)

    def text(self, tokens: list[int]) -> str:
        return " ".join("|" if token == MARK else f"s{token - 1}" for token in tokens)

    def _rows(self, key: int, numbers: Integers) -> Rows:
        length = self._config.length
        places = numbers[:, None] * length + np.arange(length)
        strings = 1 + drawn(key, places, self._config.symbols)
        marks = np.full((len(numbers), 1), MARK)
        return Rows(np.concatenate([strings, marks, strings], axis=1), np.tile(self._scored, (len(numbers), 1)))

    def metrics(self, total: Answers) -> dict[str, float | None]:
        """The whole string right, and beside it the share of symbols that are, each after the right ones."""
        return {"answer_nll": total.nll, "em": total.em, "right_symbols": total.right_share}
