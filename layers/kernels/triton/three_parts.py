"""An fp32 matrix as three of bf16 side by side, in one pass of Triton. See ``layers.kernels.wide_products``.

Letters: R rows, c columns.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernel itself; its annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import launch

_HELD = 1024  # numbers of a program


def three_parts(x: Tensor) -> Tensor:
    """(…, 3c) bf16 of x (…, c)."""
    x = x.contiguous()
    parts = torch.empty(*x.shape[:-1], 3 * x.shape[-1], dtype=torch.bfloat16, device=x.device)
    if x.numel():
        arguments = (x, parts, x.numel())
        launch(x, _three_parts, (triton.cdiv(x.numel(), _HELD),), *arguments, COLUMNS=x.shape[-1], HELD=_HELD)
    return parts


@triton.jit(do_not_specialize=["count"])
def _three_parts(x: tl.tensor, parts: tl.tensor, count: tl.tensor, COLUMNS: tl.constexpr, HELD: tl.constexpr) -> None:
    place = tl.program_id(0).to(tl.int64) * HELD + tl.arange(0, HELD)
    here = place < count
    value = tl.load(x + place, mask=here, other=0.0)
    high = value.to(tl.bfloat16)
    rest = value - high.to(tl.float32)
    rest = tl.where(tl.abs(high.to(tl.float32)) < float("inf"), rest, 0.0)  # of a NaN nothing is less
    middle = rest.to(tl.bfloat16)
    to = parts + place // COLUMNS * 3 * COLUMNS + place % COLUMNS
    tl.store(to, high, mask=here)
    tl.store(to + COLUMNS, middle, mask=here)
    tl.store(to + 2 * COLUMNS, (rest - middle.to(tl.float32)).to(tl.bfloat16), mask=here)
