"""What this project's Triton kernels move and multiply, each by a formula over what it is launched with.

A kernel that is not named here is an error. How often a table's row is read is not known without values: distinct rows
are those that so many reads are expected to find.

Letters: N rows of a table, D columns, B tokens, L lookups a token, M = B·L, U distinct rows among them, E experts,
R rows of experts; a program's tile has ROWS rows and TILE columns.
"""

import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from membench.layers.spec.expectation import expected_busiest_load
from membench.profiler.launches.torch_work import product_rate, stored_bytes
from membench.profiler.launches.work import L2_TRIP, Gather, Uncounted, Work

Distinct = Callable[[int, int], float]
"""Of N rows, those that M reads are expected to find."""
_INDEX_BYTES = 4


def work_of(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], distinct: Distinct) -> Work:
    """Of one launch.

    Args:
        kernel: as Triton decorated it.
        arguments, constants: as ``layers.kernels.triton.launch.launch`` gets them.

    Raises:
        Uncounted: the kernel is not named here.
    """
    name = kernel.fn.__name__
    if name not in _FORMULAS:
        raise Uncounted(f"the kernel {name}: say in {__name__} what it moves")
    names = inspect.signature(kernel.fn).parameters
    return _FORMULAS[name](SimpleNamespace(**dict(zip(names, arguments, strict=False)), **constants), distinct)


