"""Adding up the gradients of what several ranks hold.

Letters: U distinct rows that were read, D columns.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from membench.layers.kernels.lookups import index_dtype
from membench.layers.parallel.collectives import Gather, sendable, sizes_of_all, there, total
from membench.layers.tables.value_table import RowGradient, ValueTable


@torch.no_grad()
def sum_(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Adds up all ranks' tensors in place, in one message for each dtype."""
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.dtype, []).append(tensor)
    for some in alike.values():
        flat = total(torch.cat([tensor.flatten() for tensor in some]), group, "all_reduce_gradients")
        for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def sum_rows_(table: ValueTable, group: dist.ProcessGroup) -> None:
    """Adds up the row gradients of all copies of a table: each sends the U rows that it read, never N."""
    own = table.gradient
    if own is None:
        nothing = table.weight.new_empty(0, table.weight.shape[1])
        own = RowGradient(nothing.new_empty(0, dtype=torch.int64), nothing)
    where = own.rows.device
    route = Gather(sizes_of_all(len(own.rows), group, where, "all_gather_row_sizes"), group)

    def of_all(x: Tensor, name: str) -> Tensor:
        return there(sendable(x, group), route, name).to(where)

    rows = of_all(own.rows.to(index_dtype(len(table.weight))), "all_gather_touched_rows")
    values, sizes = of_all(own.values, "all_gather_row_gradients"), route.sizes
    parts = [RowGradient(*part) for part in zip(rows.split(sizes), values.split(sizes), strict=True) if len(part[0])]
    table.gradient = None
    for part in parts:
        table.accumulate(part)
