"""Row passes in Triton against float64 sums and rules: awkward sizes, long runs, poisoned outputs, huge tables."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import row_reference
import torch
from against_reference import poisoned_memory
from mapped_memory import mapped, resident_bytes
from triton_rows import NUM_ROWS, SPLIT, TOLERANCE, mixed_rows, on_device, positive, runs_of

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels import row_passes as operators
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep
from layers.kernels.torch.row_update import update_rows_ as plain_update_rows_
from layers.kernels.triton import row_passes, tiles

WIDTHS = [1, 7, 96, 100, 1000]


@pytest.fixture
def short_split(monkeypatch):
    monkeypatch.setattr(row_passes, "SPLIT", SPLIT)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("tokens", "lookups"), [(1, 1), (1, 40), (5, 7)])
def test_bags_and_dots(tokens, lookups, width, dtype, seed):
    torch.manual_seed(seed)
    table, vectors = positive(NUM_ROWS, width, dtype=dtype), positive(tokens, width, dtype=dtype)
    rows, weights = torch.randint(NUM_ROWS, (tokens, lookups), dtype=torch.int32), positive(tokens, lookups)
    rows[0, 0] = NUM_ROWS - 1
    given = on_device(table, rows, weights, vectors)
    with poisoned_memory():
        bag, dots = row_passes.weighted_bag(*given[:3]), row_passes.row_dots(given[0], given[1], given[3])
    assert bag.dtype == dtype and dots.dtype == torch.float32
    assert relative_rms(bag.cpu(), row_reference.bag(table, rows, weights)) < TOLERANCE[dtype]
    assert relative_rms(dots.cpu(), row_reference.dots(table, rows, vectors)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("width", [1, 100, 1000])
def test_few_bags_of_a_large_device(width, monkeypatch, seed):
    """Narrow tiles, many rows at once."""
    monkeypatch.setattr(row_passes, "_multiprocessors", lambda device: 132)
    torch.manual_seed(seed)
    table, rows = positive(NUM_ROWS, width), torch.randint(NUM_ROWS, (1, 45), dtype=torch.int32)
    weights = positive(1, 45)
    with poisoned_memory():
        bag = row_passes.weighted_bag(*on_device(table, rows, weights))
    assert relative_rms(bag.cpu(), row_reference.bag(table, rows, weights)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_of_rows(width, dtype, short_split, seed):
    torch.manual_seed(seed)
    assert_gradients(mixed_rows(8, 8), width, dtype)


@pytest.mark.parametrize(("tokens", "lookups", "distinct"), [(1, 1, 60), (1, 9, 1), (4, 10, 1), (6, 8, 3)])
def test_gradients_of_rows_read_again_and_again(tokens, lookups, distinct, short_split, seed):
    torch.manual_seed(seed)
    assert_gradients(torch.randint(distinct, (tokens, lookups), dtype=torch.int32), 20, torch.float32)


def test_a_run_of_more_than_256_lookups(seed):
    torch.manual_seed(seed)
    rows = torch.zeros(30, 10, dtype=torch.int64)
    rows[:2] = torch.randint(NUM_ROWS, (2, 10))
    assert_gradients(rows, 7, torch.float32)


def test_a_row_of_several_tiles(monkeypatch, short_split, seed):
    """Each tile has the products of its own columns, which are added."""
    monkeypatch.setattr(tiles, "_MOST_COLUMNS", 16)
    torch.manual_seed(seed)
    assert_gradients(mixed_rows(8, 8), 40, torch.float32)


def test_what_is_not_wanted_is_not_computed(short_split, seed):
    torch.manual_seed(seed)
    rows, table = mixed_rows(8, 8), torch.randn(NUM_ROWS, 7, device=DEVICE)
    runs, given = runs_of(rows), on_device(torch.randn(*rows.shape), torch.randn(len(rows), 7))
    gradient, dots = row_passes.row_backward(table, runs, *given, gradient=True, dots=True)
    alone, nothing = row_passes.row_backward(table, runs, *given, gradient=True, dots=False)
    none, dots_alone = row_passes.row_backward(table, runs, *given, gradient=False, dots=True)
    neither = row_passes.row_backward(table, runs, *given, gradient=False, dots=False)
    some = len(rows.unique())
    assert torch.equal(alone[:some], gradient[:some]) and torch.equal(dots_alone, dots)
    assert nothing is None and none is None and neither == (None, None)


def assert_gradients(rows, width, dtype):
    """Of one pass that finds them and the dots."""
    tokens, lookups = rows.shape
    table, vectors = positive(NUM_ROWS, width, dtype=dtype), positive(tokens, width, dtype=dtype)
    weights, runs = positive(tokens, lookups), runs_of(rows)
    given = on_device(weights, vectors)
    on_gpu = table.to(DEVICE)
    with poisoned_memory():
        gradient, dots = row_passes.row_backward(on_gpu, runs, *given, gradient=True, dots=True)
        of_all, _ = row_passes.row_backward(on_gpu, runs, *given, by_row=True, gradient=True, dots=False)
    distinct = rows.unique()
    assert gradient.dtype == dtype and dots.dtype == torch.float32
    assert bool(gradient[len(distinct) :].isnan().all())  # the empty runs, which nobody writes

    dense = row_reference.gradient(NUM_ROWS, rows, weights, vectors)
    assert relative_rms(gradient[: len(distinct)].cpu(), dense[distinct.long()]) < TOLERANCE[dtype]
    expected = torch.zeros_like(on_gpu).index_copy_(0, distinct.long().to(DEVICE), gradient[: len(distinct)])
    assert torch.equal(of_all, expected)
    assert relative_rms(dots.cpu(), row_reference.dots(table, rows, vectors)) < TOLERANCE[torch.float32]


def test_no_lookups():
    for tokens, lookups in ((0, 3), (4, 0)):
        table, rows = torch.randn(9, 5, device=DEVICE), torch.empty(tokens, lookups, dtype=torch.int32, device=DEVICE)
        weights, vectors = torch.empty(tokens, lookups, device=DEVICE), torch.randn(tokens, 5, device=DEVICE)
        with poisoned_memory():
            bag, products = row_passes.weighted_bag(table, rows, weights), row_passes.row_dots(table, rows, vectors)
        assert bag.shape == (tokens, 5) and not bag.any() and products.shape == (tokens, lookups)
        before, runs = table.clone(), runs_of(rows.cpu())
        gradient, dots = row_passes.row_backward(table, runs, weights, vectors, gradient=True, dots=True)
        assert gradient.shape == (0, 5) and dots.shape == (tokens, lookups)
        for optimizer in ROW_OPTIMIZERS:
            state, step = RowState.of(table, optimizer), RowStep(optimizer, 0.1)
            row_passes.row_backward_update_(table, state, runs, weights, vectors, step, dots=True)
            row_passes.update_rows_(table, state, runs.rows, gradient, step)
        assert torch.equal(table, before)


@pytest.mark.parametrize("row_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_any_layout_and_any_mixture_of_dtypes(weight_dtype, row_dtype, short_split, seed):
    """A table that is some columns of another, transposed rows and weights, tokens that are all one vector."""
    torch.manual_seed(seed)
    wide = positive(NUM_ROWS, 30, dtype=torch.bfloat16)
    rows = torch.randint(NUM_ROWS, (7, 10), dtype=row_dtype).t()[::2]
    weights = positive(7, 10).to(weight_dtype).t()[::2]
    vectors = positive(1, 26)[:, ::2].expand(5, -1)
    dense, distinct = row_reference.gradient(NUM_ROWS, rows, weights, vectors), rows.unique().long()
    table = wide[:, 5:18]
    products, step = row_reference.dots(table, rows, vectors), RowStep("row_adam", 0.5)
    wanted = row_reference.DenseOptimizer(table)
    wanted.step(dense, step, distinct.tolist())

    ours = wide.to(DEVICE)[:, 5:18]
    bag = row_passes.weighted_bag(ours, *on_device(rows, weights))
    assert relative_rms(bag.cpu(), row_reference.bag(table, rows, weights)) < TOLERANCE[torch.bfloat16]
    found = row_passes.row_dots(ours, *on_device(rows, vectors))
    assert relative_rms(found.cpu(), products) < TOLERANCE[torch.float32]
    runs, given = runs_of(rows), on_device(weights, vectors)
    gradient, dots = row_passes.row_backward(ours, runs, *given, gradient=True, dots=True)
    assert gradient.dtype == torch.float32
    assert relative_rms(gradient[: len(distinct)].cpu(), dense[distinct]) < TOLERANCE[torch.float32]
    assert relative_rms(dots.cpu(), products) < TOLERANCE[torch.float32]
    for fused in (False, True):
        whole = wide.to(DEVICE).clone()
        changed, state = whole[:, 5:18], RowState.of(table.to(DEVICE), "row_adam")
        if fused:
            row_passes.row_backward_update_(changed, state, runs, *given, step, dots=False)
        else:
            row_passes.update_rows_(changed, state, runs.rows[: len(distinct)], gradient[: len(distinct)], step)
        assert relative_rms(changed.cpu()[distinct], wanted.table[distinct]) < 2 * TOLERANCE[torch.bfloat16]
        assert torch.equal(whole[:, :5].cpu(), wide[:, :5]) and torch.equal(whole[:, 18:].cpu(), wide[:, 18:])


def test_a_transposed_table_is_refused():
    table, rows = torch.randn(5, 9, device=DEVICE).t(), torch.zeros(2, 3, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="side by side"):
        row_passes.weighted_bag(table, rows, torch.ones(2, 3, device=DEVICE))


def test_the_same_bits_twice(short_split, seed):
    torch.manual_seed(seed)
    rows = mixed_rows(8, 8)
    given = on_device(torch.randn(*rows.shape), torch.randn(len(rows), 33).bfloat16())
    table, runs = torch.randn(NUM_ROWS, 33).bfloat16().to(DEVICE), runs_of(rows)
    results = []
    for _ in range(2):
        changed, state = table.clone(), RowState.of(table, "row_adagrad")
        dots = row_passes.row_backward_update_(
            changed, state, runs, *given, RowStep("row_adagrad", 0.1, seed=5), dots=True
        )
        bag = row_passes.weighted_bag(table, rows.to(DEVICE), given[0])
        results.append([changed, state.sums, dots, bag])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_more_elements_than_32_bits_number(seed):
    """Of a table of 8 GiB of which, on a CPU, no page is in memory before it is written."""
    torch.manual_seed(seed)
    width = 1000
    count = 2**32 // width + 1000
    before = resident_bytes()
    try:
        tables = [mapped(count, width, torch.bfloat16) for _ in range(2)]
    except OSError as error:
        pytest.skip(f"no address space for it: {error}")
    rows = torch.randint(count - 200, count, (4, 6), dtype=torch.int32)
    rows[0, :3] = torch.tensor([0, 2**32 // width, count - 1])  # the second reaches across element 2^32
    touched = rows.unique().long()
    values = positive(len(touched), width, dtype=torch.bfloat16)
    for table in tables:
        table[touched] = values
    ours = tables[0] if DEVICE == "cpu" else torch.zeros(count, width, dtype=torch.bfloat16, device=DEVICE)
    ours[touched.to(DEVICE)] = values.to(DEVICE)
    small, given = torch.searchsorted(touched, rows).int(), on_device(positive(4, 6), positive(4, width))
    runs, of_small, on_gpu = runs_of(rows, count), runs_of(small), values.to(DEVICE)

    for call, third in ((row_passes.weighted_bag, given[0]), (row_passes.row_dots, given[1])):
        assert torch.equal(call(ours, rows.to(DEVICE), third), call(on_gpu, small.to(DEVICE), third))
    gradient, dots = row_passes.row_backward(ours, runs, *given, gradient=True, dots=True)
    wanted, wanted_dots = row_passes.row_backward(on_gpu, of_small, *given, gradient=True, dots=True)
    assert torch.equal(gradient[: len(touched)], wanted[: len(touched)]) and torch.equal(dots, wanted_dots)
    step = RowStep("sgd", 1.0, seed=9)
    exact = torch.randint(-2047, 2048, (len(touched), width)) * 2.0**-16
    row_passes.update_rows_(ours, RowState(), runs.rows[: len(touched)], exact.to(DEVICE), step)
    plain_update_rows_(tables[1], RowState(), touched, exact, step)
    assert torch.equal(ours[touched.to(DEVICE)].cpu(), tables[1][touched])
    assert not ours[1:100].any() and not ours[count - 400 : count - 200].any()
    assert resident_bytes() - before < 2**28


def test_the_operators_take_this_path(seed):
    torch.manual_seed(seed)
    rows = torch.randint(NUM_ROWS, (3, 5), device=DEVICE)
    table, weights = torch.rand(NUM_ROWS, 7, device=DEVICE), torch.rand(3, 5, device=DEVICE, requires_grad=True)
    with paths.forced("triton"):
        operators.weighted_bag(table, rows, weights).sum().backward()
    assert relative_rms(weights.grad, table.double().sum(1)[rows]) < TOLERANCE[torch.float32]


CALLS = """
import torch
from layers.kernels.triton import row_passes
from layers.kernels.lookups import Runs
from layers.kernels.row_update import RowState, RowStep

