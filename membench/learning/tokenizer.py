"""A tokenizer of Hugging Face, out of its ``tokenizer.json``."""

from functools import lru_cache
from typing import TYPE_CHECKING

from membench.errors import UsageError, reason_of
from membench.files import read_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_BYTES = 2**28


def read_tokenizer(path: str) -> tuple["Tokenizer", str]:
    """A tokenizer that cuts and fills up nothing, and the text of its file.

    Raises:
        UsageError: the package ``tokenizers`` is not installed, or the file is none of its files.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        problem = f"is read by the package tokenizers, which cannot be imported ({error}): pip install tokenizers"
        raise UsageError(problem, source=path) from None
    text = read_file(path, _MAX_BYTES, "a tokenizer.json of Hugging Face")
    try:
        found = Tokenizer.from_str(text)
    except Exception as error:  # the package raises Exception itself
        raise UsageError(f"is no tokenizer.json of Hugging Face: {reason_of(error)}", source=path) from None
    if not found.get_vocab(with_added_tokens=True):
        raise UsageError("is a tokenizer without a token", source=path)
    found.no_truncation()
    found.no_padding()
    return found, text


def vocab_of(tokenizer: "Tokenizer") -> int:
    """One more than its highest token: there may be gaps below."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


@lru_cache(maxsize=8)
def vocab_size_of(path: str) -> int:
    """The tokens that a tokenizer's file has, for a plan that reads nothing else.

    Raises:
        UsageError: as ``read_tokenizer``.
    """
    return vocab_of(read_tokenizer(path)[0])
