"""Phrasings filled with names, attributes and values, as rows of tokens.

Letters: n sentences, L tokens of the longest, P phrasings.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membench.learning.attributes import ATTRIBUTES
from membench.learning.phrasings import ATTRIBUTE, NAME, VALUE, closed_vocabulary
from membench.training.tasks.drawing import Integers
from membench.training.tasks.made_words import made_word

STOP_TOKEN = 0  # the first word, and what rows are filled up with
_FILL = -1


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words by tokens: those of all sentences, then the symbols of values, then those of names."""

    words: tuple[str, ...]
    value_symbols: int
    name_symbols: int

    @property
    def size(self) -> int:
        return self.first_name + self.name_symbols

    @property
    def first_value(self) -> int:
        return len(self.words)

    @property
    def first_name(self) -> int:
        return len(self.words) + self.value_symbols

    def text(self, tokens: list[int]) -> str:
        """The words of tokens; names and values have words of their own making."""
        known = len(self.words)
        return " ".join(self.words[token] if token < known else made_word(token - known) for token in tokens)


def vocabulary(value_symbols: int, name_symbols: int) -> Vocabulary:
    """Of sentences on so many symbols of values and of names, over all places of a name."""
    return Vocabulary(tuple(closed_vocabulary()), value_symbols, name_symbols)


class Filled(NamedTuple):
    """``tokens`` (n, L), filled up with full stops; ``told`` (n, L) bool: a token of the sentence, not filled up;
    ``valued`` (n, L) bool: a token of the value."""

    tokens: Integers
    told: NDArray[np.bool_]
    valued: NDArray[np.bool_]


class Sentences:
    """Phrasings as a table of words and slots, filled for many facts at once.

    Args:
        phrasings: lists of words.
        words: the vocabulary.
        name_tokens: of a name; 0 where the phrasings have none.
        value_tokens: of a value.
    """

    def __init__(self, phrasings: list[list[str]], words: Vocabulary, name_tokens: int, value_tokens: int) -> None:
        tokens = {word: token for token, word in enumerate(words.words)}
        # What is filled in stands in a row of its own: the name, the attribute, the value. A slot names its column.
        slots = {
            NAME: range(name_tokens),
            ATTRIBUTE: range(name_tokens, name_tokens + 1),
            VALUE: range(name_tokens + 1, name_tokens + 1 + value_tokens),
        }
        coded = [
            [
                code
                for word in phrasing
                for code in ([_FILL - 1 - c for c in slots[word]] if word in slots else [tokens[word]])
            ]
            for phrasing in phrasings
        ]
        self.length = max(map(len, coded))
        self.count = len(phrasings)
        self._codes = np.full((len(coded), self.length), _FILL, np.int64)
        for row, codes in zip(self._codes, coded, strict=True):
            row[: len(codes)] = codes
        self._attributes = np.array([tokens[word] for word in ATTRIBUTES])
        self._first_value_code = _FILL - 1 - (name_tokens + 1)
        self._first_name, self._first_value = words.first_name, words.first_value

    def filled(self, phrasings: Integers, names: Integers, attributes: Integers, values: Integers) -> Filled:
        """Sentences of n facts.

        Args:
            phrasings: (n,) which each is said in.
            names: (n, name tokens) symbols.
            attributes: (n,) numbers of ``ATTRIBUTES``.
            values: (n, value tokens) symbols.
        """
        told = np.concatenate(
            [names + self._first_name, self._attributes[attributes][:, None], values + self._first_value], axis=1
        )
        codes = self._codes[phrasings]
        columns = np.maximum(_FILL - 1 - codes, 0)
        tokens = np.where(codes < _FILL, np.take_along_axis(told, columns, axis=1), codes)
        return Filled(np.where(codes == _FILL, STOP_TOKEN, tokens), codes != _FILL, codes <= self._first_value_code)
