"""Lookups of which each token has another number, as row shards get them.

Letters: B tokens of this rank, M tokens, L lookups a token, n lookups of all M, R row shards, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """rows and weights (n,), token after token; counts (M,) of each token's."""

    rows: Tensor
    weights: Tensor
    counts: Tensor

    def padded(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and weights (M, most), of the tokens in another ``order`` (M,), those with fewer filled up.

        They are filled with a row that is read anyway, of weight 0: another one would get a gradient of zeros, by which
        an optimizer's moments would move it.
        """
        starts = (self.counts.cumsum(0) - self.counts)[order, None]
        counts = self.counts[order, None]
        places = torch.arange(int(counts.max()) if len(counts) else 0, device=counts.device)
        real = places < counts
        at = torch.where(real, starts + places, 0)
        return self.rows[at], self.weights[at] * real


def by_owner(rows: Tensor, bounds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """How lookups, rows (B, L), are sorted by the shard that has them.

    Args:
        bounds: shard r has the rows from bounds[r] up to bounds[r + 1].

    Returns:
        order (B·L,) of the lookups, those of a shard in the order of the tokens; counts (R, B) of each token's; and
        rows (B, L) by their numbers in their shards.
    """
    inner = torch.tensor(bounds[1:-1], device=rows.device, dtype=rows.dtype)
    owner = torch.bucketize(rows, inner, right=True)
    shards = torch.arange(len(bounds) - 1, device=rows.device)
    counts = (owner == shards[:, None, None]).sum(-1)
    firsts = torch.tensor(bounds[:-1], device=rows.device, dtype=rows.dtype)
    return owner.flatten().argsort(stable=True), counts, rows - firsts[owner]


def blocks_in_turn(sizes: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(M,) where the tokens of blocks lie that came column by column, of sizes[row][column], taken row by row."""
    columns = list(zip(*sizes, strict=True))
    blocks = torch.arange(sum(map(sum, sizes)), device=device).split([size for column in columns for size in column])
    rows = len(sizes)
    return torch.cat([blocks[column * rows + row] for row in range(rows) for column in range(len(columns))])
