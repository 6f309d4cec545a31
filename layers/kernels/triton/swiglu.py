"""What lies between the products of a SwiGLU in Triton: one pass forward and one backward. Sums and powers are of fp32.

Shapes: ``layers.kernels.swiglu`` and ``layers.kernels.gated``, of which the gate and what it multiplies lie in one
matrix or in two. A program has one row: forward a tile of it, backward all of it tile by tile, because
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
    return _forward(*gate_up.contiguous().chunk(2, dim=1))


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(R, f), (R, 2f) and (R,) fp32, which is empty without a weight."""
    gate_up, gradient = gate_up.contiguous(), gradient.contiguous()
    weight = None if weight is None else weight.contiguous()
    hidden, of_gate_up = torch.empty_like(gradient), torch.empty_like(gate_up)
    of_weight = torch.empty(0 if weight is None else len(weight), dtype=torch.float32, device=gate_up.device)
    if not gradient.numel():
        return hidden, of_gate_up, of_weight.zero_()
    found = hidden, *of_gate_up.chunk(2, dim=1), None if weight is None else of_weight
    _backward(*gate_up.chunk(2, dim=1), gradient, weight, *found)
    return hidden, of_gate_up, of_weight


def gated(values: Tensor, gate: Tensor) -> Tensor:
    """(R, D)."""
    return _forward(gate.contiguous(), values.contiguous())


def gated_backward(values: Tensor, gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both (R, D)."""
    values, gate, gradient = values.contiguous(), gate.contiguous(), gradient.contiguous()
    of_values, of_gate = torch.empty_like(values), torch.empty_like(gate)
    if gradient.numel():
        _backward(gate, values, gradient, None, None, of_gate, of_values, None)
    return of_values, of_gate


def _forward(gate: Tensor, up: Tensor) -> Tensor:
    """(R, f) of both (R, f), whose rows lie equally far apart."""
    hidden = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if hidden.numel():
        tile = _tile(gate.shape[1])
        programs = (len(gate), triton.cdiv(gate.shape[1], tile))
        launch(gate, _activate, programs, gate, up, hidden, **_constants(gate, tile))
    return hidden


def _backward(gate: Tensor, up: Tensor, gradient: Tensor, *others: Tensor | None) -> None:
    tile = _tile(gate.shape[1])
    launch(gate, _activate_backward, (len(gate),), gate, up, gradient, *others, **_constants(gate, tile))


def _constants(gate: Tensor, tile: int) -> dict[str, int]:
    return {"PITCH": gate.stride(0), "HIDDEN": gate.shape[1], "TILE": tile, "num_warps": _warps(tile)}


def _tile(hidden: int) -> int:
    return int(min(_MOST_COLUMNS, triton.next_power_of_2(hidden)))


def _warps(tile: int) -> int:
    """Eight numbers a thread."""
    return max(1, tile // 256)


@triton.jit
def _activate(
    gates: tl.tensor,
    ups: tl.tensor,
    hidden: tl.tensor,
    PITCH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = column < HIDDEN
    gate = tl.load(gates + row * PITCH + column, mask=here, other=0.0).to(tl.float32)
    up = tl.load(ups + row * PITCH + column, mask=here, other=0.0).to(tl.float32)
    tl.store(hidden + row * HIDDEN + column, gate * tl.sigmoid(gate) * up, mask=here)


@triton.jit
def _activate_backward(
    gates: tl.tensor,
    ups: tl.tensor,
    gradient: tl.tensor,
    weight: tl.tensor,
    hidden: tl.tensor,
    of_gate: tl.tensor,
    of_up: tl.tensor,
    of_weight: tl.tensor,
    PITCH: tl.constexpr,
    HIDDEN: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """d(gate) = up · s·(1 + gate·(1 - s)), s the gate's sigmoid, and d(up) = silu, both times w · gradient."""
    row, factor = tl.program_id(0).to(tl.int64), 1.0
    if weight is not None:
        factor = tl.load(weight + row).to(tl.float32)
    sum = tl.zeros([TILE], tl.float32)
    for first in range(0, HIDDEN, TILE):
        column = first + tl.arange(0, TILE)
        here = column < HIDDEN
        gate = tl.load(gates + row * PITCH + column, mask=here, other=0.0).to(tl.float32)
        up = tl.load(ups + row * PITCH + column, mask=here, other=0.0).to(tl.float32)
        given = tl.load(gradient + row * HIDDEN + column, mask=here, other=0.0).to(tl.float32)
        share = tl.sigmoid(gate)
        silu, of_product = gate * share, given * factor
        sum += given * silu * up
        if hidden is not None:
            tl.store(hidden + row * HIDDEN + column, silu * up * factor, mask=here)
        tl.store(of_gate + row * PITCH + column, of_product * up * (share + silu * (1 - share)), mask=here)
        tl.store(of_up + row * PITCH + column, of_product * silu, mask=here)
    if of_weight is not None:
        tl.store(of_weight + row, tl.sum(sum, 0))
