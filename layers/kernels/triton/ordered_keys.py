"""Integers that order as scores do, so that a selection is exact, ties included: a score's bits, below them its place.

NaN is the largest, so that it is chosen and shows.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (Triton compiles the kernels itself; its annotations are not meant for a type checker.)

import triton
import triton.language as tl

NO_KEY = tl.constexpr(-(2**63))
"""Below the key of every score."""
_LAST_PLACE = tl.constexpr(2**31 - 1)
_NAN = tl.constexpr(2**31 - 1)


@triton.jit
def order_of(scores: tl.tensor) -> tl.tensor:
    """32-bit integers that order as the scores do; -0.0 is 0.0, NaN the largest."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    return ordered(tl.where(scores == scores, bits, _NAN), 31)


@triton.jit
def keys_of(order: tl.tensor, places: tl.tensor) -> tl.tensor:
    """64-bit integers that order as the scores of this ``order_of`` do, equal ones by the lower place."""
    return (order.to(tl.int64) << 32) | (places ^ _LAST_PLACE)


@triton.jit
def places_of(keys: tl.tensor) -> tl.tensor:
    return (keys & _LAST_PLACE) ^ _LAST_PLACE


@triton.jit
def scores_of(keys: tl.tensor) -> tl.tensor:
    return ordered((keys >> 32).to(tl.int32), 31).to(tl.float32, bitcast=True)


@triton.jit
def ordered(bits: tl.tensor, SIGN: tl.constexpr) -> tl.tensor:
    """Integers that order as the floats of these bits, and back: of negative floats the larger bits are the smaller."""
    return bits ^ ((bits >> SIGN) & ((1 << SIGN) - 1))