def _bag(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Rows (B, L) are read into a sum (B, D), ROWS at a time."""
    reads, turns = of.rows.numel(), math.ceil(of.lookups / of.ROWS)
    rows = _rows_of(of.table, of.COLUMNS, reads, distinct)
    return Work(_bytes(of.rows, of.weights, of.sums), (rows,), 2.0 * reads * of.COLUMNS, trips=1 + turns, turns=turns)


def _quantized_bag(of: SimpleNamespace, distinct: Distinct) -> Work:
    """The same of rows of eight bits, and a scale of each."""
    reads, turns = of.rows.numel(), math.ceil(of.LOOKUPS / of.ROWS)
    unique = distinct(len(of.table), reads)
    rows = Gather(reads, unique, of.COLUMNS * of.table.element_size() + of.scales.element_size())
    return Work(_bytes(of.rows, of.weights, of.bags), (rows,), 2.0 * reads * of.COLUMNS, trips=1 + turns, turns=turns)


def _dots(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Rows (B, L) times their token's vector; each program has SHARE of a token's, and reads the vector again."""
    tokens, reads = len(of.rows), of.rows.numel()
    shares = math.ceil(of.lookups / of.SHARE)
    turns = math.ceil(min(of.SHARE, of.lookups) / of.ROWS) * math.ceil(of.COLUMNS / of.TILE)
    vectors = Gather(tokens * shares, tokens, of.COLUMNS * of.tokens.element_size())
    rows = _rows_of(of.table, of.COLUMNS, reads, distinct)
    return Work(_bytes(of.rows, of.products), (rows, vectors), 2.0 * reads * of.COLUMNS, trips=1 + turns, turns=turns)


def _short_runs(launched: SimpleNamespace, distinct: Distinct) -> Work:
    """U rows in order, of each its tokens; a program has ROWS runs, most of the last programs have none.

    A program waits for where its runs begin, for the first lookups, for their rows, tokens and what an update
    remembers, all asked for together, and then for the tokens of the longest of its runs, two at a time.
    """
    of, reads = launched.of, len(launched.of.order)
    starts = (launched.runs + 1) * _INDEX_BYTES
    if _are_long(of, launched.SPLIT):
        return Work(starts, trips=L2_TRIP, live=0.0)
    unique = distinct(len(of.table), reads)
    longest = max(1.0, expected_busiest_load(reads / unique, launched.ROWS))
    turns = max(1.0, longest / 2)
    trips = 1 + 3 * L2_TRIP + (turns - 1) * L2_TRIP
    live = unique / launched.runs
    moved = _backward(launched, reads, unique)
    return Work(
        starts + unique * of.rows.element_size() + moved.streamed_bytes,
        moved.gathers,
        moved.flops,
        trips=live * trips + (1 - live) * L2_TRIP,
        turns=turns,
        live=live,
    )


def _long_run_pieces(launched: SimpleNamespace, distinct: Distinct) -> Work:
    """Programs look for the run of their window, and sum its piece where the run is a long one."""
    of, search = launched.of, math.log2(max(2, launched.runs)) * L2_TRIP
    windows = math.ceil(len(of.order) / launched.SPLIT)
    searched = 2.0 * windows * math.log2(max(2, launched.runs)) * _INDEX_BYTES
    if not _are_long(of, launched.SPLIT):
        return Work(searched, trips=search, live=0.0)
    reads, columns = len(of.order), launched.COLUMNS
    vectors = Gather(reads, len(of.tokens), columns * of.tokens.element_size())
    streamed = searched + _bytes(of.order, of.weights, launched.pieces)
    products = (launched.pieces is not None) + (of.dots is not None)
    if of.dots is not None:
        streamed += _bytes(of.dots) + 2.0 * windows * columns * of.table.element_size()
    turns = math.ceil(launched.SPLIT / launched.ROWS)
    return Work(streamed, (vectors,), 2.0 * products * reads * columns, trips=search + turns * L2_TRIP, turns=turns)


def _finish_long_runs(launched: SimpleNamespace, distinct: Distinct) -> Work:
    """The same search; then pieces are read, and their sum is written or updates a row."""
    of, search = launched.of, math.log2(max(2, launched.runs)) * L2_TRIP
    searched = math.ceil(len(of.order) / launched.SPLIT) * math.log2(max(2, launched.runs)) * _INDEX_BYTES
    if not _are_long(of, launched.SPLIT):
        return Work(searched, trips=search, live=0.0)
    unique = distinct(len(of.table), len(of.order))
    return Work(searched + _bytes(launched.pieces) + _written(launched, unique), trips=search + 2)


def _update_rows(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Rows (U,) of the table are read and written, with what is remembered of them, by gradients (U, D)."""
    del distinct
    row_bytes = of.COLUMNS * of.table.element_size() + _state_bytes(of.step)
    return Work(_bytes(of.rows, of.gradient) + 2.0 * of.count * row_bytes, trips=2.0)


def _advance(of: SimpleNamespace, distinct: Distinct) -> Work:
    """A clock is read and written."""
    del distinct
    return Work(2 * _bytes(of.clock), trips=2.0)


def _read_rows(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Rows (M,) are read and combined."""
    rows = _rows_of(of.table, of.WORDS, of.count, distinct)
    return Work(_bytes(of.rows, of.combined), (rows,), trips=2.0)


def _product_key_top_k(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Both halves' scores are read; of the best neighbourhoods once more, from a cache."""
    del distinct
    turns = max(1, math.ceil(math.ceil(of.SUB_KEYS / of.NEIGHBOURS) / of.GROUPS))
    trips = 2 * (turns + L2_TRIP * (of.NEIGHBOURS > 1)) + L2_TRIP
    return Work(_bytes(of.scores, of.scales, of.halves, of.weights), trips=trips, turns=turns)


def _scores_gradient(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Two numbers of each lookup are written among zeros; lookups and their sums' gradients are read."""
    del distinct
    written = of.halves.numel() * of.gradient.element_size()
    scales = () if of.scales is None else (Gather(of.halves.numel(), of.scales.numel(), of.scales.element_size()),)
    return Work(_bytes(of.halves) + 2 * _bytes(of.of_sums) + written, scales, trips=2.0)


def _activate(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Twice (R, f) is read, once written."""
    del distinct
    return Work(_bytes(of.gates, of.ups, of.hidden))


def _activate_backward(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Three times (R, f) is read, and two or three times written."""
    del distinct
    moved = _bytes(of.gates, of.ups, of.gradient, of.weight, of.hidden, of.of_gate, of.of_up, of.of_weight)
    return Work(moved, trips=math.ceil(of.HIDDEN / of.TILE))


def _rms_norm(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(R, d) is read; it or its three parts are written."""
    del distinct
    return Work(_bytes(of.x, of.scale, of.other, of.normed))


def _rms_norm_backward(of: SimpleNamespace, distinct: Distinct) -> Work:
    """A program has SHARE rows, ROWS at a time."""
    del distinct
    turns = math.ceil(of.SHARE / of.ROWS)
    return Work(_bytes(of.x, of.scale, of.other, of.gradient, of.of_x, of.sums), trips=turns, turns=turns)


def _add_scale_parts(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(parts, G·d) is read, PARTS of them at a time."""
    del distinct
    turns = math.ceil(of.parts / of.PARTS)
    factors = () if of.other is None else (of.scale, of.other)
    return Work(_bytes(of.sums, *factors, of.of_scale, of.of_other), trips=turns + len(factors) / 2, turns=turns)


def _inverse_rms_of_rows(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(R, d) is read, (R,) written."""
    del distinct
    return Work(_bytes(of.x, of.found))


def _across_rows(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Twice (R, d) is read, once written."""
    del distinct
    return Work(_bytes(of.gradient, of.x, of.inverse_rms, of.found))


def _count_firsts(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(M,) sorted rows are read."""
    del distinct
    return Work(_bytes(of.ascending, of.firsts))


def _place_firsts(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(M,) sorted rows and where they were are read, as much is written; before it the counts of all blocks."""
    del distinct
    moved = _bytes(of.ascending, of.order, of.firsts, of.runs, of.starts, of.narrow_order)
    return Work(moved, trips=1 + math.ceil(of.blocks / of.BLOCK) * L2_TRIP)


def _route(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(B, E) is read, SHARE tokens by a program, ROWS at a time."""
    del distinct
    turns = math.ceil(of.SHARE / of.ROWS)
    moved = _bytes(of.logits, of.bias, of.chosen, of.weights, of.sums, of.counts)
    return Work(moved, trips=turns, turns=turns)


def _add_parts(of: SimpleNamespace, distinct: Distinct) -> Work:
    """Sums and counts of each share are read, BLOCK at a time."""
    del distinct
    turns = math.ceil(of.parts / of.BLOCK)
    return Work(_bytes(of.sums, of.counts, of.shares, of.load), trips=turns, turns=turns)


def _route_backward(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(B, E) is read and written, and what was chosen with its gradients is read."""
    del distinct
    return Work(_bytes(of.logits, of.chosen, of.of_weights, of.of_shares, of.found), trips=2.0)


def _count_slots(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(B, K) is read, a part by a program, BLOCK at a time."""
    del distinct
    turns = math.ceil(of.of_part / of.BLOCK)
    return Work(_bytes(of.selected, of.counts), trips=turns, turns=turns)


def _place_slots(of: SimpleNamespace, distinct: Distinct) -> Work:
    """The same again after the counts of all parts; and what a dispatch is made of is written."""
    del distinct
    turns = math.ceil(of.of_part / of.BLOCK)
    moved = _bytes(of.selected, of.counts, of.token, of.ends, of.slot, of.returned, of.starts)
    return Work(moved, trips=turns + math.ceil(of.parts / of.BLOCK) * L2_TRIP, turns=turns)


def _three_parts(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(R, c) fp32 is read, (R, 3c) bf16 written."""
    del distinct
    return Work(_bytes(of.x, of.parts))


def _grouped_linear(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(R, N) of rows (R, M), gathered or not, and the matrices of experts that have any."""
    rows, items = len(of.y), of.x.element_size()
    matrices = distinct(of.experts, rows) * of.N * of.M * items
    read = Gather(rows, min(rows, len(of.x)), of.M * items)
    flops, rate = _multiplied(2.0 * rows * of.N * of.M, of)
    return Work(matrices + _bytes(of.token, of.ends, of.y), (read,), flops, rate)


def _grouped_linear_gradients(of: SimpleNamespace, distinct: Distinct) -> Work:
    """(E, N, M) of rows (R, N) and (R, M), gathered or not."""
    del distinct
    rows, items = len(of.x if of.x_token is None else of.x_token), of.x.element_size()
    read = tuple(Gather(rows, min(rows, len(each)), each.shape[1] * items) for each in (of.x, of.y_gradient))
    flops, rate = _multiplied(2.0 * rows * of.N * of.M, of)
    return Work(_bytes(of.x_token, of.y_token, of.ends, of.gradient), read, flops, rate)


_FORMULAS: dict[str, Callable[[SimpleNamespace, Distinct], Work]] = {
    "bag": _bag,
    "dots": _dots,
    "short_runs": _short_runs,
    "long_run_pieces": _long_run_pieces,
    "finish_long_runs": _finish_long_runs,
    "update_rows": _update_rows,
    "advance": _advance,
    "_read_rows": _read_rows,
    "_quantized_bag": _quantized_bag,
    "_product_key_top_k": _product_key_top_k,
    "_scores_gradient": _scores_gradient,
    "_activate": _activate,
    "_activate_backward": _activate_backward,
    "_rms_norm": _rms_norm,
    "_add_scale_parts": _add_scale_parts,
    "_rms_norm_backward": _rms_norm_backward,
    "_inverse_rms_of_rows": _inverse_rms_of_rows,
    "_across_rows": _across_rows,
    "_count_firsts": _count_firsts,
    "_place_firsts": _place_firsts,
    "_route": _route,
    "_add_parts": _add_parts,
    "_route_backward": _route_backward,
    "_count_slots": _count_slots,
    "_place_slots": _place_slots,
    "_three_parts": _three_parts,
    "_grouped_linear": _grouped_linear,
    "_grouped_linear_gradients": _grouped_linear_gradients,
}
NAMES = tuple(_FORMULAS)


def _backward(launched: SimpleNamespace, reads: int, unique: float) -> Work:
    """What a backward pass over M lookups of U rows moves but for where the runs are."""
    of, columns = launched.of, launched.COLUMNS
    sums = of.gradient is not None or launched.OPTIMIZER is not None
    vectors = Gather(reads, len(of.tokens), columns * of.tokens.element_size())
    streamed = _bytes(of.order) + _written(launched, unique)
    if sums:
        streamed += _bytes(of.weights)
    if of.dots is not None:
        streamed += _bytes(of.dots)
    if of.dots is not None and launched.OPTIMIZER is None:
        streamed += unique * columns * of.table.element_size()
    return Work(streamed, (vectors,), 2.0 * (sums + (of.dots is not None)) * reads * columns)


def _written(launched: SimpleNamespace, unique: float) -> float:
    """Bytes of gradients that are written, or of rows that are read and updated with what is remembered of them."""
    of, moved = launched.of, 0.0
    if of.gradient is not None:
        moved += unique * launched.COLUMNS * of.gradient.element_size()
    if launched.OPTIMIZER is not None:
        moved += 2 * unique * (launched.COLUMNS * of.table.element_size() + _state_bytes(launched.step))
    return moved


def _are_long(of: Any, split: int) -> bool:
    """Whether a row is read so often that its run is a long one; where all rows are as likely, all are or none."""
    return len(of.order) > split * len(of.table)


def _state_bytes(step: Any) -> int:
    """What a row optimizer remembers of one row."""
    kept = [each for each in (step.sums, step.first, step.second, step.stamps) if each is not None]
    return sum(each[0].numel() * each.element_size() for each in kept)


def _rows_of(table: Tensor, columns: int, reads: int, distinct: Distinct) -> Gather:
    return Gather(reads, distinct(len(table), reads), columns * table.element_size())


def _multiplied(flops: float, of: SimpleNamespace) -> tuple[float, str]:
    """FLOPs and their rate: three products in TF32 stand for one in fp32."""
    if of.PRECISION == "tf32x3" and of.x.element_size() == 4:
        return 3 * flops, "tfloat32"
    rate = product_rate(of.x.dtype)
    return flops, "tfloat32" if rate == "float32" else rate


def _bytes(*tensors: Tensor | None) -> float:
    return float(sum(stored_bytes(each) for each in tensors if each is not None))
