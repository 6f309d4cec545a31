"""What stands in for the other ranks where one rank's share of a layer is computed alone.

Letters: P ranks, B tokens of this one, H heads, k rows a head reads, K experts a token uses, E experts, d model dim.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RemoteLookups:
    """What the other P-1 ranks would send a column shard of a table.

    indices, weights ((P-1)·B, H, k); for peer also ``columns`` ((P-1)·B, d/P), their tokens'
    columns, and ``products`` (P·B, H, k), the other columns' share of every u·x.
    """

    indices: Tensor
    weights: Tensor
    columns: Tensor | None = None
    products: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RemoteAssignments:
    """How many tokens each expert of this rank receives, from all ranks: (ceil(E/P),) int64.

    The received rows, sorted by expert, stand in for other ranks' tokens: row i is a copy of
    this rank's token i mod B, and token t gets rows t, B + t, …, (K-1)·B + t back, weighed by
    its first to K-th weight. So the K results of a token come from K different experts, unless
    one expert gets more than B rows. The most loaded rank receives at least B·K rows.
    """

    counts: Tensor


Remote = RemoteLookups | RemoteAssignments
