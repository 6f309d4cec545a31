"""The best k of lists of 64-bit keys, by bitonic networks.

A list of 2^r keys is a hypercube: bit b of a key's place is dimension r - b (dimension 0 counts the lists),
and a step of a network compares along one dimension. Of two runs of k, one ascending and one descending,
the larger key at each place is among the best k of both, and these form a bitonic run again (A. Shanbhag,
H. Pirk, S. Madden, "Efficient Top-K Query Processing on GPUs", SIGMOD 2018).

``tl.topk`` does the same, but its exchanges are reductions by xor, which Triton's interpreter computes
an element at a time. Here a key's partner is the pair's sum less the key, which wraps around and back.

Letters: R lists, G keys, k wanted, all powers of two.
"""
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportReturnType=false
# (Triton compiles the kernels itself; its annotations are not meant for a type checker.)

import triton
import triton.language as tl


@triton.constexpr_function
def log2(size: int) -> int:
    return size.bit_length() - 1


@triton.constexpr_function
def _cubes(count: int, size: int) -> list[int]:
    """The shape of so many hypercubes; dimension 0, which counts them, is all that is left of single keys."""
    return [count] + [2] * log2(size)


@triton.constexpr_function
def _cube(size: int) -> list[int]:
    """The hypercube's shape; dimension 0 has one element."""
    return [1] + [2] * log2(size)


@triton.jit
def _second(AXIS: tl.constexpr, RANK: tl.constexpr) -> tl.tensor:
    """Whether a key is the second of its pair along a dimension."""
    return tl.reshape(tl.arange(0, 2), [1] * AXIS + [2] + [1] * (RANK - AXIS - 1)) == 1


@triton.jit
def _partner(cube: tl.tensor, AXIS: tl.constexpr) -> tl.tensor:
    """The other of each pair along a dimension."""
    return tl.sum(cube, AXIS, keep_dims=True) - cube


@triton.jit
def _merge(cube: tl.tensor, descending: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Sorts every bitonic run of 2^BITS."""
    RANK: tl.constexpr = len(cube.shape)
    for step in tl.static_range(BITS):
        partner = _partner(cube, RANK - BITS + step)
        takes_smaller = _second(RANK - BITS + step, RANK) == descending
        cube = tl.where((cube > partner) == takes_smaller, partner, cube)
    return cube


@triton.jit
def _merge_in_turns(cube: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """The same, every other run descending: two neighbours form a bitonic run."""
    RANK: tl.constexpr = len(cube.shape)
    return _merge(cube, _second(RANK - 1 - BITS, RANK), BITS)


@triton.jit
def top(keys: tl.tensor, K: tl.constexpr, DESCENDING: tl.constexpr) -> tl.tensor:
    """(k,): the k largest of keys (G,), int64, k <= G, in order."""
    return tl.reshape(top_of_rows(tl.reshape(keys, [1, keys.numel]), K, DESCENDING), [K])


@triton.jit
def top_of_rows(keys: tl.tensor, K: tl.constexpr, DESCENDING: tl.constexpr) -> tl.tensor:
    """(R, k): the k largest of each list of keys (R, G), int64, k <= G, in order."""
    BITS: tl.constexpr = log2(K)
    cube = tl.reshape(keys, _cubes(keys.shape[0], keys.shape[1]))
    for bits in tl.static_range(1, BITS):
        cube = _merge_in_turns(cube, bits)
    for _ in tl.static_range(log2(keys.shape[1]) - BITS):
        cube = _merge_in_turns(cube, BITS)
        cube = tl.max(cube, len(cube.shape) - 1 - BITS)
    return tl.reshape(_merge(cube, DESCENDING, BITS), [keys.shape[0], K])


@triton.jit
def kth_largest(values: tl.tensor, K: tl.constexpr) -> tl.tensor:
    """The k-th largest of values (G,), integers, k <= G. Values change places, and nothing goes with them."""
    BITS: tl.constexpr = log2(K)
    cube = tl.reshape(values, _cube(values.numel))
    for bits in tl.static_range(1, BITS):
        cube = _merge_in_turns(cube, bits)
    for _ in tl.static_range(log2(values.numel) - BITS):
        cube = _merge_in_turns(cube, BITS)
        cube = tl.max(cube, len(cube.shape) - 1 - BITS)
    return tl.min(tl.reshape(cube, [K]), 0)


@triton.jit
def join(descending: tl.tensor, ascending: tl.tensor) -> tl.tensor:
    """(k,): the k largest of two sorted lists (k,) each, largest first."""
    K: tl.constexpr = descending.numel
    cube = tl.reshape(tl.maximum(descending, ascending), _cube(K))
    return tl.reshape(_merge(cube, True, log2(K)), [K])


@triton.jit
def sort_pairs(keys: tl.tensor, ties: tl.tensor) -> tl.tensor:
    """Both (G,) integers, sorted by key, largest first, and equal keys by the lower tie."""
    SIZE: tl.constexpr = keys.numel
    BITS: tl.constexpr = log2(SIZE)
    keys, ties = tl.reshape(keys, _cube(SIZE)), tl.reshape(ties, _cube(SIZE))
    for bits in tl.static_range(1, BITS + 1):
        descending = _second(BITS - bits, BITS + 1) if bits < BITS else True
        for step in tl.static_range(bits):
            other_keys, other_ties = _partner(keys, BITS + 1 - bits + step), _partner(ties, BITS + 1 - bits + step)
            precedes = (keys > other_keys) | ((keys == other_keys) & (ties < other_ties))
            swap = precedes == (_second(BITS + 1 - bits + step, BITS + 1) == descending)
            keys, ties = tl.where(swap, other_keys, keys), tl.where(swap, other_ties, ties)
    return tl.reshape(keys, [SIZE]), tl.reshape(ties, [SIZE])
