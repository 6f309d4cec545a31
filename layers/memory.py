"""Memory layers: product-key lookup into a table of value rows (arXiv 1907.05242, 2412.09764).

Letters: B tokens, d model dim, D value dim, P ranks, H heads, k rows a head, N rows.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.gated import gated
from membench.layers.kernels.matmul import project
from membench.layers.kernels.memory_step import memory_step
from membench.layers.kernels.stages import stage
from membench.layers.layer import Routing, torch_dtype
from membench.layers.parallel.exchange import Exchange
from membench.layers.product_keys import RetrievalLayer
from membench.layers.spec import MemorySpec
from membench.layers.swiglu import SwiGLU
from membench.layers.tables.host_table import HostTable
from membench.layers.tables.quantized_table import NORMAL_ROW_ERROR, QuantizedTable
from membench.layers.tables.value_table import ValueTable


class Memory(RetrievalLayer):
    """``memory``: the k best value rows of each head, summed with softmax weights.

    ``memory_plus``: (y * silu(x W1)) W2 of that y (arXiv 2412.09764, eq. 2); W1 is ``gate``
    (D, d), W2 ``output`` (d, D). Over P ranks the table is cut by columns, where this rank reads D/P columns for all
    P·B tokens (arXiv 2412.09764, section 3.1.2), by rows, or by both.
    """

    SHARES_TABLE: ClassVar = True

    spec: MemorySpec

    def __init__(
        self,
        spec: MemorySpec,
        ranks: int | Exchange = 1,
        *,
        table: ValueTable | QuantizedTable | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device=device, generator=generator)
        d, width, dtype = spec.model_dim, spec.row_elements, torch_dtype(spec.dtype)
        shape, row_dtype = self.table_shape(width), torch_dtype(spec.row_dtype)
        if table is None:
            options: dict[str, Any] = {"device": device, "std": 1 / math.sqrt(width), "generator": generator}
            options["place"] = self.table_place(width)
            if spec.quantized:
                table = QuantizedTable.random(*shape, row_dtype, dtype=dtype, **options)
            else:
                kind = HostTable if spec.table_on == "host" else ValueTable
                table = kind(*shape, dtype=dtype, **options)
                table.over_columns = self.exchange.over_columns
        elif table.weight.shape != shape or table.weight.dtype != row_dtype:
            given = f"{tuple(table.weight.shape)} of {table.weight.dtype}"
            raise ValueError(f"the table given is {given}, this layer needs {shape} of {row_dtype}")
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
        self.check_tokens(x, self.query)
        if (y := self.step(x, routing, None)) is not None:
            return y
        selection = self.select(x)
        with stage("bag"):
            call = self.read(selection, routing, weights_by_columns=True)
            y = call.give_back(self.table.bag(call.lookups, call.weights))
        if self.spec.gated:
            with stage("gate"):
                y = gated(y, project(x, self.gate))
        if self.spec.projected:
            with stage("output"):
                y = project(y, self.output)
        return y + self.companion(x) if self.spec.companion_hidden else y

    def step(self, x: Tensor, routing: Routing | None, block: tuple[Tensor, float] | None) -> Tensor | None:
        if isinstance(self.table, HostTable):
            return None
        retrieving = self.retrieving(x, routing, block)
        if retrieving is None:
            return None
        row_scales = self.table.scales if isinstance(self.table, QuantizedTable) else None
        gate = self.gate if self.spec.gated else None
        output = self.output if self.spec.projected else None
        y = memory_step(retrieving, self.table.weight, row_scales, gate, output)
        return self.companion.step(x, block, y) if self.spec.companion_hidden else y

    def tables(self) -> tuple[ValueTable, ...]:
        return () if isinstance(self.table, QuantizedTable) else (self.table,)

    @property
    def random_rows(self) -> Tensor:
        return self.table.device_view if isinstance(self.table, HostTable) else self.table.weight.detach()

    @property
    def notes(self) -> tuple[str, ...]:
        if isinstance(self.table, HostTable) and self.table.way is not None:
            trials = [f"{way} takes {ms:.3g} ms a bag" for way, ms in self.table.way_ms.items()]
            return (f"table in host memory, read {self.table.way}" + (f" ({', '.join(trials)})" if trials else ""),)
        if not isinstance(self.table, QuantizedTable):
            return ()
        error = NORMAL_ROW_ERROR[self.table.weight.dtype]
        return (f"normal numbers rounded to {self.spec.row_format} rows are off by up to {100 * error:.2g} % (RMS)",)
