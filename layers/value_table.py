"""The value rows of a memory layer: their memory, their sharing, and gradients of the rows that were read.

Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows read.
"""

import contextlib
import mmap
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from layers.initialize import fill_normal_
from layers.kernels.weighted_bag import Lookups, find_runs, row_dots, row_gradient, weighted_bag

HUGE_PAGE_BYTES = 2**21


@dataclass(frozen=True, slots=True)
class RowGradient:
    """The gradient of the rows that were read: ``rows`` (U,) ascending and distinct, ``values`` (U, D)."""

    rows: Tensor
    values: Tensor

    def __add__(self, other: "RowGradient") -> "RowGradient":
        runs = find_runs(torch.cat([self.rows, other.rows]))
        values = torch.cat([self.values, other.values])
        return RowGradient(runs.rows, functional.embedding_bag(runs.order, values, runs.starts, mode="sum"))

    def to_dense(self, num_rows: int) -> Tensor:
        """(N, D), zero where no row was read."""
        dense = self.values.new_zeros(num_rows, self.values.shape[1])
        dense[self.rows] = self.values
        return dense


class ValueTable(nn.Module):
    """N rows of D columns, given to a layer from outside so that several layers can share one pool.

    ``weight.grad`` stays None: a dense gradient of N·D would cost more than everything else
    a step does. A backward pass adds to ``gradient``, which holds the touched rows only; set
    it to None between steps. ``huge_pages`` tells whether the memory really lies on huge
    pages, which whatever reads random rows is the faster for.
    """

    def __init__(
        self,
        num_rows: int,
        columns: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        std: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        weight = fill_normal_(_allocate(num_rows, columns, dtype, torch.device(device)), std, generator)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.huge_pages = weight.device.type == "cpu" and _on_huge_pages(weight)
        self.gradient: RowGradient | None = None
        # Empty. It makes autograd visit a table all of whose other inputs are frozen.
        self._anchor = torch.empty(0, requires_grad=True)

    def accumulate(self, gradient: RowGradient) -> None:
        """Add one use's gradient: of another layer that shares the pool, or of another backward pass."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def bag(self, lookups: Lookups, weights: Tensor) -> Tensor:
        """(B, D): the sum over a token's L lookups of weights (B, L) times rows."""
        return _Bag.apply(self, lookups, weights, self._anchor)

    def dots(self, lookups: Lookups, tokens: Tensor) -> Tensor:
        """(B, L) fp32: the rows a token reads, each times the token's vector of tokens (B, D)."""
        return _Dots.apply(self, lookups, tokens, self._anchor)

    def extra_repr(self) -> str:
        rows, columns = self.weight.shape
        return f"{rows}, {columns}, dtype={self.weight.dtype}, huge_pages={self.huge_pages}"


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: ValueTable, lookups: Lookups, weights: Tensor, anchor: Tensor) -> Tensor:
        ctx.table, ctx.lookups = table, lookups
        ctx.save_for_backward(weights)
        return weighted_bag(table.weight, lookups.rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (weights,) = upstream, ctx.saved_tensors
        runs = ctx.lookups.runs
        dy = dy.contiguous()
        ctx.table.accumulate(RowGradient(runs.rows, row_gradient(runs, weights, dy)))
        wanted = ctx.needs_input_grad[2]
        return None, None, row_dots(ctx.table.weight, ctx.lookups, dy) if wanted else None, None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: ValueTable, lookups: Lookups, tokens: Tensor, anchor: Tensor) -> Tensor:
        ctx.table, ctx.lookups = table, lookups
        ctx.save_for_backward(tokens)
        return row_dots(table.weight, lookups, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (ddots,), (tokens,) = upstream, ctx.saved_tensors
        runs = ctx.lookups.runs
        ctx.table.accumulate(RowGradient(runs.rows, row_gradient(runs, ddots, tokens.contiguous())))
        wanted = ctx.needs_input_grad[2]
        return None, None, weighted_bag(ctx.table.weight, ctx.lookups.rows, ddots) if wanted else None, None


def _allocate(num_rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a table; on a Linux CPU a private mapping that asks for huge pages."""
    num_bytes = num_rows * columns * dtype.itemsize
    if sys.platform != "linux" or device.type != "cpu" or num_bytes < HUGE_PAGE_BYTES:
        return torch.empty(num_rows, columns, dtype=dtype, device=device)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages: the mapping serves all the same
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(num_rows, columns)


def _on_huge_pages(tensor: Tensor) -> bool:
    """Whether most of a touched tensor's mapping lies on huge pages, by the kernel's own account."""
    try:
        account = Path("/proc/self/smaps").read_text()
    except OSError:
        return False
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    mappings = re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?^AnonHugePages: +(\d+) kB", account, re.MULTILINE | re.DOTALL)
    mapped = huge = 0
    for low, high, kib in (mapping.groups() for mapping in mappings):
        if int(low, 16) < end and int(high, 16) > start:
            mapped += int(high, 16) - int(low, 16)
            huge += int(kib) * 1024
    return 2 * huge > mapped
