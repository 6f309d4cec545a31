"""Draws awkward shapes for every Triton kernel and holds what it computes against float64, element by element.

    python -m tests.random_shapes                       # 1,000 shapes of each: hours where kernels are interpreted
    python -m tests.random_shapes --shapes 50 bag dots  # fewer, of some
    python -m tests.random_shapes --shapes 1 --seed 7 bag  # again what a failure named

Shapes of an operator are drawn until each of its kernels was launched on so many; a line says how many that were. A
shape that fails is told with the seed that draws it again, and the others go on. Exit code 1 where one failed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from triton_device import DEVICE  # isort: split

import argparse
import random
import secrets
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import triton_interpreter  # noqa: F401
from torch import Tensor
from torch.nn import functional

from layers.kernels import dispatch, paths
from layers.kernels.lookups import Runs
from layers.kernels.quantization import dequantize_rows, quantize_rows
from layers.kernels.row_update import ROW_OPTIMIZERS, RowOptimizer, RowState, RowStep
from layers.kernels.step_clock import advance_, mixed_seed, new_clock, rounding_seed
from layers.kernels.torch import lookups as plain_lookups
from layers.kernels.torch import top_k as plain_top_k
from layers.kernels.triton import dispatch as triton_dispatch
from layers.kernels.triton import (
    grouped_matmul,
    launch,
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

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# What rounding a result to its dtype may change, relative to it: half a unit, a whole one in the interpreter, which
# cuts off.
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
SMALLEST = {torch.float32: 1e-37, torch.bfloat16: 1e-37, torch.float16: 2.0**-23}
FP32 = 2.0**-23


def size(rng: random.Random, most: int, least: int = 0) -> int:
    """Small, next to a power of two, or any."""
    near = 2 ** rng.randint(0, max(0, most.bit_length() - 1)) + rng.choice([-1, 0, 1])
    return min(most, max(least, rng.choice([rng.randint(least, min(most, least + 3)), near, rng.randint(least, most)])))


def assert_close(found: Tensor, expected: Tensor, terms: Tensor | float, count: int, name: str = "") -> None:
    """Each element, off by no more than rounding its result and ``count`` roundings of terms of that size together."""
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    if not found.numel():
        return
    wide, expected = found.double().cpu(), expected.cpu()
    terms = terms.cpu() if isinstance(terms, Tensor) else terms
    allowed = ROUNDING[found.dtype] * expected.abs() + FP32 * (count + 8) * terms + SMALLEST[found.dtype]
    off = (wide - expected).abs()
    worst = (off / allowed).max()
    assert bool((off <= allowed).all()), f"{name}: {worst:.3g} times what is allowed"


def draw_lookups(rng: random.Random) -> tuple[int, int, Tensor, Tensor, torch.dtype]:
    """Rows N and columns D, rows (B, L) that are read, weights (B, L), the dtype of rows."""
    num_rows, columns = size(rng, 40, 1), size(rng, 130, 1)
    tokens, each = size(rng, 6), size(rng, 20)
    index = rng.choice([torch.int32, torch.int64])
    rows = torch.randint(num_rows, (tokens, each), dtype=index)
    if rng.random() < 0.5:  # a few rows very often
        rows = rows % max(1, num_rows // 8)
    return num_rows, columns, rows.to(DEVICE), torch.randn(tokens, each, device=DEVICE), rng.choice(DTYPES)


def bag(rng: random.Random) -> None:
    num_rows, columns, rows, weights, dtype = draw_lookups(rng)
    table = torch.randn(num_rows, columns, device=DEVICE).to(dtype)
    gathered = table.double()[rows.long()] * weights.double()[..., None]
    assert_close(
        row_passes.weighted_bag(table, rows, weights), gathered.sum(1), gathered.abs().sum(1), rows.shape[1], "bag"
    )


def dots(rng: random.Random) -> None:
    num_rows, columns, rows, _, dtype = draw_lookups(rng)
    table, tokens = torch.randn(num_rows, columns).to(DEVICE, dtype), torch.randn(len(rows), columns).to(DEVICE, dtype)
    products = table.double()[rows.long()] * tokens.double()[:, None]
    assert_close(row_passes.row_dots(table, rows, tokens), products.sum(2), products.abs().sum(2), columns, "dots")


def padded(rows: Tensor, num_rows: int) -> Runs:
    """Runs with the empty ones that a GPU adds."""
    distinct, starts, order = plain_lookups.find_runs(rows.flatten().cpu(), num_rows)
    empty = rows.numel() - len(distinct)
    distinct = functional.pad(distinct, (0, empty))
    starts = functional.pad(starts, (0, empty), value=rows.numel())
    return Runs(distinct.to(DEVICE), starts.to(DEVICE), order.to(DEVICE))


def gradients(rng: random.Random) -> None:
    """Of rows and of weights: short runs, and long ones in pieces."""
    num_rows, columns, rows, weights, dtype = draw_lookups(rng)
    row_passes.SPLIT = rng.choice([4, 4, 8, 256])
    table, tokens = torch.randn(num_rows, columns).to(DEVICE, dtype), torch.randn(len(rows), columns).to(DEVICE, dtype)
    runs, by_row = padded(rows, num_rows), rng.random() < 0.5
    asked = rng.choice([(True, True), (True, False), (False, True)])
    given = (table, runs, weights, tokens)
    summed, found = row_passes.row_backward(*given, by_row=by_row, gradient=asked[0], dots=asked[1])
    terms = (weights.double()[..., None] * tokens.double()[:, None]).flatten(0, 1)
    if summed is not None:
        expected, sizes = torch.zeros(2, num_rows, columns, dtype=torch.float64, device=DEVICE)
        expected.index_add_(0, rows.flatten().long(), terms)
        sizes.index_add_(0, rows.flatten().long(), terms.abs())
        read = rows.flatten().long().unique()
        at = read if by_row else torch.arange(len(read), device=DEVICE)
        assert_close(summed[at], expected[read], sizes[read], rows.numel(), "gradient")
        if by_row:
            assert not summed[[row for row in range(num_rows) if row not in read.tolist()]].any()
    if found is not None:
        products = table.double()[rows.long()] * tokens.double()[:, None]
        assert_close(found, products.sum(2), products.abs().sum(2), columns, "dots")


def updates(rng: random.Random) -> None:
    """Of rows by each rule, in the pass that finds their gradient and alone, by the host's numbers or a clock's."""
    num_rows, columns, rows, weights, dtype = draw_lookups(rng)
    row_passes.SPLIT = rng.choice([4, 4, 8, 256])
    rule: RowOptimizer = rng.choice(ROW_OPTIMIZERS)
    number = rng.choice([1, 2, rng.randint(1, 10_000)])
    step = RowStep(rule, 10 ** rng.uniform(-4, -1), rng.choice([0.0, 0.1]), eps=1e-5, number=number)
    table, tokens = torch.randn(num_rows, columns).to(DEVICE, dtype), torch.randn(len(rows), columns).to(DEVICE, dtype)
    state, given = RowState.of(table, rule), step
    for tensor in state.named_tensors().values():
        values = torch.rand(tensor.shape) if tensor.is_floating_point() else torch.randint(number, tensor.shape)
        tensor.copy_(values)
    if rng.random() < 0.5:
        clock = new_clock(table.device)
        clock[:6] = torch.tensor([number - 1, step.learning_rate, step.weight_decay, step.beta1, step.beta2, 5.0])
        clock[1:5] = torch.tensor([step.learning_rate, step.weight_decay, step.beta1, step.beta2], dtype=torch.float64)
        with paths.forced("triton"):
            advance_(clock, adam=rule in ("row_adam", "lazy_adam"))
        given = RowStep(rule, step.learning_rate, step.weight_decay, eps=1e-5, clock=clock)
    gradient = torch.zeros(num_rows, columns, dtype=torch.float64)
    before, kept = table.double().cpu(), {name: t.double().cpu() for name, t in state.named_tensors().items()}
    if rng.random() < 0.5:
        row_passes.row_backward_update_(
            table, state, padded(rows, num_rows), weights, tokens, given, dots=rng.random() < 0.5
        )
        terms = (weights.double()[..., None] * tokens.double()[:, None]).flatten(0, 1).cpu()
        gradient.index_add_(0, rows.flatten().long().cpu(), terms)
        read = rows.flatten().long().unique().cpu()
    else:
        read = torch.randperm(num_rows)[: size(rng, num_rows)]
        values = torch.randn(len(read), columns).to(dtype)
        gradient[read] = values.double()
        row_passes.update_rows_(table, state, read.to(DEVICE), values.to(DEVICE), given)
    expected = updated(before, kept, gradient, read, step)
    change = (expected["table"] - before).abs()
    for name, tensor in {"table": table, **state.named_tensors()}.items():
        if name == "stamps":
            assert torch.equal(tensor.cpu().double(), expected[name])
            continue
        # a sum that cancels is off by its terms' rounding, and what is divided by its root by as much, relatively
        sizes = expected[name].abs() + (gradient.abs().amax() if gradient.numel() else 0.0) + 1
        sizes = sizes + change * 100 if name == "table" else sizes
        assert_close(tensor, expected[name], sizes, 30 + rows.numel(), f"{name} after {rule}")


def updated(
    table: Tensor, state: dict[str, Tensor], gradient: Tensor, read: Tensor, step: RowStep
) -> dict[str, Tensor]:
    """The table and its state after an update of the rows ``read``, in float64 (``layers.kernels.row_update``)."""
    found = {"table": table.clone(), **{name: tensor.clone() for name, tensor in state.items()}}
    g, b1, b2, lr = gradient[read], step.beta1, step.beta2, step.learning_rate
    mean, decay, change = g.square().mean(1), 1 - lr * step.weight_decay, g
    corrected1, corrected2 = 1 - b1**step.number, 1 - b2**step.number
    match step.optimizer:
        case "row_adagrad":
            found["sums"][read] += mean
            change = g / (found["sums"][read].sqrt() + step.eps)[:, None]
        case "row_adam":
            found["first"][read] = b1 * state["first"][read] + (1 - b1) * g
            found["second"][read] = b2 * state["second"][read] + (1 - b2) * mean
            root = (found["second"][read] / corrected2).sqrt() + step.eps
            change = found["first"][read] / corrected1 / root[:, None]
        case "lazy_adam":
            gap = (step.number - state["stamps"][read])[:, None]
            found["first"][read] = b1**gap * state["first"][read] + (1 - b1) * g
            found["second"][read] = b2**gap * state["second"][read] + (1 - b2) * g.square()
            root = (found["second"][read] / corrected2).sqrt() + step.eps
            change, decay = found["first"][read] / corrected1 / root, decay**gap
            found["stamps"][read] = float(step.number)
        case _:
            pass
    found["table"][read] = decay * table[read] - lr * change
    return found


def clocks(rng: random.Random) -> None:
    """The numbers of some updates in a row, which the host works out in float64 too."""
    rate, decay = 10 ** rng.uniform(-6, 0), rng.choice([0.0, 0.1, rng.random()])
    betas = rng.choice([(0.9, 0.999), (rng.random() * 0.99, rng.random() * 0.9999)])
    number, mixed, adam = rng.choice([0, rng.randint(0, 2**30)]), mixed_seed(rng.randint(0, 2**31)), rng.random() < 0.5
    clock = new_clock(torch.device(DEVICE))
    clock[:6] = torch.tensor([number, rate, decay, *betas, mixed], dtype=torch.float64)
    for update in range(number + 1, number + 4):
        with paths.forced("triton"):
            advance_(clock, adam=adam)
        now = clock.tolist()
        assert now[0] == update and int(now[6]) == rounding_seed(mixed, update)
        kept = 1 - rate * decay
        expected = [rate / (1 - betas[0] ** update) if adam else rate, kept, 1 / (1 - betas[1] ** update)]
        for found, wanted in zip((now[7], now[8], now[10]), expected, strict=True):
            assert abs(found - wanted) <= 1e-11 * abs(wanted), (found, wanted)
        assert abs(2 ** now[9] - max(kept, 2.0**-126)) <= 1e-12


def quantized(rng: random.Random) -> None:
    num_rows, columns, rows, weights, result = draw_lookups(rng)
    kind = rng.choice([torch.int8, torch.float8_e4m3fn])
    table, scales = quantize_rows(torch.randn(num_rows, columns, device=DEVICE), kind)
    gathered = dequantize_rows(table, scales)[rows.long()].double() * weights.double()[..., None]
    found = quantized_bag.quantized_bag(table, scales, rows, weights, result)
    assert_close(found, gathered.sum(1), gathered.abs().sum(1), rows.shape[1] + 2, str(kind))


def reads(rng: random.Random) -> None:
    """All bits of the rows, by exclusive or."""
    num_rows, columns, rows, _, dtype = draw_lookups(rng)
    table = torch.randn(num_rows, columns, device=DEVICE).to(dtype)
    found = read_rows.read_rows(table, rows.flatten())
    words = table.view(torch.int8)
    words = words.view(torch.int32) if columns * table.itemsize % 4 == 0 else words
    wanted = np.bitwise_xor.reduce(words[rows.flatten().long()].flatten().cpu().numpy(), initial=0)
    assert np.bitwise_xor.reduce(found.cpu().numpy(), initial=0) == wanted


def choices(rng: random.Random) -> None:
    """Both halves' best and the best pairs, ties, infinities and NaN among them; then the gradient of the scores."""
    heads, tokens, sub_keys = rng.randint(1, 2), size(rng, 3), size(rng, 70, 1)
    chosen = size(rng, min(sub_keys, 9), 1)
    scores = torch.randn(heads, 2, tokens, sub_keys)
    if rng.random() < 0.5:
        scores = scores.mul(3).round()  # ties
    scales = torch.rand(heads, 2, 1, sub_keys) + 0.5 if rng.random() < 0.3 else None
    halves, weights = top_k.product_key_top_k(scores.to(DEVICE), chosen, None if scales is None else scales.to(DEVICE))
    scaled = scores if scales is None else scores * scales
    sums = scaled[:, 0].double()[..., None] + scaled[:, 1].double()[..., None, :]  # (H, B, n, n)
    order = sums.flatten(2).sort(dim=-1, descending=True, stable=True)
    index = order.indices[..., :chosen].transpose(0, 1)
    assert torch.equal(halves[0].cpu().long() * sub_keys + halves[1].cpu().long(), index)
    expected = torch.softmax(order.values[..., :chosen], -1).transpose(0, 1)
    assert_close(weights, expected, expected * (1 + scaled.abs().amax().item() if tokens else 1.0), 20, "weights")

    of_sums, dtype = torch.randn(tokens, heads, chosen, device=DEVICE), rng.choice(DTYPES)
    found = top_k.scores_gradient(halves, of_sums, sub_keys, None if scales is None else scales.to(DEVICE), dtype)
    given = (halves.cpu(), of_sums.cpu().double(), sub_keys, None if scales is None else scales.double(), torch.float64)
    wanted, sizes = (plain_top_k.scores_gradient(given[0], each, *given[2:]) for each in (given[1], given[1].abs()))
    assert_close(found, wanted, sizes, chosen, "gradient of scores")


