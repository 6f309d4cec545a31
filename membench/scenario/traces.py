"""A trace: recorded indices of a routing, an ``.npy`` file. Looked at before anything is measured. Imports no torch.

Letters: T tokens, H heads, k rows a head, K experts a token.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from membench.case import RoutingConfig
from membench.errors import UsageError, shown_path
from membench.layers.spec import Spec

KEY = "workload.routing.trace"
_MAGIC = b"\x93NUMPY"
_WANTED = "numpy.save writes one array of integers as .npy"


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of a file of recorded indices, (T, …) in shape; ``lowest`` and ``highest`` of them."""

    path: str
    shape: tuple[int, ...]
    lowest: int
    highest: int
    sha256: str


def form_problem(path: str | Path) -> str | None:
    """Why a file is no ``.npy`` file by its first bytes; None if it is. Needs no numpy.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    if magic == _MAGIC:
        return None
    if not magic:
        return f"is empty; {_WANTED}"
    if magic.startswith(b"PK\x03\x04"):
        return f"is an archive of several arrays (.npz); {_WANTED}"
    if magic.startswith(b"\x80"):
        return f"is a pickle; {_WANTED}"
    return f"is not a readable .npy file; {_WANTED}"


def trace_for(spec: Spec, routing: RoutingConfig) -> Trace | None:
    """The trace that a layer will be routed by; None where it is not routed by one.

    Raises:
        UsageError: the file does not hold what this layer needs; it names both.
    """
    if routing.kind != "trace" or routing.trace is None:
        return None
    choice = spec.choice_of_token
    return None if choice is None else checked(routing.trace, choice.shape, choice.count)


def checked(path: str, a_token: tuple[int, ...], limit: int) -> Trace:
    """The trace in a file.

    Args:
        path: as the scenario gives it.
        a_token: what a token has: (H, k) rows or (K,) experts.
        limit: the indices lie below it.

    Raises:
        UsageError: it cannot be read or holds something else.
    """
    try:
        known = Path(path).stat()
        found = _look(path, known.st_mtime_ns, known.st_size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown_path(path)} {reason}", key=KEY) from None
    if found.shape[1:] != a_token:
        wanted, has = (" x ".join(map(str, shape)) for shape in (("T", *a_token), found.shape))
        raise UsageError(f"{shown_path(path)}: wants integers {wanted}, has {has}", key=KEY)
    if found.lowest < 0 or found.highest >= limit:
        outside = found.lowest if found.lowest < 0 else found.highest
        raise UsageError(f"{shown_path(path)}: indices must lie in 0 … {limit - 1}, not {outside}", key=KEY)
    return found


def read_rows(path: str, rows: Any) -> Any:
    """The recorded indices of tokens ``rows``, repeated when they run out: int64 (len(rows), …)."""
    import numpy as np

    recorded = np.load(path, mmap_mode="r", allow_pickle=False)
    return recorded[np.asarray(rows) % len(recorded)].astype(np.int64)


@lru_cache(maxsize=8)
def _look(path: str, changed_ns: int, size_bytes: int) -> Trace:
    """Read once, a part at a time, however many cases it routes; a ValueError says what is wrong."""
    del changed_ns
    import numpy as np

    if problem := form_problem(path):
        raise ValueError(problem)
    with Path(path).open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        except Exception:  # numpy parses the header as Python, and raises whatever that raises
            raise ValueError(f"is not a readable .npy file: its header is damaged; {_WANTED}") from None
        needed = stream.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"holds Python objects, which are not read; {_WANTED}")
    if dtype.kind not in "iu":
        raise ValueError(f"wants integers, has {dtype}; {_WANTED}")
    if size_bytes < needed:
        raise ValueError(f"is cut short: {size_bytes} of {needed} bytes")
    if not math.prod(shape):
        raise ValueError(f"holds no index: its shape is {' x '.join(map(str, shape)) or 'that of one number'}")
    recorded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not recorded.ndim:
        raise ValueError("wants integers T x …, has one number")
    with Path(path).open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return Trace(path, tuple(map(int, shape)), int(recorded.min()), int(recorded.max()), content)
