"""Text as tokens: its bytes, or what a tokenizer of Hugging Face makes of it."""

import hashlib
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from membench.learning.extent import BYTES
from membench.learning.tokenizer import read_tokenizer, vocab_of


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

    vocab_size, description = BYTES, "bytes"

    def encoded(self, text: str) -> NDArray[np.uint32]:
        # JSON may have half a surrogate pair, which UTF-8 has not
        return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.uint32)

    def decoded(self, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class HuggingFace(Tokens):
    """A ``tokenizer.json``, without the tokens that it would add to a text."""

    def __init__(self, path: str) -> None:
        self._tokenizer, text = read_tokenizer(path)
        self.vocab_size = vocab_of(self._tokenizer)
        self.description = f"{path}, sha256 {hashlib.sha256(text.encode()).hexdigest()}"

    def encoded(self, text: str) -> NDArray[np.uint32]:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens)


def tokens_by(path: str | None) -> Tokens:
    """Of a tokenizer's file, or bytes.

    Raises:
        UsageError: as ``read_tokenizer``.
    """
    return Bytes() if path is None else HuggingFace(path)
