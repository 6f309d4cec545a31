"""Bags, dot products, and gradients of rows, by torch and by C++, against float64 sums at awkward sizes."""

import pytest
import row_reference
import torch
from against_reference import poisoned_memory
from mapped_memory import mapped, resident_bytes
from recorded_operators import recorded

from layers.checking.verification import relative_rms
from layers.kernels.lookups import Runs, find_runs
from layers.kernels.row_passes import (
    gradient_of_all_rows,
    row_backward,
    row_backward_update_,
    row_dots,
    update_rows_,
    weighted_bag,
)
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep

WIDTHS = [1, 7, 96, 100, 1000]
NUM_ROWS = 500
# 16 bits: one rounding of the weights and one of the result, both at their worst. fp32: a sum of 2700 terms.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# fp32 whatever the dtype; a 16-bit table's weights are rounded by nobody here
DOTS_TOLERANCE = 2e-6
CASES = {
    "one lookup": (1, 1, NUM_ROWS),
    "one token": (1, 64, NUM_ROWS),
    "spread": (37, 12, NUM_ROWS),
    "rows twice in a token": (20, 30, 3),
    "one row, in more than one piece": (30, 90, 1),
}


def arguments(tokens, lookups, distinct, width, dtype):
    """Positive numbers, because a sum that cancels magnifies its rounding; the last rows of the table are read."""
    table, vectors = (torch.rand(size, width).add(0.1).to(dtype) for size in (NUM_ROWS, tokens))
    rows = torch.randint(NUM_ROWS - distinct, NUM_ROWS, (tokens, lookups), dtype=torch.int32)
    return table, rows, torch.rand(tokens, lookups).add(0.1), vectors


def runs_of(rows):
    return find_runs(rows.flatten(), NUM_ROWS)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", WIDTHS)
def test_against_float64(width, case, dtype, path, seed):
    torch.manual_seed(seed)
    table, rows, weights, tokens = arguments(*CASES[case], width, dtype)
    with poisoned_memory():
        bag, found = weighted_bag(table, rows, weights), row_dots(table, rows, tokens)
        runs = runs_of(rows)
        gradient, dots = row_backward(table, runs, weights, tokens, gradient=True, dots=True)
        gradient_alone, nothing = row_backward(table, runs, weights, tokens, gradient=True, dots=False)
        none, dots_alone = row_backward(table, runs, weights, tokens, gradient=False, dots=True)
        of_all = gradient_of_all_rows(table, runs, weights, tokens)
    assert nothing is None and none is None
    assert bag.dtype == gradient.dtype == dtype and found.dtype == dots.dtype == torch.float32
    assert torch.equal(gradient, gradient_alone) and torch.equal(dots, dots_alone)

    assert relative_rms(bag, row_reference.bag(table, rows, weights)) < TOLERANCE[dtype]
    products = row_reference.dots(table, rows, tokens)
    assert relative_rms(found, products) < DOTS_TOLERANCE and relative_rms(dots, products) < DOTS_TOLERANCE
    dense = row_reference.gradient(NUM_ROWS, rows, weights, tokens)
    assert relative_rms(gradient, dense[runs.rows.long()]) < TOLERANCE[dtype]
    assert torch.equal(of_all, torch.zeros_like(table).index_copy_(0, runs.rows.long(), gradient))


@pytest.mark.parametrize(("width", "dtype"), [(1024, torch.float16), (512, torch.float32), (1000, torch.bfloat16)])
def test_a_gradient_that_no_cache_holds(width, dtype, path, seed):
    """Of 64 MiB or more: C++ writes one past the caches, by whole lines where rows begin at one."""
    torch.manual_seed(seed)
    count = 2**26 // (width * dtype.itemsize) + 1
    table, tokens = torch.empty(count, width, dtype=dtype), torch.randn(2, width).to(dtype)
    rows, weights = torch.stack([torch.arange(count), torch.randint(7, (count,))]), torch.rand(2, count)
    gradient, _ = row_backward(table, find_runs(rows.flatten(), count), weights, tokens, gradient=True, dots=False)
    wanted = weights[0, :, None] * tokens[0].float()
    wanted[:7].index_add_(0, rows[1], weights[1, :, None] * tokens[1].float())
    assert relative_rms(gradient[:7], wanted[:7].double()) < TOLERANCE[dtype]
    assert relative_rms(gradient[7:], wanted[7:].double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [1, 100])
