"""An order of 0 … count - 1 as a function of a key: each place is computed by itself, and nothing is held.

A Feistel network over the least power of two that holds the count, walked until it is within the count (cycle
walking: Black and Rogaway, CT-RSA 2002). A million facts are shuffled anew in every epoch without a list of them.
"""

import numpy as np

from membench.training.tasks.drawing import Hashes, Integers, mixed

MAX_COUNT = 2**62
# Four rounds do for large halves; with fewer than twelve an order of five is seen to be uneven.
_ROUNDS, _ROUNDS_OF_FEW, _FEW_BITS = 6, 12, 12
_ROUND_STEP = 0xD1B54A32D192ED03  # odd, so that the rounds' keys differ


def permuted(key: int | Hashes, places: Integers, count: int) -> Integers:
    """The numbers at ``places`` of the order that a key has of 0 … count - 1.

    Args:
        key: one, or one for each place (of orders of their own).
        places: in 0 … count - 1; any shape.
        count: at most 2^62.
    """
    found = np.array(places, np.uint64)
    keys = np.broadcast_to(np.asarray(key, np.uint64), found.shape)
    bits = max(count - 1, 0).bit_length()
    outside = np.ones(found.shape, bool)
    while outside.any():
        found[outside] = _network(keys[outside], found[outside], bits)
        outside = found >= count
    return found.astype(np.int64)


def _network(keys: Hashes, values: Hashes, bits: int) -> Hashes:
    """A bijection of the numbers of so many bits. Its halves take turns, so that they may differ in width."""
    low_bits = np.uint64((bits + 1) // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits // 2)) - np.uint64(1)
    high, low = values >> low_bits, values & low_mask
    for number in range(_ROUNDS if bits > _FEW_BITS else _ROUNDS_OF_FEW):
        round_keys = keys + np.uint64((number + 1) * _ROUND_STEP % 2**64)
        if number % 2:
            high = high ^ (mixed(low ^ round_keys) & high_mask)
        else:
            low = low ^ (mixed(high ^ round_keys) & low_mask)
    return (high << low_bits) | low
