"""Memory layers: product-key lookup into a table of value rows (arXiv 1907.05242, 2412.09764).

Letters: B tokens, d model dim, D value dim, P ranks, H heads, k rows a head, N rows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from layers.initialize import fill_normal_
from layers.kernels.stages import stage
from layers.layer import Routing, torch_dtype
from layers.product_keys import RetrievalLayer
from layers.spec import MemorySpec
from layers.swiglu import SwiGLU
from layers.value_table import ValueTable


class Memory(RetrievalLayer):
    """``memory``: the k best value rows of each head, summed with softmax weights.

    ``memory_plus``: (y * silu(x W1)) W2 of that y (arXiv 2412.09764, eq. 2); W1 is ``gate``
    (D, d), W2 ``output`` (d, D). Over P ranks the table is cut by columns: this rank reads
    D/P columns for all P·B tokens (arXiv 2412.09764, section 3.1.2).
    """

    spec: MemorySpec

    def __init__(
        self,
        spec: MemorySpec,
        ranks: int = 1,
        *,
        table: ValueTable | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device=device, generator=generator)
        d, width, dtype = spec.model_dim, spec.row_elements, torch_dtype(spec.dtype)
        shape = (spec.num_keys, width // ranks)
        if table is None:
            std = 1 / math.sqrt(width)
            table = ValueTable(*shape, dtype=dtype, device=device, std=std, generator=generator)
        elif table.weight.shape != shape or table.weight.dtype != dtype:
            given = f"{tuple(table.weight.shape)} of {table.weight.dtype}"
            raise ValueError(f"the table given is {given}, this layer needs {shape} of {dtype}")
        self.table = table
        if spec.gated:
            self.gate = nn.Parameter(torch.empty(width, d, device=device, dtype=dtype))
            fill_normal_(self.gate, 1 / math.sqrt(d), generator)
        if spec.projected:
            self.output = nn.Parameter(torch.empty(d, width, device=device, dtype=dtype))
            fill_normal_(self.output, 1 / math.sqrt(width), generator)
        if spec.companion_hidden:
            self.companion = SwiGLU(
                d, spec.companion_hidden, device=device, dtype=dtype, generator=generator, stage_prefix="companion_"
            )

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        selection = self.select(x)
        with stage("bag"):
            lookups, weights, _ = self.reads(selection, routing)
            y = self.join_columns(self.table.bag(lookups, weights))
        if self.spec.gated:
            with stage("gate"):
                y = y * functional.silu(functional.linear(x, self.gate))
        if self.spec.projected:
            with stage("output"):
                y = functional.linear(y, self.output)
        return y + self.companion(x) if self.spec.companion_hidden else y

    def tables(self) -> tuple[ValueTable, ...]:
        return (self.table,)
