"""A SwiGLU whose hidden width is cut over processes: PyTorch's tensor parallel.

Letters: P ranks, B tokens of this one, M of the one with most, d model dim, f hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

from membench.layers.parallel.exchange import Exchange


class TensorParallelSwiGLU(nn.Module):
    """W_down(silu(x W_gate) * (x W_up)): rank r has the hidden numbers from r·f/P on.

    Each rank gives its own tokens. They are gathered, and sums of results scattered (sequence parallel), so nothing is
    computed twice. Torch wants as many tokens of each rank: those with fewer are filled up with zeros, of which every
    result and gradient is 0.

    Parameters ``gate`` and ``up`` (f, d) are cut by rows, ``down`` (d, f) by columns.

    Args:
        gate_up: (2f, d), gate first, alike on all ranks.
        down: (d, f).
    """

    def __init__(self, gate_up: Tensor, down: Tensor, exchange: Exchange, mesh: DeviceMesh) -> None:
        super().__init__()
        self._exchange = exchange
        gate, up = gate_up.detach().chunk(2)
        self.gate, self.up, self.down = _product(gate), _product(up), _product(down.detach())
        plan = {
            "": PrepareModuleInput(input_layouts=Shard(0), desired_input_layouts=Replicate()),
            "gate": ColwiseParallel(),
            "up": ColwiseParallel(),
            "down": RowwiseParallel(output_layouts=Shard(0)),
        }
        parallelize_module(self, mesh, plan)

    def forward(self, x: Tensor) -> Tensor:
        """All ranks' hidden numbers of tokens (M, d), filled up."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))

    def of_tokens(self, x: Tensor) -> Tensor:
        """y (B, d) of x (B, d)."""
        most = self._exchange.most_tokens(x)
        if not most:
            return x * 0  # of nobody's tokens; a backward pass finds its way to x
        return _Here.apply(self(functional.pad(x, (0, 0, 0, most - len(x)))))[: len(x)]


class _Here(torch.autograd.Function):
    """What others send, once it is here: torch waits for it only when it is first used, and an answer is complete."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.wait() if isinstance(y, AsyncCollectiveTensor) else y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0]


def _product(weight: Tensor) -> nn.Linear:
    rows, columns = weight.shape
    with torch.device("meta"):
        linear = nn.Linear(columns, rows, bias=False)
    linear.weight = nn.Parameter(weight.contiguous())
    return linear
