"""Row passes by Triton kernels. Shapes and meaning: ``layers.kernels.row_passes``.

Nothing here waits for the GPU, and no kernel is compiled again because the number of tokens changes.

Letters: N rows, D columns, B tokens, L lookups a token, M = B·L, U distinct rows among them.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.lookups import Runs
from membench.layers.kernels.row_update import RowState, RowStep
from membench.layers.kernels.triton import backward_kernels, bag_kernels, tiles, update_kernels
from membench.layers.kernels.triton.backward_kernels import Operands
from membench.layers.kernels.triton.launch import launch
from membench.layers.kernels.triton.row_shape import row_shape
from membench.layers.kernels.triton.tiles import Tile, ceil_div
from membench.layers.kernels.triton.update_kernels import StepNumbers

SPLIT = 256  # one program sums at most so many lookups of one row
_BAGS_AT_ONCE = 8  # wide ones that a multiprocessor holds: 32 warps of 57 to 64 registers, four a bag
_SHARE_OF_DOTS = 16  # lookups of a token for one program: few, so that even a few tokens keep a GPU busy


def weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """One program per bag, or several if there are too few bags to keep the GPU busy."""
    (tokens, lookups), columns = rows.shape, table.shape[1]
    sums = table.new_empty(tokens, columns)
    tile = tile_of_bags(table.device, tokens, columns, table.itemsize, lookups)
    if sums.numel():
        programs = (tokens * tile.parts(columns),)
        arguments = (table, rows.contiguous(), weights.contiguous(), sums, lookups)
        launch(table, bag_kernels.bag, programs, *arguments, **row_shape(table), **tile.constants)
    return sums


def tile_of_bags(device: torch.device, tokens: int, columns: int, itemsize: int, lookups: int) -> Tile:
    """Of as many bags as there are tokens: narrow ones where wide ones would not fill every multiprocessor."""
    wide = tiles.of_bags(columns, itemsize, lookups, few=False)
    if tokens * wide.parts(columns) >= _BAGS_AT_ONCE * _multiprocessors(device):
        return wide
    return tiles.of_bags(columns, itemsize, lookups, few=True)


def row_dots(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Each program computes some lookups of one token."""
    lookups = rows.shape[1]
    products = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    if products.numel():
        tile = tiles.of_dots(table.shape[1], table.itemsize)
        programs = (len(rows) * ceil_div(lookups, _SHARE_OF_DOTS),)
        arguments = (table, rows.contiguous(), tokens.contiguous(), products, lookups)
        constants = {"SHARE": _SHARE_OF_DOTS, **row_shape(table), **tile.constants}
        launch(table, bag_kernels.dots, programs, *arguments, **constants)
    return products


def row_backward(
    table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor, *, by_row: bool = False, gradient: bool, dots: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of an empty run is left unwritten; by row, a row's that nothing read is zero."""
    summed = None
    if gradient:
        summed = tokens.new_zeros(table.shape) if by_row else tokens.new_empty(len(runs.rows), table.shape[1])
    tile = tiles.of_runs(table.shape[1], whole=False)
    products = _products(tile, table, weights) if dots else None
    if gradient or dots:
        of = _operands(table, runs, weights, tokens, summed, products)
        _backward(of, tile, _NO_UPDATE, by_row=by_row)
    return summed, None if products is None else _added(products)


def row_backward_update_(
    table: Tensor, state: RowState, runs: Runs, weights: Tensor, tokens: Tensor, step: RowStep, *, dots: bool
) -> Tensor | None:
    """A program holds whole rows, because an update needs the mean square of a row's gradient."""
    tile = tiles.of_runs(table.shape[1], whole=True)
    products = _products(tile, table, weights) if dots else None
    of = _operands(table, runs, weights, tokens, None, products)
    _backward(of, tile, _update(table, state, step))
    return None if products is None else _added(products)


def update_rows_(table: Tensor, state: RowState, rows: Tensor, gradient: Tensor, step: RowStep) -> None:
    """Each program updates as many whole rows as fit into its registers."""
    if gradient.numel():
        tile = tiles.of_runs(table.shape[1], whole=True)
        programs = (ceil_div(len(rows), tile.rows),)
        arguments = (table, rows.contiguous(), gradient.contiguous())
        constants = {"count": len(rows), **row_shape(table), **_update(table, state, step), **tile.constants}
        launch(table, update_kernels.update_rows, programs, *arguments, **constants)


def _operands(
    table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor, gradient: Tensor | None, products: Tensor | None
) -> Operands:
    weights, tokens = weights.contiguous(), tokens.contiguous()
    return Operands(table, runs.rows, runs.starts, runs.order, weights, tokens, gradient, products)


def _backward(of: Operands, tile: Tile, update: dict[str, Any], *, by_row: bool = False) -> None:
    """First the short runs, then the long ones. Long ones can exist only if there are more than SPLIT lookups."""
    (runs, count), (columns, lookups) = (len(of.rows), len(of.order)), (of.table.shape[1], of.weights.shape[1])
    if not count:
        return
    parts = tile.parts(columns)
    constants = {"runs": runs, "SPLIT": SPLIT, **row_shape(of.table)}
    of_lookups, placed = {"count": count, "LOOKUPS": lookups}, {"BY_ROW": by_row}
    programs = (ceil_div(runs, tile.rows), parts)
    short = {**of_lookups, **constants, **placed, **update, **tile.constants}
    launch(of.table, backward_kernels.short_runs, programs, of, **short)
    if count > SPLIT:
        windows, constants = ceil_div(count, SPLIT), {**constants, **tiles.of_pieces(tile).constants}
        sums = of.gradient is not None or update is not _NO_UPDATE
        pieces = torch.empty(2 * windows, columns, dtype=torch.float32, device=of.table.device) if sums else None
        programs = (2 * windows, parts)
        launch(of.table, backward_kernels.long_run_pieces, programs, of, pieces, **of_lookups, **constants)
        if sums:
            programs = (windows, parts)
            launch(of.table, backward_kernels.finish_long_runs, programs, of, pieces, **constants, **placed, **update)


def _products(tile: Tile, table: Tensor, weights: Tensor) -> Tensor:
    """(parts, B, L): one part per tile of columns, because a program computes only its own tile's products."""
    return torch.empty(tile.parts(table.shape[1]), *weights.shape, dtype=torch.float32, device=table.device)


def _added(products: Tensor) -> Tensor:
    return products[0] if len(products) == 1 else products.sum(0)


_NO_UPDATE = {"step": None, "number": 0, "seed": 0, "OPTIMIZER": None, "STOCHASTIC": False}


def _update(table: Tensor, state: RowState, step: RowStep) -> dict[str, Any]:
    """The arguments of kernels that end in an update."""
    return {
        "step": StepNumbers.of(state, step),
        "number": step.number,
        "seed": _as_int32(step.seed or 0),
        "OPTIMIZER": step.optimizer,
        "STOCHASTIC": step.seed is not None and table.dtype == torch.bfloat16,
    }


def _as_int32(bits: int) -> int:
    """The same 32 bits as a signed number; a larger number would be a 64-bit argument, and compile another kernel."""
    return (bits + 2**31) % 2**32 - 2**31


@cache
def _multiprocessors(device: torch.device) -> int:
    """The number of a GPU. Interpreted kernels do not need many programs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