def test_a_backward_that_updates(width, case, dtype, optimizer, path, seed):
    torch.manual_seed(seed)
    table, rows, weights, tokens = arguments(*CASES[case], width, dtype)
    runs, step = runs_of(rows), RowStep(optimizer, 0.03, 0.1, number=3)
    dense = row_reference.DenseOptimizer(table)
    read = runs.rows.tolist()
    dense.step(row_reference.gradient(NUM_ROWS, rows, weights, tokens), step, read)

    changed, state = table.clone(), RowState.of(table, optimizer)
    if optimizer == "lazy_adam":
        state.stamps.fill_(2)
    with poisoned_memory():
        found = row_backward_update_(changed, state, runs, weights, tokens, step, dots=True)
    assert relative_rms(found, row_reference.dots(table, rows, tokens)) < DOTS_TOLERANCE  # of the table as it was
    # torch's path rounds the gradient of a 16-bit table before it is spent; then the row is rounded
    tolerance = 2 * TOLERANCE[dtype]
    assert relative_rms(changed[read], dense.table[read]) < tolerance
    for name, tensor in dense.state(optimizer).items():
        assert relative_rms(getattr(state, name)[read], tensor[read]) < tolerance, name
    untouched = torch.ones(NUM_ROWS, dtype=torch.bool).index_fill_(0, runs.rows.long(), False)
    assert torch.equal(changed[untouched], table[untouched])

    again, state = table.clone(), RowState.of(table, optimizer)
    if optimizer == "lazy_adam":
        state.stamps.fill_(2)
    assert row_backward_update_(again, state, runs, weights, tokens, step, dots=False) is None
    assert torch.equal(again, changed)


