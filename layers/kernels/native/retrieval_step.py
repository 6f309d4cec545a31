"""The beginning of a C++ call for few tokens: ``Tokens`` and ``Retrieval`` of ``retrieving.h``, packed.

Letters: B tokens, d model dim, H heads, dk key dim, n sub-keys a half, k rows a head.
"""

import struct

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import check_rows

STAGES = ("query", "scores", "top_k")
FORM = "3q2qd6qd11q"  # ``Tokens`` and ``Retrieval``, which ctypes would convert one by one


class Packed:
    """Numbers and addresses for a call.

    Attributes:
        y: (B, d), the result.
        kept: the tensors that have to live until the call is done.
    """

    def __init__(
        self,
        x: Tensor,
        block_scale: Tensor | None,
        block_eps: float,
        query: Tensor,
        keys: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        query_scale: Tensor | None,
        key_scale: Tensor | None,
        top_k: int,
        eps: float,
        chosen: Tensor | None,
    ) -> None:
        """Shapes: ``layers.kernels.retrieval_step``."""
        (tokens, model_dim), (heads, _, sub_keys, columns) = x.shape, keys.shape
        self.y = x.new_empty(tokens, model_dim)
        read, of_half = tokens * heads * top_k, 2 * heads * sub_keys
        floats = tokens * of_half + (0 if query_scale is None else of_half) + read + 2 * tokens * heads * columns
        places = torch.empty(2 * read, dtype=torch.int32)
        between = torch.empty(floats, dtype=torch.float32)
        self.kept = [places, between, self.y]
        scores = between.data_ptr()
        inverse_rms = scores + 4 * tokens * of_half
        weights = inverse_rms + (0 if query_scale is None else 4 * of_half)
        projected = weights + 4 * read
        given = self.addresses(x, block_scale)
        norms = self.addresses(query, keys, norm_weight, norm_bias, query_scale, key_scale)
        self.numbers = (
            *(*given, self.y.data_ptr(), tokens, model_dim, block_eps),
            *(tokens, model_dim, heads, 2 * columns, sub_keys, top_k, eps),
            *(*norms, projected, scores, inverse_rms, places.data_ptr(), weights),
        )
        self.chosen = None if chosen is None else chosen.long()

    def addresses(self, *tensors: Tensor | None) -> list[int]:
        """Of their elements, one after the other; 0 for None."""
        found = [each if each is None or each.is_contiguous() else each.contiguous() for each in tensors]
        self.kept += [each for each in found if each is not None]
        return [0 if each is None else each.data_ptr() for each in found]

    def checked_choice(self, num_rows: int) -> int:
        """The address of the rows that were given, or 0.

        Raises:
            IndexError: the table has no such row.
        """
        if self.chosen is None:
            return 0
        check_rows(self.chosen, num_rows)
        return self.addresses(self.chosen)[0]


def form(rest: str) -> struct.Struct:
    """Of the arguments of a call that begins so."""
    return struct.Struct(FORM + rest)
