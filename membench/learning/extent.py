"""How large a task's data is: what a model has to know of it before any is made."""

from dataclasses import dataclass

from membench.learning.phrasings import (
    ASKED,
    NAME,
    OF_A_LIFE,
    TRAINED,
    VALUE,
    closed_vocabulary,
)
from membench.learning.tasks import (
    AnyTask,
    Arithmetic,
    Copy,
    Facts,
    InContextRecall,
    LongForm,
    QAFiles,
    Text,
    TwoHop,
)
from membench.learning.tokenizer import vocab_size_of

BYTES = 256
QA_MARKS = 2  # after a question, after an answer
SIGNS = 12  # ten digits, plus, equals


@dataclass(frozen=True, slots=True)
class Extent:
    """V, tokens that there are, and T, the longest sequence that a step is trained on."""

    vocab_size: int
    length: int


def extent_of(task: AnyTask) -> Extent:
    """The extent of a task's data.

    Raises:
        UsageError: a tokenizer's file cannot be read.
    """
    match task:
        case Facts(form="bare"):
            return Extent(_names(task) + task.value_symbols, task.name_tokens + task.value_tokens - 1)
        case Facts():
            length = longest([*TRAINED[: task.phrasings], *ASKED], task.name_tokens, task.value_tokens)
            return Extent(len(closed_vocabulary()) + _names(task) + task.value_symbols, length - 1)
        case TwoHop():
            return Extent(1 + task.relations + task.entities, 3)
        case Arithmetic():
            return Extent(SIGNS, 3 * task.digits + 2)
        case InContextRecall():
            return Extent(1 + task.symbols, task.length - 1)
        case Copy():
            return Extent(1 + task.symbols, 2 * task.length)
        case LongForm():
            length = task.name_tokens + task.attributes * longest(OF_A_LIFE[: task.phrasings], 0, 1)
            return Extent(len(closed_vocabulary()) + task.value_pool + _names(task) + 1, length)
        case Text():
            return Extent(task.vocab_size or _tokens(task), task.length)
        case QAFiles():
            return Extent(_tokens(task) + QA_MARKS, task.length - 1)


def longest(phrasings: list[list[str]], name_tokens: int, value_tokens: int) -> int:
    """The tokens of the longest phrasing, filled in; a name has a slot in it or none, a value always."""
    tokens = {NAME: name_tokens, VALUE: value_tokens}
    return max(sum(tokens.get(word, 1) for word in phrasing) for phrasing in phrasings)


def _names(task: Facts | LongForm) -> int:
    """Symbols of names: an alphabet for each place."""
    return task.name_tokens * task.name_symbols


def _tokens(task: Text | QAFiles) -> int:
    return BYTES if task.tokenizer is None else vocab_size_of(task.tokenizer)
