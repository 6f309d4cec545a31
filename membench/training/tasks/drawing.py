"""Random numbers as a function of a key and a number, and of nothing else: no state, no order, no batch size.

A number is hashed by SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014): whole-number arithmetic, so that
every machine and every version of numpy draws the same.
"""

import hashlib
import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
_FRACTION_SHIFT = np.uint64(11)  # 53 bits are left, which a float holds exactly


@lru_cache(maxsize=256)
def key_of(*parts: int | str) -> int:
    """A key of 64 bits of whatever tells a stream of numbers from all others: the seed, and a word for its use."""
    content = json.dumps(parts).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def mixed(values: Hashes) -> Hashes:
    """The finalizer: a bijection of 64 bits in which every bit of the result depends on every bit of the value."""
    for shift, factor in _MIX:
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> _LAST_SHIFT)


def hashes(key: int | Hashes, numbers: Integers) -> Hashes:
    """Of every number its 64 bits under a key; keys, where they are several, are broadcast with the numbers."""
    return mixed(np.asarray(key, np.uint64) + (numbers.astype(np.uint64) + np.uint64(1)) * _STEP)


def fractions(key: int | Hashes, numbers: Integers) -> NDArray[np.float64]:
    """Of every number a fraction in [0, 1), even over the multiples of 2^-53."""
    return (hashes(key, numbers) >> _FRACTION_SHIFT).astype(np.float64) * 2.0**-53


def drawn(key: int | Hashes, numbers: Integers, below: int) -> Integers:
    """Of every number a whole one in 0 … below - 1, all equally likely to within ``below`` in 2^53."""
    found = (fractions(key, numbers) * below).astype(np.int64)
    return np.minimum(found, below - 1)  # the product may be rounded up to below