def activations(rng: random.Random) -> None:
    rows, hidden, dtype = size(rng, 5), size(rng, 70, 1), rng.choice(DTYPES)
    gate_up = (2 * torch.randn(rows, 2 * hidden)).to(DEVICE, dtype)
    wide = gate_up.double().requires_grad_()
    gate, up = wide.chunk(2, dim=1)
    y = functional.silu(gate) * up
    assert_close(swiglu.activate(gate_up), y.detach(), y.detach().abs(), 20, "hidden")
    upstream = torch.randn(rows, hidden).to(DEVICE, dtype)
    weight = torch.randn(rows, device=DEVICE) if rng.random() < 0.5 else None
    hidden_found, of_gate_up, of_weight = swiglu.activate_backward(gate_up, upstream.clone(), weight)
    scaled = upstream.double() * (1 if weight is None else weight.double()[:, None])
    (expected,) = torch.autograd.grad(y, wide, scaled)
    wanted = y.detach() * (1 if weight is None else weight.double()[:, None])
    assert_close(hidden_found, wanted, wanted.abs(), 20, "hidden, weighed")
    sizes = (scaled.abs() * (1 + gate.detach().abs()) * (1 + up.detach().abs())).repeat(1, 2)
    assert_close(of_gate_up, expected, sizes, 20, "gradient")
    of_values, of_gate = swiglu.gated_backward(*reversed(gate_up.chunk(2, dim=1)), upstream)
    (expected,) = torch.autograd.grad(functional.silu(gate) * up, wide, upstream.double())
    unweighed = (upstream.double().abs() * (1 + gate.detach().abs()) * (1 + up.detach().abs())).repeat(1, 2)
    assert_close(torch.cat([of_gate, of_values], dim=1), expected, unweighed, 20, "gradient of what is gated")
    if weight is not None:
        products = upstream.double() * y.detach()
        assert_close(of_weight, products.sum(1), products.abs().sum(1), hidden + 20, "gradient of weights")