row_passes._multiprocessors = lambda device: 132

def launch(dtype, width, tokens, optimizers):
    table, vectors = torch.empty(4, width, dtype=dtype), torch.empty(tokens, width, dtype=dtype)
    rows, weights = torch.empty(tokens, 64, dtype=torch.int32), torch.empty(tokens, 64)
    runs = Runs(rows.flatten(), torch.empty(tokens * 64 + 1, dtype=torch.int32), rows.flatten())
    row_passes.weighted_bag(table, rows, weights)
    row_passes.row_dots(table, rows, vectors)
    row_passes.row_backward(table, runs, weights, vectors, gradient=True, dots=True)
    for optimizer in optimizers:
        state, step = RowState.of(table, optimizer), RowStep(optimizer, 0.1, number=tokens, seed=2**32 - tokens)
        row_passes.row_backward_update_(table, state, runs, weights, vectors, step, dots=True)
        row_passes.update_rows_(table, state, runs.rows, vectors, step)
"""
KERNELS = {"bag", "dots", "short_runs", "long_run_pieces", "finish_long_runs", "update_rows"}


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper(
        f"""{CALLS}
for tokens in (160, 161):
    launch(torch.bfloat16, 1000, tokens, ["row_adagrad", "lazy_adam"])
    launch(torch.float32, 7, tokens, ["sgd", "row_adam"])
"""
    )
    assert {name.split("-")[0] for name in launched} == KERNELS
    half = len(launched) // 2
    assert launched[:half] == launched[half:]
