"""How large a task's data is: what a model has to know of it before any is made, from the config alone."""

import json
from dataclasses import dataclass

from membench.errors import UsageError
from membench.files import read_file
from membench.learning.phrasings import ASKED, NAME, OF_A_LIFE, TRAINED, VALUE, closed_vocabulary
from membench.learning.tasks import AnyTask, Arithmetic, Copy, Facts, InContextRecall, LongForm, QAFiles, Text, TwoHop

_BYTES = 256
_MAX_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Extent:
    """V, the tokens that there are, and T, the longest sequence that a loss can be of."""

    vocab_size: int
    length: int


def extent_of(task: AnyTask) -> Extent:
    """The extent of a task's data, as ``membench.training.tasks`` makes it.

    Raises:
        UsageError: a tokenizer's file does not say its tokens.
    """
    match task:
        case Facts(form="bare"):
            return Extent(
                task.value_symbols + task.name_tokens * task.name_symbols, task.name_tokens + task.value_tokens - 1
            )
        case Facts():
            said = [*TRAINED[: task.phrasings], *ASKED]
            words = len(closed_vocabulary()) + task.value_symbols + task.name_tokens * task.name_symbols
            return Extent(words, _longest(said, task.name_tokens, task.value_tokens) - 1)
        case LongForm():
            words = len(closed_vocabulary()) + task.value_pool + task.name_tokens * task.name_symbols
            sentence = _longest(OF_A_LIFE[: task.phrasings], 0, 1)
            return Extent(words + 1, task.name_tokens + task.attributes * sentence)
        case TwoHop():
            return Extent(1 + task.relations + task.entities, 3)
        case Arithmetic():
            return Extent(12, 3 * task.digits + 2)
        case InContextRecall():
            return Extent(1 + task.symbols, task.length - 1)
        case Copy():
            return Extent(1 + task.symbols, 2 * task.length)
        case Text():
            return Extent(task.vocab_size or _tokens_of(task.tokenizer), task.length)
        case QAFiles():
            return Extent(_tokens_of(task.tokenizer) + 2, task.length - 1)


def _longest(phrasings: list[list[str]], name_tokens: int, value_tokens: int) -> int:
    """Tokens of the longest sentence."""
    slots = {NAME: name_tokens, VALUE: value_tokens}
    return max(sum(slots.get(word, 1) for word in phrasing) for phrasing in phrasings)


def _tokens_of(tokenizer: str | None) -> int:
    """The tokens of a tokenizer.json, which is read as the JSON that it is; without one, bytes."""
    if tokenizer is None:
        return _BYTES
    try:
        content = json.loads(read_file(tokenizer, _MAX_BYTES, "a tokenizer.json of Hugging Face"))
        vocabulary, added = content["model"]["vocab"], content.get("added_tokens") or []
        ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))]
        return 1 + max([*ids, *(each["id"] for each in added)])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("is no tokenizer.json of Hugging Face: model.vocab is missing", source=tokenizer) from None
