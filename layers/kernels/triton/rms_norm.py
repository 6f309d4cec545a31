"""RMS norm in Triton: one pass forward, two backward. Shapes: ``layers.kernels.rms_norm``.

A program holds whole rows. Backward it has some rows of one scale, so that it adds up their part of the scale's
gradient in registers; the second pass adds the parts. A scale may be the product of two, each of which has a gradient.
Rows that are only scored are never normed: what
norms would multiply them by is found alone, and what it takes of their gradient.

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
from membench.layers.kernels.triton.three_parts import scatter_parts

_HELD = 2048  # numbers of a program at once
_SHARE = 32  # rows of one scale whose gradients a program adds up
_ADDED, _TOGETHER = 256, 16  # parts at once, and columns of a program: so few that many programs share the work


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d), of the scale's dtype."""
    x = x.contiguous()
    return _into(torch.empty_like(x, dtype=scale.dtype), x, scale.contiguous(), None, eps, in_parts=False)


def rms_norm_scaled_twice(x: Tensor, scale: Tensor, other: Tensor, eps: float, in_parts: bool) -> Tensor:
    """(R, d), fp32; or its three parts (R, 3d), bf16."""
    x, columns = x.contiguous(), x.shape[1]
    dtype = torch.bfloat16 if in_parts else torch.float32
    normed = torch.empty(len(x), 3 * columns if in_parts else columns, dtype=dtype, device=x.device)
    return _into(normed, x, scale.contiguous(), other.contiguous(), eps, in_parts=in_parts)


def _into(normed: Tensor, x: Tensor, scale: Tensor, other: Tensor | None, eps: float, *, in_parts: bool) -> Tensor:
    constants = {"IN_PARTS": in_parts, **_constants(x, scale, eps)}
    programs = (triton.cdiv(len(x), constants["ROWS"]),)
    launch(x, _rms_norm, programs, x, scale, other, normed, count=len(x), **constants)
    return normed


