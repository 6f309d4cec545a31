"""A text as one row of tokens, of which the end is kept from training."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from membench.errors import UsageError
from membench.learning.extent import extent_of
from membench.learning.tasks import Text
from membench.training.data_files.documents import PYTHON_TEXT, documents_of
from membench.training.data_files.token_file import token_file
from membench.training.data_files.tokenizers import Tokens, tokens_by
from membench.words import how_many

_PART_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Corpus:
    """``tokens`` of all files, and the tokenizer that they are ``by``, None where it is unknown. Those from ``cut`` on
    are asked; ``asked_bytes`` of UTF-8 text a token these have on average, None where that is unknown.
    ``description`` says what was read."""

    tokens: NDArray[Any]
    by: Tokens | None
    cut: int
    asked_bytes: float | None
    description: dict[str, Any]


def read_corpus(config: Text) -> Corpus:
    """What the task reads.

    Raises:
        UsageError: a file cannot be read, or there is too little text for a sequence to train and one to ask.
    """
    found = _of_tokens(config) if config.of_tokens else _of_text(config)
    needed = config.length + 1
    if min(found.cut, len(found.tokens) - found.cut) < needed:
        problem = (
            f"is too short with {how_many(len(found.tokens), 'token')}: asked_share {config.asked_share:g} should "
            f"leave {needed} and more (length + 1) to train and to ask"
        )
        raise UsageError(problem, source=", ".join(config.files) or PYTHON_TEXT)
    return found


def _cut(tokens: int, asked_share: float) -> int:
    return tokens - round(tokens * asked_share)


def _of_text(config: Text) -> Corpus:
    """Text in parts, so that only tokens are held. A token never spans two parts, each of some 8 KiB, and a part's
    bytes are taken to be spread evenly over its tokens."""
    by = tokens_by(config.tokenizer)
    dtype = np.min_scalar_type(by.vocab_size - 1)
    parts, ends, digest = [], [(0, 0)], hashlib.sha256()
    for part in documents_of(config.files, config.column):
        parts.append(by.encoded(part).astype(dtype))
        raw = part.encode(errors="replace")
        digest.update(raw)
        ends.append((ends[-1][0] + len(parts[-1]), ends[-1][1] + len(raw)))
    tokens = np.concatenate(parts)
    cut = _cut(len(tokens), config.asked_share)
    token_ends, byte_ends = np.array(ends, np.float64).T
    asked = byte_ends[-1] - np.interp(cut, token_ends, byte_ends)
    description = {
        "files": list(config.files) or [PYTHON_TEXT],
        "tokenizer": by.description,
        "tokens": len(tokens),
        "bytes": ends[-1][1],
        "sha256": digest.hexdigest(),
    }
    return Corpus(tokens, by, cut, float(asked / max(1, len(tokens) - cut)), description)


def _of_tokens(config: Text) -> Corpus:
    """Files of tokens. One stays on the disk; several are joined in memory."""
    by = None if config.tokenizer is None else tokens_by(config.tokenizer)
    vocab_size = extent_of(config).vocab_size
    files = [token_file(path, config.bin_dtype, vocab_size) for path in config.files]
    tokens = files[0] if len(files) == 1 else np.concatenate(files)
    digest = hashlib.sha256()
    for first in range(0, len(tokens), _PART_BYTES):
        digest.update(tokens[first : first + _PART_BYTES].tobytes())
    description = {
        "files": list(config.files),
        "tokenizer": None if by is None else by.description,
        "tokens": len(tokens),
        "bytes": tokens.nbytes,
        "sha256": digest.hexdigest(),
    }
    return Corpus(tokens, by, _cut(len(tokens), config.asked_share), None, description)
