"""The choice of rows as the beginning of one C++ call: what memory layers and PEER give it.

Letters: B tokens, d model dim, H heads, dk key dim, c = dk/2, n sub-keys a half, k rows a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_dtypes, check_integers, check_shape
from membench.layers.kernels.few_tokens import most_tokens

MOST_TOKENS = most_tokens(4, 64)  # of more, scores are products by tiles
SCHEMA = (
    "Tensor x, Tensor? block_scale, float block_eps, Tensor query, Tensor keys, Tensor? norm_weight, Tensor? norm_bias,"
    " Tensor? query_scale, Tensor? key_scale, int top_k, float eps, Tensor? chosen"
)


@dataclass(frozen=True, slots=True)
class Retrieving:
    """Tokens, and how they choose.

    Attributes:
        x: (B, d).
        query, keys: (H·dk, d) and (H, 2, n, c).
        norm: (dk,) weight and bias of a layer norm of each head's query, if there is one.
        scales: (dk,) of the RMS norms of the halves of queries, and of keys, if there are any.
        top_k: k.
        eps: of these norms.
        block: (d,) scale and eps of a block's norm: then x + layer(norm(x)) is computed, and else layer(x).
        chosen: (B, H, k) rows that are read instead of those chosen, or None.
    """

    x: Tensor
    query: Tensor
    keys: Tensor
    norm: tuple[Tensor, Tensor] | None
    scales: tuple[Tensor, Tensor] | None
    top_k: int
    eps: float
    block: tuple[Tensor, float] | None
    chosen: Tensor | None

    def check(self) -> None:
        """Raises ValueError if shapes or dtypes do not fit, or there are fewer than k sub-keys."""
        heads, _, sub_keys, columns = self.keys.shape if self.keys.ndim == 4 else (None,) * 4
        check_shape("keys", self.keys, (heads, 2, sub_keys, columns), "(H, 2, n, c)")
        assert heads is not None and sub_keys is not None and columns is not None
        check_shape("query", self.query, (2 * heads * columns, None), "(H·dk, d)")
        model_dim = self.query.shape[1]
        check_shape("x", self.x, (None, model_dim), "(B, d)")
        for name, pair in (("norm", self.norm), ("scales", self.scales)):
            for each in pair or ():
                check_shape(name, each, (2 * columns,), "(dk,)")
                check_dtypes(self.x.dtype, **{name: each})
        check_dtypes(self.x.dtype, query=self.query, keys=self.keys)
        if self.block is not None:
            check_shape("block", self.block[0], (model_dim,), "(d,)")
            check_dtypes(self.x.dtype, block=self.block[0])
        if not 0 < self.top_k <= sub_keys:
            raise ValueError(f"top_k should be 1 to {sub_keys}, the sub-keys of a half, not {self.top_k}")
        if self.chosen is not None:
            check_shape("chosen", self.chosen, (len(self.x), heads, self.top_k), "(B, H, k)")
            check_integers("chosen", self.chosen)

    def operands(self) -> tuple[object, ...]:
        """In the order of ``SCHEMA``."""
        scale, block_eps = self.block or (None, 0.0)
        norms = *(self.norm or (None, None)), *(self.scales or (None, None))
        return self.x, scale, block_eps, self.query, self.keys, *norms, self.top_k, self.eps, self.chosen


def flops(x: torch.Size, query: torch.Size, keys: torch.Size) -> int:
    """Of the products of all tokens, by shapes."""
    heads, _, sub_keys, columns = keys
    return 2 * x[0] * (x[1] * query[0] + 2 * heads * sub_keys * columns)
