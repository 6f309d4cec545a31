"""Counts and dtypes as people write them: ``16M`` keys, ``352.3M`` FLOPs, ``bfloat16``.

Suffixes of a key count are binary, as in the paper ("1M" values = 1024²); suffixes of
parameters, FLOPs and bytes are decimal.
"""

import math
import re
from typing import Literal

DTypeName = Literal["float32", "bfloat16", "float16"]
RowFormat = Literal["same", "int8", "float8_e4m3fn"]
ITEM_BYTES: dict[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

MAX_NUM_KEYS = 2**40
_MAX_DIGITS = 20
INDEX_BYTES = 4  # of a number that int32 holds
MAX_INT32 = 2**31 - 1
COUNT_BYTES = 4  # of how many lookups of a token, or tokens of an expert, a rank gets
SIZE_BYTES = 8  # of how many tokens, lookups or rows come from a rank, int64
SCALE_BYTES = 4  # fp32, one of each row in eight bits
SCORE_BYTES = 4  # scores, softmax weights and their gradients stay in fp32 on every path

_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]?)\s*$")


def index_bytes(count: int) -> int:
    """Of the number of one of ``count`` rows: int32, or int64 where there are too many."""
    return INDEX_BYTES if count <= MAX_INT32 else 2 * INDEX_BYTES


def _scaled(text: str, factors: dict[str, int], what: str) -> float:
    match = _NUMBER.match(text)
    suffix = match.group(2).upper() if match else ""
    if match is None or suffix not in factors:
        known = ", ".join(s for s in factors if s)
        raise ValueError(f"{text!r} is no {what}: write a number, or one with a suffix {known}")
    value = float(match.group(1)) * factors[suffix]
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no {what}: it must be finite")
    return value


def parse_quantity(value: object) -> float:
    """A count of parameters, FLOPs or bytes; decimal suffixes K M B/G T."""
    if isinstance(value, str):
        return _scaled(value, _DECIMAL, "quantity")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no quantity: write a number such as 352.3M")
    return float(value)


def parse_num_keys(value: object) -> int:
    """A key count N = n²; binary suffixes K M G, or ``4096^2``.

    Raises:
        ValueError: N is no square (the message names the nearest squares), is not
            positive, or exceeds 2^40.
    """
    if isinstance(value, str):
        square = re.match(r"^\s*0*([0-9]+)\s*(?:\^2|²)\s*$", value)
        root_digits = square.group(1)[:_MAX_DIGITS] if square else ""  # cut digits leave it far above 2^40
        number = float(int(root_digits) ** 2) if square else _scaled(value, _BINARY, "key count")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no key count: write a number such as 16M or 4096^2")
    else:
        number = float(value)
    if not math.isfinite(number) or number != int(number) or number < 1:
        raise ValueError(f"{value!r} keys: a key count is a positive whole number")
    count = int(value) if isinstance(value, int) else int(number)
    if count > MAX_NUM_KEYS:
        raise ValueError(f"{value!r} keys: at most 2^40 keys (sub_keys 1048576) are supported")
    root = math.isqrt(count)
    if root * root != count:
        low, high = root * root, (root + 1) ** 2
        raise ValueError(
            f"{value!r} keys is no square: N = sub_keys², the nearest are {root}² = {low} and {root + 1}² = {high}"
        )
    return count


def format_num_keys(count: float, digits: int = 3) -> str:
    """A key count with a binary suffix, as in ``1M``."""
    for factor, suffix in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if count >= factor:
            return f"{count / factor:.{digits}g}{suffix}"
    return f"{count:g}"


def format_quantity(value: float | None, digits: int = 3) -> str:
    """A decimal K M B T rendering, as parameters and FLOPs are printed; ``-`` for unknown."""
    if value is None:
        return "-"
    rounded = float(f"{value:.{digits}g}")  # first, so that 999.9M becomes 1B
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:.{digits}g}{suffix}"
    return f"{rounded:.{digits}g}"