def all_results(table, rows, weights, tokens, optimizer):
    """Of every pass, what it returns and what it changes."""
    runs, step = runs_of(rows), RowStep(optimizer, 0.1, 0.1, number=2, seed=7)
    results = [weighted_bag(table, rows, weights), row_dots(table, rows, tokens)]
    results += row_backward(table, runs, weights, tokens, gradient=True, dots=True)
    for fused in (False, True):
        changed, state = table.clone(), RowState.of(table, optimizer)
        if fused:
            results.append(row_backward_update_(changed, state, runs, weights, tokens, step, dots=True))
        else:
            update_rows_(changed, state, runs.rows, results[2], step)
        results += [changed, *state.named_tensors().values()]
    return results


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("case", ["spread", "one row, in more than one piece"])
def test_the_same_bits_with_any_number_of_threads(case, optimizer, path, seed):
    torch.manual_seed(seed)
    given = arguments(*CASES[case], 96, torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        results.append(all_results(*given, optimizer))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_no_tokens(path):
    table, rows, weights, tokens = torch.randn(9, 5), *(torch.empty(0, width) for width in (3, 3, 5))
    rows, before = rows.int(), table.clone()
    assert weighted_bag(table, rows, weights).shape == (0, 5) and row_dots(table, rows, tokens).shape == (0, 3)
    runs = find_runs(rows.flatten(), 9)
    gradient, dots = row_backward(table, runs, weights, tokens, gradient=True, dots=True)
    assert gradient.shape == (0, 5) and dots.shape == (0, 3)
    for optimizer in ROW_OPTIMIZERS:
        state = RowState.of(table, optimizer)
        row_backward_update_(table, state, runs, weights, tokens, RowStep(optimizer, 0.1), dots=False)
        update_rows_(table, state, runs.rows, gradient, RowStep(optimizer, 0.1))
    assert torch.equal(table, before)


@pytest.mark.parametrize("row", [-1, 9, 2**31 - 1])
def test_rows_that_a_table_does_not_have_are_refused(row, path):
    """Before memory is read or written that is not the table's; by C++ before anything is written."""
    table, rows = torch.randn(9, 5), torch.tensor([[2, row]], dtype=torch.int32)
    weights, tokens, one = torch.ones(1, 2), torch.ones(1, 5), torch.tensor([0, 1, 2], dtype=torch.int32)
    runs = Runs(rows[0].sort().values, one, one[:2])
    step = RowStep("sgd", 1.0)
    for use in (
        lambda: weighted_bag(table, rows, weights),
        lambda: row_dots(table, rows, tokens),
        lambda: row_backward(table, runs, weights, tokens, gradient=False, dots=True),
        lambda: row_backward_update_(table, RowState(), runs, weights, tokens, step, dots=False),
        lambda: update_rows_(table, RowState(), rows[0], torch.ones(2, 5), step),
    ):
        before = table.clone()
        with pytest.raises((IndexError, RuntimeError)):
            use()
        assert path == "torch" or torch.equal(table, before)


def test_tokens_that_read_nothing(path):
    assert not weighted_bag(torch.randn(9, 5), torch.empty(4, 0, dtype=torch.int64), torch.empty(4, 0)).any()


@pytest.mark.parametrize("row_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("table_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_layout_and_any_mixture_of_dtypes(table_dtype, weight_dtype, row_dtype, path, seed):
    """A table that is some columns of another, transposed rows and weights, tokens that are all one vector."""
    torch.manual_seed(seed)
    table = torch.rand(NUM_ROWS, 30).to(table_dtype)[:, 5:18]
    rows = torch.randint(NUM_ROWS, (11, 20), dtype=row_dtype).t()[::2]
    weights = torch.rand(11, 20, dtype=torch.float64).to(weight_dtype).t()[::2]
    tokens = torch.rand(1, 26)[:, ::2].expand(10, -1)
    dense = row_reference.gradient(NUM_ROWS, rows, weights, tokens)
    products = row_reference.dots(table, rows, tokens)

    assert relative_rms(weighted_bag(table, rows, weights), row_reference.bag(table, rows, weights)) < 2.0**-7
    assert relative_rms(row_dots(table, rows, tokens), products) < DOTS_TOLERANCE
    runs = runs_of(rows)
    gradient, dots = row_backward(table, runs, weights, tokens, gradient=True, dots=True)
    assert gradient.dtype == tokens.dtype
    assert relative_rms(gradient, dense[runs.rows.long()]) < 2.0**-7
    assert relative_rms(dots, products) < DOTS_TOLERANCE

    step, wanted = RowStep("sgd", 0.5), table.double() - 0.5 * dense
    for fused in (False, True):
        wide = torch.full((NUM_ROWS, 30), 3.0, dtype=table_dtype)
        changed = wide[:, 5:18].copy_(table)
        if fused:
            row_backward_update_(changed, RowState(), runs, weights, tokens, step, dots=False)
        else:
            update_rows_(changed, RowState(), runs.rows, gradient, step)
        assert relative_rms(wide[:, 5:18], wanted) < 2.0**-7
        assert bool((wide[:, :5] == 3).all()) and bool((wide[:, 18:] == 3).all())


@pytest.mark.parametrize(("dtype", "elements"), [(torch.float32, 2**31), (torch.bfloat16, 2**32)], ids=str)
def test_more_elements_than_32_bits_number(dtype, elements, path, seed):
    """Of a table of 8 GiB of which no page is in memory before it is written."""
    torch.manual_seed(seed)
    width = 100
    count = elements // width + 1000
    before = resident_bytes()
    try:
        table, sums = mapped(count, width, dtype), mapped(count, 1, torch.float32)[:, 0]
    except OSError as error:
        pytest.skip(f"no address space for it: {error}")
    rows = torch.randint(count - 200, count, (12, 9))
    rows[0, :3] = torch.tensor([0, elements // width, count - 1])  # the second is the first one past the limit
    tokens, weights = torch.randn(12, width).to(dtype), torch.rand(12, 9)
    touched = rows.unique()
    values = torch.randn(len(touched), width).to(dtype)
    table[touched] = values
    small = torch.searchsorted(touched, rows)
    runs = find_runs(rows.flatten().int(), count)

    assert torch.equal(weighted_bag(table, rows, weights), weighted_bag(values, small, weights))
    assert torch.equal(row_dots(table, rows, tokens), row_dots(values, small, tokens))
    of_small = find_runs(small.flatten(), len(touched))
    for ours, wanted in zip(
        row_backward(table, runs, weights, tokens, gradient=True, dots=True),
        row_backward(values, of_small, weights, tokens, gradient=True, dots=True),
        strict=True,
    ):
        assert torch.equal(ours, wanted)
    step, state = RowStep("row_adagrad", 0.1), RowState.of(values, "row_adagrad")
    row_backward_update_(table, RowState(sums), runs, weights, tokens, step, dots=False)
    row_backward_update_(values, state, of_small, weights, tokens, step, dots=False)
    assert torch.equal(table[touched], values) and torch.equal(sums[touched], state.sums)
    assert resident_bytes() - before < 2**28
    assert not table[1:100].any() and not table[count - 400 : count - 200].any()


@pytest.mark.parametrize("operation", ["bag", "dots"])
def test_gradients_agree_with_autograd(operation, path, seed):
    torch.manual_seed(seed)
    run, width = {"bag": (weighted_bag, 6), "dots": (row_dots, 24)}[operation]
    table, rows = torch.randn(40, 24, requires_grad=True), torch.randint(40, (13, 6))
    other = torch.randn(13, width, requires_grad=True)
    y = run(table, rows, other)
    upstream = torch.randn_like(y)
    y.backward(upstream)

    values, plain = (tensor.detach().double().requires_grad_() for tensor in (table, other))
    read = values[rows]
    expected = (plain[:, None] @ read)[:, 0] if operation == "bag" else (read @ plain[:, :, None])[:, :, 0]
    expected.backward(upstream.double())
    assert table.grad.is_sparse and table.grad._indices()[0].tolist() == rows.unique().tolist()
    assert relative_rms(table.grad.to_dense(), values.grad) < 1e-6
    assert relative_rms(other.grad, plain.grad) < 1e-6


@pytest.mark.parametrize("of_table", [False, True])
@pytest.mark.parametrize("of_other", [False, True])
@pytest.mark.parametrize("operation", ["bag", "dots"])
def test_a_gradient_nobody_wants_is_not_computed(operation, of_other, of_table):
    run, width = {"bag": (weighted_bag, 2), "dots": (row_dots, 3)}[operation]
    table, rows = torch.randn(8, 3, requires_grad=of_table), torch.tensor([[1, 2]])
    other = torch.randn(1, width, requires_grad=of_other)
    with recorded() as calls:
        y = run(table, rows, other)
        if of_table or of_other:
            y.sum().backward()
    names = [name for name, _ in calls]
    forward, other_way = ("weighted_bag", "row_dots") if operation == "bag" else ("row_dots", "weighted_bag")
    wanted = [forward]
    if of_table:
        wanted += ["find_runs", "row_backward"]
        *_, gradient, dots = dict(calls)["row_backward"]
        assert gradient and dots == (of_other and operation == "bag")
    if of_other and (operation == "dots" or not of_table):
        wanted.append(other_way)  # a bag's weights get theirs in the same pass as the rows
    assert names == wanted
    assert (table.grad is not None) == of_table and (other.grad is not None) == of_other


def test_empty_runs_of_a_device_change_nothing(seed):
    """Runs as a GPU has them, on the CPU by torch's calls."""
    torch.manual_seed(seed)
    table, rows, weights, tokens = arguments(6, 5, 4, 7, torch.float32)
    exact = runs_of(rows)
    lookups, count = rows.numel(), len(exact.rows)
    padded = Runs(
        torch.nn.functional.pad(exact.rows, (0, lookups - count)),
        torch.nn.functional.pad(exact.starts, (0, lookups - count), value=lookups),
        exact.order,
    )
    wanted, dots = row_backward(table, exact, weights, tokens, gradient=True, dots=True)
    gradient, found = row_backward(table, padded, weights, tokens, gradient=True, dots=True)
    assert torch.equal(gradient[:count], wanted) and torch.equal(found, dots)