def rms_norm_backward(x: Tensor, scale: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients of x and scale by that of what was normed (R, d)."""
    of_x, of_scale = torch.empty_like(x), torch.empty_like(scale)
    _backward(x.contiguous(), scale.contiguous(), None, gradient.contiguous(), eps, of_x, of_scale, None)
    return of_x, of_scale


def rms_norm_scaled_twice_backward(
    x: Tensor, scale: Tensor, other: Tensor, gradient: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and both scales."""
    x, scale, other, gradient = (each.contiguous() for each in (x, scale, other, gradient))
    of_x, of_scale, of_other = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(other)
    _backward(x, scale, other, gradient, eps, of_x, of_scale, of_other)
    return of_x, of_scale, of_other


def _backward(
    x: Tensor,
    scale: Tensor,
    other: Tensor | None,
    gradient: Tensor,
    eps: float,
    of_x: Tensor,
    of_scale: Tensor,
    of_other: Tensor | None,
) -> None:
    constants = _constants(x, scale, eps)
    of_each = len(x) // constants["SCALES"]
    parts = triton.cdiv(of_each, _SHARE)
    sums = torch.empty(parts, scale.numel(), dtype=torch.float32, device=x.device)
    programs = (parts, constants["SCALES"])
    arguments = (x, scale, other, gradient, of_x, sums)
    launch(x, _rms_norm_backward, programs, *arguments, count=of_each, SHARE=_SHARE, **constants)
    programs = (triton.cdiv(scale.numel(), _TOGETHER),)
    arguments = (sums, scale, other, of_scale, of_other)
    constants = {"SCALED": scale.numel(), "PARTS": _ADDED, "TILE": _TOGETHER, "num_warps": 8}
    launch(x, _add_scale_parts, programs, *arguments, parts=parts, **constants)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """(R,) fp32 of x (R, d): what each row is multiplied by to be normed."""
    x = x.contiguous()
    found = torch.empty(len(x), dtype=torch.float32, device=x.device)
    block = _block(x.shape[1])
    launch(x, _inverse_rms_of_rows, (triton.cdiv(len(x), block["ROWS"]),), x, found, count=len(x), EPS=eps, **block)
    return found


def across_rows(gradient: Tensor, x: Tensor, inverse_rms: Tensor) -> Tensor:
    """(R, d), of x's dtype: as ``layers.kernels.rms_norm.across_rows``."""
    gradient, x, inverse_rms = gradient.contiguous(), x.contiguous(), inverse_rms.contiguous()
    found, block = torch.empty_like(x), _block(x.shape[1])
    programs = (triton.cdiv(len(x), block["ROWS"]),)
    launch(x, _across_rows, programs, gradient, x, inverse_rms, found, count=len(x), **block)
    return found


def _constants(x: Tensor, scale: Tensor, eps: float) -> dict[str, Any]:
    return {"EPS": eps, "SCALES": scale.numel() // x.shape[1], **_block(x.shape[1])}


def _block(columns: int) -> dict[str, Any]:
    """The rows that a program holds at once."""
    tile = triton.next_power_of_2(columns)
    rows = max(1, min(_SHARE, _HELD // tile))
    return {"COLUMNS": columns, "ROWS": rows, "TILE": tile, "num_warps": max(1, min(16, rows * tile // 256))}


@triton.jit
def _inverse_rms(values: tl.tensor, COLUMNS: tl.constexpr, EPS: tl.constexpr) -> tl.tensor:
    """(R,): one over the root of each row's mean square."""
    return 1 / tl.sqrt(tl.sum(values * values, 1) / COLUMNS + EPS)


@triton.jit(do_not_specialize=["count"])
def _inverse_rms_of_rows(
    x: tl.tensor,
    found: tl.tensor,
    count: tl.tensor,
    EPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TILE)
    values = gathered(x, row, row < count, column, COLUMNS, COLUMNS)
    tl.store(found + row, _inverse_rms(values, COLUMNS, EPS), mask=row < count)


@triton.jit(do_not_specialize=["count"])
def _across_rows(
    gradient: tl.tensor,
    x: tl.tensor,
    inverse_rms: tl.tensor,
    found: tl.tensor,
    count: tl.tensor,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TILE)
    here = row < count
    values = gathered(x, row, here, column, COLUMNS, COLUMNS)
    given = gathered(gradient, row, here, column, COLUMNS, COLUMNS)
    factor = tl.load(inverse_rms + row, mask=here, other=0.0)
    along = tl.sum(values * given, 1) * (factor * factor) / COLUMNS
    scatter(found, given - values * along[:, None], row, here, column, COLUMNS, COLUMNS)


@triton.jit(do_not_specialize=["count"])
def _rms_norm(
    x: tl.tensor,
    scale: tl.tensor,
    other: tl.tensor,
    normed: tl.tensor,
    count: tl.tensor,
    IN_PARTS: tl.constexpr,
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
    if other is not None:
        scales *= gathered(other, row % SCALES, here, column, COLUMNS, COLUMNS)
    found = values * factor[:, None] * scales
    if IN_PARTS:
        scatter_parts(normed, found, row, here, column, COLUMNS)
    else:
        scatter(normed, found, row, here, column, COLUMNS, COLUMNS)


@triton.jit(do_not_specialize=["count"])
def _rms_norm_backward(
    x: tl.tensor,
    scale: tl.tensor,
    other: tl.tensor,
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
    if other is not None:
        scales *= tl.load(other + turn * COLUMNS + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
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


@triton.jit(do_not_specialize=["parts"])
def _add_scale_parts(
    sums: tl.tensor,
    scale: tl.tensor,
    other: tl.tensor,
    of_scale: tl.tensor,
    of_other: tl.tensor,
    parts: tl.tensor,
    SCALED: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """The gradient of a scale, from its parts (parts, G·d). Of two, it is each one's times the other."""
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    here = column < SCALED
    sum = tl.zeros([PARTS, TILE], tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        sum += gathered(sums, part, part < parts, column, SCALED, SCALED)
    gradient = tl.sum(sum, 0)
    if other is None:
        tl.store(of_scale + column, gradient, mask=here)
    else:
        by = tl.load(other + column, mask=here, other=0.0).to(tl.float32)
        tl.store(of_scale + column, gradient * by, mask=here)
        by = tl.load(scale + column, mask=here, other=0.0).to(tl.float32)
        tl.store(of_other + column, gradient * by, mask=here)
