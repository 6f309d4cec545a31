"""Files of tokens (.bin): whole numbers of two or four bytes, one after the other, the lowest byte first."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from membench.errors import UsageError
from membench.training.data_files.lines import opened
from membench.words import how_many

_PART = 2**22


def token_file(path: str, dtype: str, vocab_size: int) -> NDArray[np.unsignedinteger]:
    """The tokens of a file, which stay on the disk until they are looked at.

    Raises:
        UsageError: it cannot be read, ends within a token, or has one past the vocabulary.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    with opened(path):
        size = Path(path).stat().st_size
        if size % kind.itemsize:
            problem = (
                f"has {size} bytes, and each token of {dtype} {kind.itemsize}: no whole number; is bin_dtype right?"
            )
            raise UsageError(problem, source=path)
        tokens = np.memmap(path, kind, mode="r")
    for first in range(0, len(tokens), _PART):
        past = np.flatnonzero(tokens[first : first + _PART] >= vocab_size)
        if len(past):
            place = first + int(past[0])
            known = how_many(vocab_size, "token")
            problem = f"is past the vocabulary of {known}; are bin_dtype ({dtype}) and the vocabulary right?"
            raise UsageError(problem, key=f"token {tokens[place]} at place {place}", source=path)
    return tokens
