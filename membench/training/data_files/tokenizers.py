"""Text as tokens: its bytes, or what a tokenizer of Hugging Face makes of it."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membench.errors import UsageError, reason_of
from membench.files import read_file

_MAX_BYTES = 2**28


class Tokens(ABC):
    """How text becomes tokens below ``vocab_size``, and back. ``description`` says by what."""

    vocab_size: int
    description: str

    @abstractmethod
    def encoded(self, text: str) -> NDArray[np.uint32]: ...

    @abstractmethod
    def decoded(self, tokens: list[int]) -> str:
        """Text of tokens, also of those that no text has."""


class Bytes(Tokens):
    """The bytes of UTF-8, each a token."""

    vocab_size, description = 256, "bytes"

    def encoded(self, text: str) -> NDArray[np.uint32]:
        # JSON may have half a surrogate pair, which UTF-8 has not
        return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.uint32)

    def decoded(self, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class HuggingFace(Tokens):
    """A ``tokenizer.json``. It cuts and fills up nothing, and adds no tokens of its own to a text.

    Raises:
        UsageError: the package ``tokenizers`` is not installed, or the file is none of its files.
    """

    def __init__(self, path: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            problem = f"is read by the package tokenizers, which cannot be imported ({error}): pip install tokenizers"
            raise UsageError(problem, source=path) from None
        text = read_file(path, _MAX_BYTES, "a tokenizer.json of Hugging Face")
        try:
            self._tokenizer: Any = Tokenizer.from_str(text)
        except Exception as error:  # the package raises Exception itself
            raise UsageError(f"is no tokenizer.json of Hugging Face: {reason_of(error)}", source=path) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if not self.vocab_size:
            raise UsageError("has no token", source=path)
        self.description = f"{path}, sha256 {hashlib.sha256(text.encode()).hexdigest()}"

    def encoded(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens)


def tokens_by(path: str | None) -> Tokens:
    """Of a tokenizer's file, or bytes.

    Raises:
        UsageError: as ``HuggingFace``.
    """
    return Bytes() if path is None else HuggingFace(path)
