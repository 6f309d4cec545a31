"""A launch of every kernel that a layer's step on a GPU takes, by what it is and its size.

Letters: N rows, D columns, B tokens, L lookups a token, n sub-keys a half, k rows a head, E experts.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from membench.layers.kernels import step_clock
from membench.layers.kernels.lookups import Runs
from membench.layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep
from membench.layers.kernels.torch.lookups import find_runs
from membench.layers.kernels.triton import (
    dispatch,
    grouped_matmul,
    lookups,
    quantized_bag,
    read_rows,
    rms_norm,
    router,
    row_passes,
    swiglu,
    three_parts,
    top_k,
)
from membench.layers.kernels.triton import step_clock as by_triton

SUB_KEYS = (128, 1024, 4096)
TOP_K = (16, 32)
_ROWS, _TOKENS, _LOOKUPS = 1024, 256, 128
_EXPERTS = 8
_CHOSEN_FROM, _CHOSEN = 64, 8  # experts, by a token


class Calls(NamedTuple):
    """What is called, its size, and the call."""

    what: str
    size: int  # D, n or E
    call: Callable[[], object]


def every_call(widths: Iterable[int]) -> Iterator[Calls]:
    """Each on bf16 rows (N, D) of the CPU, for every D: under ``compile_only`` nothing is read."""
    for columns in widths:
        yield from _of_rows(columns)
        yield from _of_experts(columns)
        yield from _of_norms(columns)
    for sub_keys in SUB_KEYS:
        for chosen in TOP_K:
            yield from _of_retrieval(sub_keys, chosen)
    yield from _of_choices()


def _of_choices() -> Iterator[Calls]:
    lookups_of, order = (torch.zeros(_TOKENS * _LOOKUPS, dtype=dtype) for dtype in (torch.int32, torch.int64))
    yield Calls("runs", _ROWS, lambda: lookups.compacted(lookups_of, order, torch.int32))
    logits, weights = torch.zeros(_TOKENS, _CHOSEN_FROM), torch.zeros(_TOKENS, _CHOSEN)
    chosen, shares = weights.long(), torch.zeros(_CHOSEN_FROM)
    yield Calls("router", _CHOSEN_FROM, lambda: router.route(logits, None, _CHOSEN, False, True, True))
    yield Calls(
        "router's gradients",
        _CHOSEN_FROM,
        lambda: router.route_backward(logits, chosen, weights, shares, False, True),
    )
    yield Calls("dispatch", _CHOSEN_FROM, lambda: dispatch.by_expert(chosen, _CHOSEN_FROM))
    clock = torch.zeros(len(step_clock.Field), dtype=torch.float64)
    yield Calls("clock", len(clock), lambda: by_triton.advance_(clock, True))


def _of_rows(columns: int) -> Iterator[Calls]:
    table = torch.zeros(_ROWS, columns, dtype=torch.bfloat16)
    tokens, weights = torch.zeros(_TOKENS, columns, dtype=torch.bfloat16), torch.ones(_TOKENS, _LOOKUPS)
    rows = torch.randint(_ROWS, (_TOKENS, _LOOKUPS), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    runs = _runs(rows)
    yield Calls("bag", columns, lambda: row_passes.weighted_bag(table, rows, weights))
    yield Calls("dots", columns, lambda: row_passes.row_dots(table, rows, tokens))
    yield Calls("read", columns, lambda: read_rows.read_rows(table, rows.flatten()))
    yield Calls(
        "backward", columns, lambda: row_passes.row_backward(table, runs, weights, tokens, gradient=True, dots=True)
    )
    clock = torch.zeros(len(step_clock.Field), dtype=torch.float64)
    # counted on the device, the rules that have most in registers
    counted_there = [(optimizer, clock) for optimizer in ROW_OPTIMIZERS if "adam" in optimizer]
    for optimizer, counted in [*((optimizer, None) for optimizer in ROW_OPTIMIZERS), *counted_there]:
        state, step = RowState.of(table, optimizer), RowStep(optimizer, 1e-3, seed=1, clock=counted)
        captured = " captured" if counted is not None else ""
        yield Calls(
            f"backward {optimizer}{captured}",
            columns,
            lambda state=state, step=step: row_passes.row_backward_update_(
                table, state, runs, weights, tokens, step, dots=True
            ),
        )
        yield Calls(
            f"update {optimizer}{captured}",
            columns,
            lambda state=state, step=step: row_passes.update_rows_(
                table, state, runs.rows, torch.zeros(len(runs.rows), columns, dtype=torch.bfloat16), step
            ),
        )
    for dtype in (torch.int8, torch.float8_e4m3fn):
        quantized, scales = torch.zeros(_ROWS, columns, dtype=dtype), torch.ones(_ROWS)
        yield Calls(
            f"bag {str(dtype).removeprefix('torch.')}",
            columns,
            lambda quantized=quantized, scales=scales: quantized_bag.quantized_bag(
                quantized, scales, rows, weights, torch.bfloat16
            ),
        )


def _of_experts(columns: int) -> Iterator[Calls]:
    ends = torch.full((_EXPERTS,), _TOKENS, dtype=torch.int32)
    weight = torch.zeros(_EXPERTS, columns, columns, dtype=torch.bfloat16)
    x, token = torch.zeros(_TOKENS, columns, dtype=torch.bfloat16), torch.arange(_TOKENS)
    yield Calls("experts", columns, lambda: grouped_matmul.grouped_linear(x, weight, ends, token))
    yield Calls(
        "experts' gradients",
        columns,
        lambda: grouped_matmul.grouped_linear_gradients(x, x, ends, x_token=token),
    )
    gate_up, ones = torch.zeros(_TOKENS, 2 * columns, dtype=torch.bfloat16), torch.ones(_TOKENS)
    yield Calls("activation", columns, lambda: swiglu.activate(gate_up))
    yield Calls("activation's gradients", columns, lambda: swiglu.activate_backward(gate_up, x, ones))
    yield Calls("gate's gradients", columns, lambda: swiglu.gated_backward(x, x, x))


def _of_norms(columns: int) -> Iterator[Calls]:
    x, scale = torch.zeros(_TOKENS, columns, dtype=torch.bfloat16), torch.ones(columns, dtype=torch.bfloat16)
    yield Calls("norm", columns, lambda: rms_norm.rms_norm(x, scale, 1e-5))
    yield Calls("norm's gradients", columns, lambda: rms_norm.rms_norm_backward(x, scale, x, 1e-5))
    yield Calls("norm by two scales", columns, lambda: rms_norm.rms_norm_scaled_twice(x, scale, scale, 1e-5, False))
    yield Calls("norm in parts", columns, lambda: rms_norm.rms_norm_scaled_twice(x, scale, scale, 1e-5, True))
    yield Calls(
        "gradients of two scales",
        columns,
        lambda: rms_norm.rms_norm_scaled_twice_backward(x, scale, scale, x.float(), 1e-5),
    )
    yield Calls("scales of keys", columns, lambda: rms_norm.inverse_rms(x, 1e-5))
    yield Calls("gradients across keys", columns, lambda: rms_norm.across_rows(x, x, torch.ones(_TOKENS)))
    yield Calls("parts", columns, lambda: three_parts.three_parts(x.float()))


def _of_retrieval(sub_keys: int, chosen: int) -> Iterator[Calls]:
    scores, halves = torch.zeros(4, 2, _TOKENS, sub_keys), torch.zeros(2, _TOKENS, 4, chosen, dtype=torch.int32)
    scales = torch.ones(4, 2, 1, sub_keys)
    yield Calls("top_k", sub_keys, lambda: top_k.product_key_top_k(scores, chosen))
    yield Calls("scaled top_k", sub_keys, lambda: top_k.product_key_top_k(scores, chosen, scales))
    yield Calls(
        "scores' gradient",
        sub_keys,
        lambda: top_k.scores_gradient(halves, torch.zeros(_TOKENS, 4, chosen), sub_keys, None, torch.bfloat16),
    )


def _runs(rows: Tensor) -> Runs:
    """As kernels get them: arrays as long as lookups, the last runs empty."""
    distinct, starts, order = find_runs(rows.flatten(), _ROWS)
    empty = rows.numel() - len(distinct)
    pad = torch.nn.functional.pad
    return Runs(pad(distinct, (0, empty)), pad(starts, (0, empty), value=rows.numel()), order)
