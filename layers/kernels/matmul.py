"""Matrix products, by the fastest library at hand.

Letters: R rows, d_in and d_out widths.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


@cache
def _onednn_is_faster() -> bool:
    """Whether oneDNN beats MKL in fp32: on every x86 that Intel did not make.

    MKL picks its code by vendor and keeps AVX-512 to Intel's; on a Zen 4 it reached 145 GFLOP/s
    where oneDNN reached 199 (square products, two cores).
    """
    try:
        vendor_is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and not vendor_is_intel


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """(R, d_out) of x (R, d_in) and weight (d_out, d_in), which may be a transposed view."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and len(x) and _onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


def linear_gradients(y_gradient: Tensor, x: Tensor) -> Tensor:
    """(d_out, d_in), the gradient of a weight: y_gradient (R, d_out) transposed times x (R, d_in)."""
    return torch.mm(y_gradient.t(), x)
