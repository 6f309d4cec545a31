"""The pacer: a fixed mix of a case's own needs, timed in turn with its samples.

What a shared machine does to a sample it does to the pacer's beside it, so that their ratio can be held against
that of another run where milliseconds cannot. It makes only calls of torch: kernels of ``layers`` are what may have
changed between two runs. How much it does follows from the formulas of the case alone, not from what its layer did.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from membench.layers.layer import torch_dtype
from membench.layers.spec import Cost

VERSION = 1  # raised when the same amounts come to stand for other work
_MOST_BYTES = 2**28  # of one working set; what is larger lies in no cache either
_INNER = 512
_BAG = 32
_SIDE = 128  # of the square products that stay in a core's own cache
_CORE_FLOPS = 8  # a byte of rows: what chooses and combines them keeps the core busy for as long
_INDEX_SETS = 16  # so that the rows of a call are not those of the call before
_SEED = 20260101
_VALUE = 0.01  # of every number: times do not depend on it, and random ones would take longer to make


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one call does. All but the dtype are numbers of elements or of times.

    A product is of (``product_rows``, ``inner``) and (``inner``, ``columns``), whose elements are the weights of the
    case's forward pass. A stream adds two buffers into a third. Rows are summed in bags of 32. ``core_products`` are of
    small squares, which wait for no memory.
    """

    dtype: str
    products: int
    product_rows: int
    inner: int
    columns: int
    streams: int
    stream_elements: int
    row_elements: int
    table_rows: int
    rows: int
    core_products: int

    def as_json(self) -> dict[str, int | str]:
        return asdict(self)


def amounts(cost: Cost, dtype: str, tokens: int) -> Amounts | None:
    """A call's amounts: once the FLOPs, the streamed bytes and the row bytes of a step; None where none is counted.

    Stages with FLOPs stream while they multiply, so the product has their FLOPs a byte: as many rows as these take.
    Its weights are as many bytes as the forward pass streams, and lie in the cache where those do. What other stages
    stream (an update, a top-k) is streamed besides; the rows read are drawn from a table of the layer's size, and what
    chooses and combines rows, which no count has, is small products in proportion to the rows' bytes.
    """
    item = torch_dtype(dtype).itemsize
    multiplying = [stage for stage in cost.stages if stage.flops and not stage.row_bytes_unique]
    flops, streamed = (sum(getattr(s, name) for s in multiplying) for name in ("flops", "stream_bytes"))
    weights = min(_MOST_BYTES, sum(s.stream_bytes for s in multiplying if not s.backward)) / item
    inner = min(_INNER, max(1, int(weights**0.5)))
    columns = max(1, round(weights / inner))
    product_rows = max(1, min(tokens, round(flops * item / (2 * streamed)))) if streamed else 1
    products = max(1, round(flops / (2 * product_rows * inner * columns))) if flops else 0

    alone = sum(stage.stream_bytes for stage in cost.stages if stage not in multiplying)
    buffers = min(_MOST_BYTES, alone)
    stream_elements = int(buffers / 3 / item)
    streams = round(alone / (3 * item * stream_elements)) if stream_elements else 0

    reading = next((s for s in cost.stages if s.row_bytes_issued and not s.backward), None)
    row_bytes = reading.row_bytes_issued / cost.lookups if reading and cost.lookups else 0
    row_elements = int(row_bytes / item)
    read_bytes = sum(stage.row_bytes_unique for stage in cost.stages)
    rows = int(read_bytes / row_bytes) // _BAG * _BAG if row_elements else 0
    table_rows = max(1, int(min(_MOST_BYTES, cost.memory.weights) / row_bytes)) if rows else 0
    if not (products or streams or rows):
        return None
    return Amounts(
        dtype=dtype,
        products=products,
        product_rows=product_rows,
        inner=inner,
        columns=columns,
        streams=streams,
        stream_elements=stream_elements,
        row_elements=row_elements,
        table_rows=table_rows,
        rows=rows,
        core_products=round(_CORE_FLOPS * read_bytes / (2 * _SIDE**3)) if rows else 0,
    )


class Pacer:
    """The tensors of a pacer and its call, on one device; the same rows are drawn in every process."""

    def __init__(self, does: Amounts, device: str) -> None:
        self.amounts = does
        generator = torch.Generator().manual_seed(_SEED)
        dtype = torch_dtype(does.dtype)

        def filled(*shape: int) -> torch.Tensor:
            return torch.full(shape, _VALUE, dtype=dtype, device=device)  # its memory is there before it is timed

        self._x, self._weights = filled(does.product_rows, does.inner), filled(does.inner, does.columns)
        self._square = filled(_SIDE, _SIDE)
        self._buffers = [filled(does.stream_elements) for _ in range(3)]
        self._table = filled(does.table_rows, does.row_elements)
        drawn = torch.randint(max(1, does.table_rows), (_INDEX_SETS, does.rows), generator=generator)
        self._indices, self._offsets = drawn.to(device), torch.arange(0, does.rows, _BAG, device=device)

    @torch.no_grad()
    def __call__(self, i: int) -> None:
        """One call, on set number ``i`` of rows."""
        for _ in range(self.amounts.products):
            torch.mm(self._x, self._weights)
        for _ in range(self.amounts.streams):
            torch.add(self._buffers[0], self._buffers[1], out=self._buffers[2])
        for _ in range(self.amounts.core_products):
            torch.mm(self._square, self._square)
        if self.amounts.rows:
            F.embedding_bag(self._indices[i % _INDEX_SETS], self._table, self._offsets, mode="sum")

    def as_json(self) -> dict[str, Any]:
        """What another run's must be equal in for the two to be the same work."""
        return {"version": VERSION, "amounts": self.amounts.as_json()}
