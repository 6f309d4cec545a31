"""Row optimizers against their dense definitions, and the rounding of bf16 rows."""

import pytest
import row_reference
import torch
from mapped_memory import mapped

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.row_passes import update_rows_
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep, random_bits

NUM_ROWS = 23
RATES = {"learning_rate": 0.03, "weight_decay": 0.2, "eps": 1e-6, "beta1": 0.8, "beta2": 0.95}
# some tens of fp32 roundings of a value that six steps change by less than itself
TOLERANCE = 2e-6


def dense_gradients(width, steps, *, all_rows=False):
    """(rows read, dense gradient that is zero elsewhere) of each step; in the last all rows are read."""
    for step in range(1, steps + 1):
        rows = torch.randperm(NUM_ROWS)[: NUM_ROWS if all_rows or step == steps else 9].sort().values
        gradient = torch.zeros(NUM_ROWS, width)
        gradient[rows] = torch.randn(len(rows), width)
        yield rows, gradient


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
@pytest.mark.parametrize("width", [1, 7, 96, 1000])
def test_several_steps_are_those_of_the_dense_definition(width, optimizer, path, seed):
    """lazy_adam too: without a first moment (beta1 = 0) there is no drift that it would miss."""
    torch.manual_seed(seed)
    rates = RATES | ({"beta1": 0.0} if optimizer == "lazy_adam" else {})
    table = torch.randn(NUM_ROWS, width)
    dense, state = row_reference.DenseOptimizer(table), RowState.of(table, optimizer)
    for number, (rows, gradient) in enumerate(dense_gradients(width, 6), 1):
        step = RowStep(optimizer, **rates, number=number)
        dense.step(gradient.double(), step, rows.tolist())
        update_rows_(table, state, rows, gradient[rows], step)
    assert relative_rms(table, dense.table) < TOLERANCE
    for name, tensor in dense.state(optimizer).items():
        assert relative_rms(getattr(state, name), tensor) < TOLERANCE, name
    assert state.stamps is None or bool((state.stamps == 6).all())


@pytest.mark.parametrize("optimizer", ["sgd", "row_adagrad"])
def test_rows_that_were_not_read_are_those_of_the_dense_definition_too(optimizer, path, seed):
    """A gradient of zero changes nothing under these rules, so that nothing is missed by leaving a row alone."""
    torch.manual_seed(seed)
    table = torch.randn(NUM_ROWS, 10)
    dense, state = row_reference.DenseOptimizer(table), RowState.of(table, optimizer)
    for number, (rows, gradient) in enumerate(list(dense_gradients(10, 6))[:-1], 1):
        step = RowStep(optimizer, 0.03, number=number)
        dense.step(gradient.double(), step, range(NUM_ROWS))
        update_rows_(table, state, rows, gradient[rows], step)
    assert relative_rms(table, dense.table) < TOLERANCE


def train(optimizer, torch_optimizer, gradients, rates):
    """(ours, torch's) table after the same gradients, and the state of each."""
    ours = torch.randn(NUM_ROWS, 12)
    theirs = torch.nn.Parameter(ours.clone())
    dense, state = torch_optimizer([theirs]), RowState.of(ours, optimizer)
    for number, (rows, gradient) in enumerate(gradients, 1):
        theirs.grad = gradient
        dense.step()
        update_rows_(ours, state, rows, gradient[rows], RowStep(optimizer, **rates, number=number))
    return ours, theirs.detach(), state, dense.state[theirs]


def test_sgd_is_that_of_torch_where_all_rows_are_read(path, seed):
    """Decay that is decoupled from the gradient is, for SGD alone, the same as decay added to it."""
    torch.manual_seed(seed)
    rates = {"learning_rate": 0.03, "weight_decay": 0.2}
    gradients = dense_gradients(12, 5, all_rows=True)
    ours, theirs, _, _ = train("sgd", lambda p: torch.optim.SGD(p, lr=0.03, weight_decay=0.2), gradients, rates)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.03, weight_decay=0.2, eps=1e-6, betas=(0.8, 0.95))


