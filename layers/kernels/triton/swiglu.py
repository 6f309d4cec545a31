"""What lies between the products of a SwiGLU in Triton: one pass forward and one backward. Sums and powers are of fp32.

Shapes: ``layers.kernels.swiglu``. A program has one row: forward a tile of it, backward all of it tile by tile, because
a weight's gradient is summed over the row.

Letters: R rows, f hidden.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import launch

_MOST_COLUMNS = 1024


def activate(gate_up: Tensor) -> Tensor:
    """(R, f)."""
    gate_up = gate_up.contiguous()
    hidden = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    if hidden.numel():
        tile = _tile(hidden.shape[1])
        programs = (len(hidden), triton.cdiv(hidden.shape[1], tile))
        launch(gate_up, _activate, programs, gate_up, hidden, HIDDEN=hidden.shape[1], TILE=tile, num_warps=_warps(tile))
    return hidden


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(R, f), (R, 2f) and (R,) fp32, which is empty without a weight."""
    gate_up, gradient = gate_up.contiguous(), gradient.contiguous()
    weight = None if weight is None else weight.contiguous()
    hidden, of_gate_up = torch.empty_like(gradient), torch.empty_like(gate_up)
    of_weight = torch.empty(0 if weight is None else len(weight), dtype=torch.float32, device=gate_up.device)
    if not gradient.numel():
        return hidden, of_gate_up, of_weight.zero_()
    tile = _tile(gradient.shape[1])
    arguments = (gate_up, gradient, weight, hidden, of_gate_up, None if weight is None else of_weight)
    constants = {"HIDDEN": gradient.shape[1], "TILE": tile, "num_warps": _warps(tile)}
    launch(gate_up, _activate_backward, (len(gradient),), *arguments, **constants)
    return hidden, of_gate_up, of_weight


def _tile(hidden: int) -> int:
    return int(min(_MOST_COLUMNS, triton.next_power_of_2(hidden)))


def _warps(tile: int) -> int:
    """Eight numbers a thread."""
    return max(1, tile // 256)


@triton.jit
def _activate(gate_up: tl.tensor, hidden: tl.tensor, HIDDEN: tl.constexpr, TILE: tl.constexpr) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = column < HIDDEN
    gate = tl.load(gate_up + row * 2 * HIDDEN + column, mask=here, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * HIDDEN + HIDDEN + column, mask=here, other=0.0).to(tl.float32)
    tl.store(hidden + row * HIDDEN + column, gate * tl.sigmoid(gate) * up, mask=here)


@triton.jit
def _activate_backward(
    gate_up: tl.tensor,
    gradient: tl.tensor,
    weight: tl.tensor,
    hidden: tl.tensor,
    of_gate_up: tl.tensor,
    of_weight: tl.tensor,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """d(gate) = up · s·(1 + gate·(1 - s)), s the gate's sigmoid, and d(up) = silu, both times w · gradient."""
    row = tl.program_id(0).to(tl.int64)
    gates, factor = row * 2 * HIDDEN, 1.0
    if weight is not None:
        factor = tl.load(weight + row).to(tl.float32)
    sum = tl.zeros([TILE], tl.float32)
    for first in range(0, HIDDEN, TILE):
        column = first + tl.arange(0, TILE)
        here = column < HIDDEN
        gate = tl.load(gate_up + gates + column, mask=here, other=0.0).to(tl.float32)
        up = tl.load(gate_up + gates + HIDDEN + column, mask=here, other=0.0).to(tl.float32)
        given = tl.load(gradient + row * HIDDEN + column, mask=here, other=0.0).to(tl.float32)
        share = tl.sigmoid(gate)
        silu, of_product = gate * share, given * factor
        sum += given * silu * up
        tl.store(hidden + row * HIDDEN + column, silu * up * factor, mask=here)
        tl.store(of_gate_up + gates + column, of_product * up * (share + silu * (1 - share)), mask=here)
        tl.store(of_gate_up + gates + HIDDEN + column, of_product * silu, mask=here)
    if of_weight is not None:
        tl.store(of_weight + row, tl.sum(sum, 0))
