"""The rules by which TriviaQA scores an answer (arXiv 1705.03551), Natural Questions' open form alike.

An answer is lower-cased; punctuation, quotation marks and underscores become spaces, the articles are left out, and
what is left is compared as words. Of several right answers, the best match counts.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_ARTICLE = re.compile(r"\b(?:an?|the)\b")


def words_of(answer: str) -> list[str]:
    """The words of an answer that are compared."""
    return _ARTICLE.sub(" ", answer.lower().translate(_SPACES)).split()


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if the answer has the words of one of the right ones in their order, else 0."""
    return float(any(words_of(answer) == words_of(each) for each in right))


def f1(answer: str, right: Sequence[str]) -> float:
    """The F1 of its words, each counted as often as it stands, against the nearest of the right answers."""
    said = Counter(words_of(answer))
    return max(_f1(said, Counter(words_of(each))) for each in right)


def _f1(said: Counter[str], right: Counter[str]) -> float:
    """2·precision·recall / (precision + recall), which is twice the words in common over all words; 0 for none."""
    common = (said & right).total()
    return 2 * common / (said.total() + right.total()) if common else 0.0