def test_lazy_adam_is_adamw_where_all_rows_are_read(path, seed):
    torch.manual_seed(seed)
    gradients = dense_gradients(12, 8, all_rows=True)
    ours, theirs, state, dense = train("lazy_adam", adamw, gradients, RATES)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(state.first, dense["exp_avg"], rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(state.second, dense["exp_avg_sq"], rtol=2e-6, atol=1e-6)


def test_lazy_adam_has_the_moments_of_adamw_whichever_rows_are_read(path, seed):
    """After a last step in which all are; until then those of rows not read wait for their decay."""
    torch.manual_seed(seed)
    ours, theirs, state, dense = train("lazy_adam", adamw, list(dense_gradients(12, 9)), RATES)
    torch.testing.assert_close(state.first, dense["exp_avg"], rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(state.second, dense["exp_avg_sq"], rtol=2e-6, atol=1e-6)
    assert not torch.allclose(ours, theirs, atol=1e-3)  # the drift, which is what is missing


def test_lazy_adam_decays_weights_as_often_as_adamw(path, seed):
    """Rows first read after thousands of steps, whose gradient is zero even then: nothing but decay."""
    torch.manual_seed(seed)
    table = torch.randn(NUM_ROWS, 12)
    before, state = table.double(), RowState.of(table, "lazy_adam")
    step = RowStep("lazy_adam", 0.01, 0.1, number=3000)
    update_rows_(table, state, torch.arange(NUM_ROWS), torch.zeros(NUM_ROWS, 12), step)
    assert relative_rms(table, before * (1 - 0.001) ** 3000) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_a_16_bit_table_is_rounded_once_a_step(optimizer, dtype, path, seed):
    torch.manual_seed(seed)
    table = torch.rand(NUM_ROWS, 100).add(0.5).to(dtype)
    gradient = torch.randn(NUM_ROWS, 100).to(dtype)
    dense, step = row_reference.DenseOptimizer(table), RowStep(optimizer, **RATES)
    dense.step(gradient.double(), step, range(NUM_ROWS))
    update_rows_(table, RowState.of(table, optimizer), torch.arange(NUM_ROWS), gradient, step)
    half_a_step = torch.finfo(dtype).eps / 2 * dense.table.abs()
    assert bool(((table.double() - dense.table).abs() <= 1.001 * half_a_step + 1e-6).all())


def rounded_stochastically(fractions, seed, *, shape=(64, 1000)):
    """Of numbers a fraction of the way from 1.0 to the next bf16 what an update stores: 0 or 1 of that way."""
    ulp = 2.0**-7
    table = torch.ones(shape, dtype=torch.bfloat16)
    gradient = torch.full(shape, -fractions * ulp, dtype=torch.bfloat16)
    assert gradient[0, 0] == -fractions * ulp
    step = RowStep("sgd", 1.0, seed=seed)
    update_rows_(table, RowState(), torch.arange(shape[0]), gradient, step)
    return (table.double() - 1) / ulp


@pytest.mark.parametrize("fraction", [0.0, 1 / 64, 0.25, 0.5, 0.875])
def test_stochastic_rounding_keeps_the_mean(fraction, path, seed):
    found = rounded_stochastically(fraction, seed % 2**32)
    assert bool(((found == 0) | (found == 1)).all())
    deviation = (fraction * (1 - fraction) / found.numel()) ** 0.5
    assert abs(found.mean().item() - fraction) <= 5 * deviation
    # by rows and by columns as well: no place is favoured; few draws of a small chance have a long tail
    for dim in (0, 1):
        draws = found.shape[dim]
        limit = 6 * (fraction * (1 - fraction) / draws) ** 0.5 + (6 / draws if fraction else 0)
        assert bool(((found.mean(dim) - fraction).abs() <= limit).all())


def test_successive_seeds_round_independently(path, seed):
    draws = torch.stack([rounded_stochastically(0.5, (seed + n) % 2**32, shape=(16, 64)).flatten() for n in range(40)])
    of_seeds = torch.corrcoef(draws).fill_diagonal_(0)
    assert of_seeds.abs().max().item() < 6 / draws.shape[1] ** 0.5
    of_neighbours = torch.corrcoef(torch.stack([draws[:, :-1].flatten(), draws[:, 1:].flatten()]))[0, 1]
    assert abs(of_neighbours.item()) < 5 / draws.numel() ** 0.5


def test_numbers_that_a_bf16_holds_are_not_changed_by_rounding(path, seed):
    torch.manual_seed(seed)
    table = torch.randint(-(2**15), 2**15, (200, 100)).to(torch.int16).view(torch.bfloat16)  # infinities, NaNs, all
    table = table.where(table != 0, 0.0)  # -0 - 0·g is 0
    before = table.clone()
    update_rows_(table, RowState(), torch.arange(200), torch.zeros_like(table), RowStep("sgd", 0.0, seed=seed % 2**32))
    assert bool(table.isnan().eq(before.isnan()).all())
    number = ~before.isnan()
    assert torch.equal(table[number], before[number])


@pytest.mark.parametrize("bits", [0x7F800000, -0x00800000, 0x7FC00000, 0x7FFFFFFF, -1], ids=hex)
def test_what_is_not_finite_stays_so(bits, path):
    """Infinities, and NaNs that a carry from below would make zeros."""
    gradient = torch.full((50, 100), bits, dtype=torch.int32).view(torch.float32)
    table = torch.ones(50, 100, dtype=torch.bfloat16)
    update_rows_(table, RowState(), torch.arange(50), gradient, RowStep("sgd", 1.0, seed=3))
    torch.testing.assert_close(table, -gradient.bfloat16(), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("rate", [1.0, 1 / 3, 1.0 + 2.0**-9, 2.0**-10, 77.7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_is_widened_and_rounded_as_torch_does(dtype, rate, path):
    """Subnormal numbers, infinities, NaNs, halves between two numbers, and what overflows."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(256, 256)
    table = torch.zeros_like(numbers)
    update_rows_(table, RowState(), torch.arange(256), numbers, RowStep("sgd", -rate))
    expected = (torch.tensor(rate) * numbers.float()).to(dtype)
    torch.testing.assert_close(table, expected, equal_nan=True, rtol=0, atol=0)


def stored(path, make_table, rows, seed):
    torch.manual_seed(seed)
    table = make_table()
    table[rows] = torch.randn(len(rows), table.shape[1]).to(table.dtype)
    gradient = torch.randn(len(rows), table.shape[1]).bfloat16()
    with paths.forced(path):
        update_rows_(table, RowState(), rows, gradient, RowStep("sgd", 2.0**-9, seed=seed % 2**32))
    return table[rows]


@pytest.mark.parametrize("width", [1, 7, 100])
def test_every_path_rounds_to_the_same_bits(width, path, seed):
    """A learning rate that is a power of two and no decay: what is rounded is the same on every path."""
    rows = torch.randperm(3000)[:500]
    first, second = (stored(way, lambda: torch.zeros(3000, width).bfloat16(), rows, seed) for way in ("torch", path))
    assert torch.equal(first, second)


def test_every_path_rounds_to_the_same_bits_past_2_to_the_32_elements(path, seed):
    width = 100
    limit = 2**32 // width
    rows = torch.tensor([0, 1, limit - 1, limit, limit + 1, limit + 500])
    try:
        tables = [mapped(limit + 600, width, torch.bfloat16) for _ in range(2)]
    except OSError as error:
        pytest.skip(f"no address space for it: {error}")
    first, second = (
        stored(way, lambda t=table: t, rows, seed) for way, table in zip(("torch", path), tables, strict=True)
    )
    assert torch.equal(first, second)


def test_random_bits_by_their_definition(seed):
    """One element at a time, in Python's unbounded integers."""

    def fmix32(h):
        h ^= h >> 16
        h = h * 0x85EBCA6B % 2**32
        h ^= h >> 13
        h = h * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    rows = torch.tensor([0, 5, 2**31 - 1, 2**33 + 7])
    bits = random_bits(rows, 7, seed)
    for place, row in enumerate(rows.tolist()):
        for column in range(7):
            index = row * 7 + column
            wanted = fmix32(index % 2**32 ^ fmix32(((index >> 32) + seed) % 2**32)) % 2**16
            assert bits[place, column].item() == wanted