def norms(rng: random.Random) -> None:
    scales, columns, dtype = rng.randint(1, 3), size(rng, 130, 2), rng.choice(DTYPES)
    rows, eps = scales * size(rng, 40, 1), 1e-3
    x, upstream = torch.randn(rows, columns).to(DEVICE, dtype), torch.randn(rows, columns).to(DEVICE, dtype)
    scale = torch.randn(scales, columns).to(DEVICE, dtype)
    wide, wide_scale = x.double().requires_grad_(), scale.double().requires_grad_()
    inverse = (wide.square().mean(1, keepdim=True) + eps).rsqrt()
    normed = wide * inverse * wide_scale.repeat(rows // scales, 1)
    assert_close(rms_norm.rms_norm(x, scale, eps), normed.detach(), normed.detach().abs(), columns, "normed")
    of_x, of_scale = rms_norm.rms_norm_backward(x, scale, upstream, eps)
    expected = torch.autograd.grad(normed, (wide, wide_scale), upstream.double())
    terms = (upstream.double() * wide_scale.detach().repeat(rows // scales, 1)).abs() * inverse.detach()
    terms = terms + (terms * wide.detach().abs()).mean(1, keepdim=True) * wide.detach().abs() * inverse.detach() ** 2
    assert_close(of_x, expected[0], terms, columns, "gradient of x")
    of_rows = (upstream.double() * wide.detach() * inverse.detach()).abs()
    sizes = of_rows.view(-1, scales, columns).sum(0)
    assert_close(of_scale, expected[1], sizes, rows + columns, "gradient of the scale")

    other = torch.randn(scales, columns).to(DEVICE, dtype)
    wanted = (normed * other.double().repeat(rows // scales, 1)).detach()
    twice, in_parts = (rms_norm.rms_norm_scaled_twice(x, scale, other, eps, each) for each in (False, True))
    assert_close(twice, wanted, wanted.abs(), columns, "normed by two scales")
    of_parts = in_parts.double().view(rows, 3, columns).sum(1).float()  # 2^-21 is what three that are cut off leave
    assert_close(of_parts, wanted, wanted.abs(), columns + 4, "normed in parts")
    _, first, second = rms_norm.rms_norm_scaled_twice_backward(x, scale, other, upstream, eps)
    for found, by in ((first, other.double()), (second, scale.double())):
        assert_close(found, expected[1] * by, sizes * by.abs(), rows + columns, "gradient of two scales")

    assert_close(rms_norm.inverse_rms(x, eps), inverse.detach()[:, 0], inverse.detach()[:, 0], columns, "inverse")
    r = inverse.detach()[:, 0].float()
    each, wide_x, given = r.double()[:, None], x.double(), upstream.double()
    taken = wide_x * each**2 * (wide_x * given).mean(1, keepdim=True)
    sizes = given.abs() + wide_x.abs() * each**2 * (wide_x * given).abs().mean(1, keepdim=True)
    assert_close(rms_norm.across_rows(upstream, x, r), given - taken, sizes, columns, "across rows")


def runs(rng: random.Random) -> None:
    num_rows, count = rng.choice([1, 3, 50, 2**20, 2**35]), rng.choice([0, 1, size(rng, 3000), size(rng, 64)])
    rows = torch.randint(num_rows, (count,), dtype=torch.int64)
    if rng.random() < 0.5:
        rows = rows % size(rng, 30, 1)
    ascending, order = rows.to(DEVICE).sort(stable=True)
    found = lookups.compacted(ascending, order, torch.int64)
    distinct, counts = rows.unique(return_counts=True)
    used = len(distinct)
    assert torch.equal(found[0].cpu()[:used], distinct)
    assert torch.equal(found[1].cpu()[:used].long(), counts.cumsum(0) - counts)
    assert (found[1].cpu()[used:] == count).all()
    assert torch.equal(found[2].cpu().long(), order.cpu())


def routers(rng: random.Random) -> None:
    tokens, experts = size(rng, 40, 1), size(rng, 70, 1)
    chosen_each, sigmoid, renormalize = size(rng, min(experts, 9), 1), rng.random() < 0.5, rng.random() < 0.5
    # far apart, or equal: what lies within rounding of each other may be ranked either way
    logits = (torch.rand(tokens, experts).argsort(1) / experts * 4 - 2).to(DEVICE)
    if rng.random() < 0.3:
        logits = logits.round()
    chosen, weights, shares, load = router.route(logits, None, chosen_each, sigmoid, renormalize, True)
    wide = logits.double().requires_grad_()
    scores = torch.sigmoid(wide) if sigmoid else torch.softmax(wide, -1)
    picked = logits.sort(dim=-1, descending=True, stable=True).indices[:, :chosen_each]
    assert torch.equal(chosen, picked)
    expected = scores.gather(1, picked)
    expected = expected / expected.sum(1, keepdim=True) if renormalize else expected
    of_all = (scores / scores.sum(1, keepdim=True)).sum(0)
    assert_close(weights, expected.detach(), expected.detach(), experts + 10, "weights")
    assert_close(shares, of_all.detach(), of_all.detach(), experts + tokens, "shares")
    assert torch.equal(load, torch.bincount(picked.flatten(), minlength=experts))
    of_weights, of_shares = torch.randn(tokens, chosen_each, device=DEVICE), torch.randn(experts, device=DEVICE)
    found = router.route_backward(logits, chosen, of_weights, of_shares, sigmoid, renormalize)
    loss = (expected * of_weights.double()).sum() + (of_all * of_shares.double()).sum()
    (wanted,) = torch.autograd.grad(loss, wide)
    size_of = of_weights.abs().amax() + of_shares.abs().amax()
    assert_close(found, wanted, size_of.double() * 4, experts + 20, "gradient of logits")


def dispatches(rng: random.Random) -> None:
    experts, each, tokens = size(rng, 70, 1), size(rng, 5, 1), size(rng, 300)
    selected = torch.randint(experts, (tokens, each)).to(DEVICE)
    found = dispatch.Dispatch(*triton_dispatch.by_expert(selected, experts))
    with paths.forced("torch"):
        wanted = dispatch.by_expert(selected, experts)
    for name in ("token", "ends", "slot", "returned", "starts"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


def parts(rng: random.Random) -> None:
    matrices, rows, columns = size(rng, 3, 1), size(rng, 20), size(rng, 130, 1)
    x = (torch.randn(matrices, rows, columns) * 10.0 ** rng.randint(-3, 3)).to(DEVICE)
    found = three_parts.three_parts(x).double().cpu().view(matrices, rows, 3, columns)
    # rounded to nearest three bf16 hold 24 bits and more; cut off, as the interpreter does, 3 of 8 bits each
    off = (found.sum(2) - x.double().cpu()).abs()
    assert bool((off <= 2.0**-21 * x.double().cpu().abs() + 1e-37).all())


def grouped(rng: random.Random) -> None:
    experts, columns, inner = size(rng, 5, 1), size(rng, 40, 1), size(rng, 40, 1)
    counts = torch.tensor([size(rng, 20) for _ in range(experts)])
    ends, count = counts.cumsum(0).int().to(DEVICE), int(counts.sum())
    dtype, of_tokens = rng.choice([torch.float32, torch.bfloat16]), size(rng, 12, 1)
    token = torch.randint(of_tokens, (count,)).to(DEVICE) if rng.random() < 0.5 else None
    x = torch.randn(count if token is None else of_tokens, inner).to(DEVICE, dtype)
    weight, upstream = torch.randn(experts, columns, inner).to(DEVICE, dtype), torch.randn(count, columns)
    upstream = upstream.to(DEVICE, dtype)
    rows = (x if token is None else x[token]).double()
    expert = torch.repeat_interleave(torch.arange(experts), counts).to(DEVICE)
    products = rows[:, None] * weight.double()[expert]
    found = grouped_matmul.grouped_linear(x, weight, ends, token)
    assert_close(found, products.sum(2), products.abs().sum(2), inner, "rows by matrices")
    given = grouped_matmul.grouped_linear_gradients(upstream, x, ends, None, token)
    terms = upstream.double()[:, :, None] * rows[:, None]
    expected, sizes = torch.zeros(2, experts, columns, inner, dtype=torch.float64, device=DEVICE)
    expected.index_add_(0, expert, terms)
    sizes.index_add_(0, expert, terms.abs())
    assert_close(given, expected, sizes, count, "gradients of matrices")


# Of each operator what draws a shape of it, and the kernels that it launches.
DRAWS: dict[str, tuple[Callable[[random.Random], None], tuple[str, ...]]] = {
    "bag": (bag, ("bag",)),
    "dots": (dots, ("dots",)),
    "gradients": (gradients, ("short_runs", "long_run_pieces", "finish_long_runs")),
    "updates": (updates, ("short_runs", "long_run_pieces", "finish_long_runs", "update_rows", "advance")),
    "clocks": (clocks, ("advance",)),
    "quantized": (quantized, ("_quantized_bag",)),
    "reads": (reads, ("_read_rows",)),
    "choices": (choices, ("_product_key_top_k", "_scores_gradient")),
    "activations": (activations, ("_activate", "_activate_backward")),
    "norms": (norms, ("_rms_norm", "_rms_norm_backward", "_add_scale_parts", "_inverse_rms_of_rows", "_across_rows")),
    "runs": (runs, ("_count_firsts", "_place_firsts")),
    "routers": (routers, ("_route", "_add_parts", "_route_backward")),
    "dispatches": (dispatches, ("_count_slots", "_place_slots")),
    "parts": (parts, ("_three_parts",)),
    "grouped": (grouped, ("_grouped_linear", "_grouped_linear_gradients")),
}
launched: Counter[str] = Counter()


def draw(name: str, seed: int) -> None:
    """One shape of an operator; raises AssertionError where a result is wrong."""
    torch.manual_seed(seed)
    split = row_passes.SPLIT
    try:
        DRAWS[name][0](random.Random(seed))
    finally:
        row_passes.SPLIT = split


@contextmanager
def counted_launches() -> Iterator[None]:
    """Inside, ``launched`` counts each kernel's launches."""
    plain = launch.launch
    modules = [each for each in list(sys.modules.values()) if getattr(each, "launch", None) is plain]

    def counted(on: Tensor, kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        launched[kernel.fn.__name__] += 1
        plain(on, kernel, programs, *arguments, **constants)

    try:
        for module in modules:
            module.launch = counted  # type: ignore[attr-defined]
        yield
    finally:
        for module in modules:
            module.launch = plain  # type: ignore[attr-defined]


def drawn_until(name: str, shapes: int, first_seed: int, seconds: float) -> int:
    """Draws until each kernel of an operator was launched so often, and says what came of it; how many were wrong."""
    launched.clear()
    begin, seed, wrong = time.perf_counter(), first_seed, 0
    while min(launched[kernel] for kernel in DRAWS[name][1]) < shapes and time.perf_counter() - begin < seconds:
        try:
            draw(name, seed)
        except Exception:
            wrong += 1
            print(f"{name}: --shapes 1 --seed {seed} {name}\n{traceback.format_exc(limit=-2)}", flush=True)
        seed += 1
    counted = ", ".join(f"{kernel} {launched[kernel]}" for kernel in DRAWS[name][1])
    took = f"{time.perf_counter() - begin:.0f} s"
    drawn = f"{seed - first_seed} shapes from seed {first_seed}"
    print(f"{name}: {drawn}, {wrong} wrong, {took}; launches: {counted}", flush=True)
    return wrong


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help=f"of {', '.join(DRAWS)}; all where none is named")
    parser.add_argument("--shapes", type=int, default=1000, help="that each kernel is launched on, at least")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="of the first shape")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, for each operator")
    asked = parser.parse_args()
    if unknown := set(asked.operators) - DRAWS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no operators; these are {', '.join(DRAWS)}")
    with counted_launches():
        wrong = sum(
            drawn_until(name, asked.shapes, asked.seed, asked.seconds)
            for name in dict.fromkeys(asked.operators) or DRAWS
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
