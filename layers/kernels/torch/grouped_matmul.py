"""Products of rows sorted by expert with their experts' matrices, by torch's own grouped product.

Letters: E experts, R rows, B tokens, m and n the widths of a matrix.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from membench.layers.kernels.paths import on_gpu

_MOST_EXPERTS = 1023  # of torch's kernel, which refuses 1024 groups


def is_one_launch(weight: Tensor) -> bool:
    """Whether torch multiplies all experts' matrices (E, n, m) at once: bf16 on Hopper or later, rows of 16 bytes.

    Elsewhere ``grouped_mm`` refuses, or is a loop for which the host waits for the row counts.
    """
    if not on_gpu(weight) or weight.dtype != torch.bfloat16 or len(weight) > _MOST_EXPERTS:
        return False
    aligned = weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0
    return aligned and torch.cuda.get_device_capability(weight.device) >= (9, 0)


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor, token: Tensor | None = None) -> Tensor:
    """(R, n): each row of x times the transpose of its expert's matrix of weight (E, n, m), which may be a view.

    Args:
        x: (R, m); or, with ``token`` (R,), tokens (B, m), of which row r is ``token[r]``.
        ends: (E,) int32: row r is expert e's if ends[e-1] <= r < ends[e]; the last is R.
    """
    return F.grouped_mm(_gathered(x, token), weight.mT, offs=ends)


def grouped_linear_gradients(
    y_gradient: Tensor,
    x: Tensor,
    ends: Tensor,
    y_token: Tensor | None = None,
    x_token: Tensor | None = None,
) -> Tensor:
    """(E, n, m): of each expert the transpose of its rows of y_gradient (R, n) times those of x (R, m).

    An expert without rows gets zeros. Both may be gathered, as x by ``grouped_linear``.
    """
    gradient = F.grouped_mm(_gathered(y_gradient, y_token).t(), _gathered(x, x_token), offs=ends)
    if torch.cuda.get_device_capability(x.device) >= (10, 0):
        # Blackwell leaves the product of an empty group unwritten (pytorch issue 172439).
        empty = torch.diff(ends, prepend=ends.new_zeros(1)) == 0
        gradient.masked_fill_(empty[:, None, None], 0)
    return gradient


def _gathered(x: Tensor, token: Tensor | None) -> Tensor:
    return x if token is None else x.index_select(0, token)
