"""RMS norm in Triton: one pass forward, one backward and a sum. Shapes: ``layers.kernels.rms_norm``.

A program holds whole rows. Backward it has some rows of one scale, so that it adds up their part of the scale's
gradient in registers; the parts are added afterwards, in order.

Letters: R rows, d columns, G scales.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.blocks import gathered, scatter
from membench.layers.kernels.triton.launch import launch

_HELD = 2048  # numbers of a program at once
_SHARE = 32  # rows of one scale whose gradients a program adds up


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d), of x's dtype."""
    x, scale = x.contiguous(), scale.contiguous()
    normed = torch.empty_like(x)
    constants = _constants(x, scale, eps)
    programs = (triton.cdiv(len(x), constants["ROWS"]),)
    launch(x, _rms_norm, programs, x, scale, normed, count=len(x), **constants)
    return normed


def rms_norm_backward(x: Tensor, scale: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients of x and scale by that of what was normed (R, d)."""
    x, scale, gradient = x.contiguous(), scale.contiguous(), gradient.contiguous()
    constants = _constants(x, scale, eps)
    of_each = len(x) // constants["SCALES"]
    parts = triton.cdiv(of_each, _SHARE)
    of_x = torch.empty_like(x)
    sums = torch.empty(parts, *scale.shape, dtype=torch.float32, device=x.device)
    programs = (parts, constants["SCALES"])
    arguments = (x, scale, gradient, of_x, sums)
    launch(x, _rms_norm_backward, programs, *arguments, count=of_each, SHARE=_SHARE, **constants)
    return of_x, sums.sum(0).to(scale.dtype)


def _constants(x: Tensor, scale: Tensor, eps: float) -> dict[str, Any]:
    columns = x.shape[1]
    tile = triton.next_power_of_2(columns)
    rows = max(1, min(_SHARE, _HELD // tile))
    warps = max(1, min(16, rows * tile // 256))
    scales = scale.numel() // columns
    return {"EPS": eps, "SCALES": scales, "COLUMNS": columns, "ROWS": rows, "TILE": tile, "num_warps": warps}


@triton.jit
def _inverse_rms(values: tl.tensor, COLUMNS: tl.constexpr, EPS: tl.constexpr) -> tl.tensor:
    """(R,): one over the root of each row's mean square."""
    return 1 / tl.sqrt(tl.sum(values * values, 1) / COLUMNS + EPS)


@triton.jit(do_not_specialize=["count"])
def _rms_norm(
    x: tl.tensor,
    scale: tl.tensor,
    normed: tl.tensor,
    count: tl.tensor,
    EPS: tl.constexpr,
    SCALES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TILE)
    here = row < count
    values = gathered(x, row, here, column, COLUMNS, COLUMNS)
    factor = _inverse_rms(values, COLUMNS, EPS)
    scales = gathered(scale, row % SCALES, here, column, COLUMNS, COLUMNS)
    scatter(normed, values * factor[:, None] * scales, row, here, column, COLUMNS, COLUMNS)


@triton.jit(do_not_specialize=["count"])
def _rms_norm_backward(
    x: tl.tensor,
    scale: tl.tensor,
    gradient: tl.tensor,
    of_x: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    SHARE: tl.constexpr,
    EPS: tl.constexpr,
    SCALES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """With r one over the root of a row's mean square and g = s·dy: dx = r·g - x·(r³/d)·(g·x), and ds sums dy·x·r."""
    part, turn, column = tl.program_id(0), tl.program_id(1), tl.arange(0, TILE)
    scales = tl.load(scale + turn * COLUMNS + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
    of_scale = tl.zeros([ROWS, TILE], tl.float32)
    for first in range(0, SHARE, ROWS):
        number = part * SHARE + first + tl.arange(0, ROWS)
        here, row = number < count, number * SCALES + turn
        values = gathered(x, row, here, column, COLUMNS, COLUMNS)
        given = gathered(gradient, row, here, column, COLUMNS, COLUMNS)
        factor = _inverse_rms(values, COLUMNS, EPS)
        scaled = given * scales[None, :]
        back = tl.sum(scaled * values, 1) * factor * factor * factor / COLUMNS
        change = factor[:, None] * scaled - back[:, None] * values
        scatter(of_x, change, row, here, column, COLUMNS, COLUMNS)
        of_scale += tl.where(here[:, None], given * values * factor[:, None], 0.0)
    place = (part * SCALES + turn).to(tl.int64) * COLUMNS + column
    tl.store(sums + place, tl.sum(of_scale, 0), mask=column < COLUMNS)
