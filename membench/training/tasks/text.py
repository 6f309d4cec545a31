"""The next token of text: sequences of a text's tokens, each token after the first scored.

Letters: n sequences, T tokens.
"""

from math import exp, log

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from membench.learning.extent import extent_of
from membench.learning.tasks import Text
from membench.training.data_files.corpus import read_corpus
from membench.training.scoring.answers import Answers
from membench.training.tasks.drawing import Integers, drawn
from membench.training.tasks.numbered import NumberedData, Rows, of_epoch

_LARGEST_EXPONENT = 700.0  # e to more is no float


class TextData(NumberedData):
    """The task ``text``. Training has every sequence once an epoch, and the epochs begin at different tokens; asked
    are sequences of the end, which training never sees. They do not overlap, but for the token that the next begins
    with."""

    def __init__(self, config: Text, seed: int) -> None:
        corpus = read_corpus(config)
        self._tokens, self._by, self._cut = corpus.tokens, corpus.by, corpus.cut
        self._windows = sliding_window_view(corpus.tokens, config.length + 1)
        self._asked_bytes = corpus.asked_bytes
        self._trained = max(1, (corpus.cut - 1) // config.length - 1)
        asked = (len(corpus.tokens) - corpus.cut - 1) // config.length
        super().__init__(seed, extent_of(config), asked)
        self._slack = corpus.cut - self._trained * config.length
        self.description = corpus.description

    def samples(self, numbers: Integers) -> Rows:
        """An epoch begins at any of the first tokens, so that sequences are cut elsewhere each time."""
        shown = of_epoch(self.key("epochs"), numbers, self._trained)
        begins = drawn(self.key("beginnings"), numbers // self._trained, self._slack)
        return self._rows(begins + shown * self.length)

    def asked(self, numbers: Integers) -> Rows:
        return self._rows(self._cut + numbers * self.length)

    def text(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens)) if self._by is None else self._by.decoded(tokens)

    def _rows(self, firsts: Integers) -> Rows:
        tokens = self._windows[firsts].astype(np.int64)
        return Rows(tokens, np.ones((len(firsts), self.length), bool))

    def metrics(self, total: Answers) -> dict[str, float | None]:
        """Perplexity a token, and bits a byte of text where a token's bytes are known."""
        nll = total.nll
        bits = None if nll is None or not self._asked_bytes else nll / log(2) / self._asked_bytes
        perplexity = exp(nll) if nll is not None and nll < _LARGEST_EXPONENT else None
        return {"answer_nll": nll, "perplexity": perplexity, "bits_per_byte": bits, "right_tokens": total.right_share}
