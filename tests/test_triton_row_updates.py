"""Updates of rows in Triton against their rules in float64, and stochastic rounding against torch's path."""

from triton_device import DEVICE  # isort: split

import pytest
import row_reference
import torch
from against_reference import poisoned_memory
from triton_rows import NUM_ROWS, SPLIT, TOLERANCE, mixed_rows, on_device, positive, runs_of

from layers.checking.verification import relative_rms
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep
from layers.kernels.torch.row_update import update_rows_ as plain_update_rows_
from layers.kernels.triton import row_passes


@pytest.fixture
def short_split(monkeypatch):
    monkeypatch.setattr(row_passes, "SPLIT", SPLIT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_updates(optimizer, dtype, short_split, seed):
    """By the pass that finds the gradient, and applied later: two steps from the same rows."""
    torch.manual_seed(seed)
    width, rows = 100, mixed_rows(8, 8)
    table, runs = positive(NUM_ROWS, width, dtype=dtype), runs_of(rows)
    distinct = rows.unique().long()
    dense = row_reference.DenseOptimizer(table)
    ours = {fused: (table.to(DEVICE).clone(), RowState.of(table.to(DEVICE), optimizer)) for fused in (True, False)}
    for number in (1, 2):
        step = RowStep(optimizer, 0.03, 0.1, eps=1e-6, number=number)
        weights, vectors = positive(*rows.shape), positive(len(rows), width, dtype=dtype)
        given = on_device(weights, vectors)
        dense.step(row_reference.gradient(NUM_ROWS, rows, weights, vectors), step, distinct.tolist())
        for fused, (changed, state) in ours.items():
            before = changed.clone()
            with poisoned_memory():
                if fused:
                    dots = row_passes.row_backward_update_(changed, state, runs, *given, step, dots=True)
                    of_before = row_reference.dots(before.cpu(), rows, vectors)
                    assert relative_rms(dots.cpu(), of_before) < TOLERANCE[torch.float32]
                else:
                    gradient, _ = row_passes.row_backward(changed, runs, *given, gradient=True, dots=False)
                    some = len(distinct)
                    row_passes.update_rows_(changed, state, runs.rows[:some], gradient[:some], step)

    for changed, state in ours.values():
        # both steps round, of the gradient applied later its own rounding too
        assert relative_rms(changed.cpu()[distinct], dense.table[distinct]) < 3 * TOLERANCE[dtype]
        for name, wanted in dense.state(optimizer).items():
            assert relative_rms(getattr(state, name).cpu()[distinct], wanted[distinct]) < 3 * TOLERANCE[dtype], name
        untouched = torch.ones(NUM_ROWS, dtype=torch.bool).index_fill_(0, distinct, False)
        assert torch.equal(changed.cpu()[untouched], table[untouched])
        for tensor in state.named_tensors().values():
            assert not tensor.cpu()[untouched].any()


def test_lazy_adam_catches_up(seed):
    """Moments are those of AdamW over every row at every step; a row decays as often, and moves when it is read."""
    torch.manual_seed(seed)
    table = positive(NUM_ROWS, 7)
    changed, state = table.to(DEVICE), RowState.of(table.to(DEVICE), "lazy_adam")
    dense, expected, last = row_reference.DenseOptimizer(table), table.double(), torch.zeros(NUM_ROWS)
    for number in range(1, 10):
        step = RowStep("lazy_adam", 0.03, 0.2, eps=1e-6, beta1=0.8, beta2=0.95, number=number)
        gradient = torch.zeros(NUM_ROWS, 7)
        if number in (1, 2, 9):
            read = torch.randperm(NUM_ROWS)[:20].sort().values
            gradient[read] = positive(20, 7)
            row_passes.update_rows_(changed, state, *on_device(read.int(), gradient[read]), step)
            gap, last[read] = number - last[read], number
        dense.step(gradient.double(), step, [])
        if number in (1, 2, 9):
            corrected = (dense.second[read] / (1 - 0.95**number)).sqrt() + 1e-6
            change = dense.first[read] / (1 - 0.8**number) / corrected
            expected[read] = (1 - 0.03 * 0.2) ** gap.double()[:, None] * expected[read] - 0.03 * change
    assert state.stamps.tolist() == last.int().tolist()
    assert relative_rms(changed.cpu(), expected) < 2 * TOLERANCE[torch.float32]
    assert relative_rms(state.first.cpu()[read], dense.first[read]) < TOLERANCE[torch.float32]
    assert relative_rms(state.second.cpu()[read], dense.second[read]) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("rounding", [0, 1, 2**31, 2**32 - 1])
def test_stochastic_rounding_has_the_bits_of_torchs_path(rounding, seed):
    """An update that is exact in fp32, so that nothing but the random bits decides; infinities stay what they are."""
    torch.manual_seed(seed)
    table = torch.rand(NUM_ROWS, 19).add(1).bfloat16()
    table[3, 4], table[5, 6], table[7, 8] = torch.inf, -torch.inf, torch.nan
    gradient = torch.randint(-2047, 2048, (NUM_ROWS, 19)) * 2.0**-16
    rows, step = torch.arange(NUM_ROWS, dtype=torch.int32), RowStep("sgd", 1.0, seed=rounding)
    ours, wanted = table.to(DEVICE), table.clone()
    row_passes.update_rows_(ours, RowState(), *on_device(rows, gradient), step)
    plain_update_rows_(wanted, RowState(), rows, gradient, step)
    assert torch.equal(ours.cpu().nan_to_num(7.0), wanted.nan_to_num(7.0))
    assert bool(ours[7, 8].isnan())


def test_stochastic_rounding_keeps_the_mean(seed):
    """A change of 1/8 of what a bf16 can be told apart by is made by one element in eight."""
    rows, table = torch.arange(NUM_ROWS, dtype=torch.int32, device=DEVICE), torch.ones(NUM_ROWS, 100).bfloat16()
    gradient = torch.full((NUM_ROWS, 100), -(2.0**-10), device=DEVICE)
    moved = []
    for number in (seed, seed + 1):
        ours = table.to(DEVICE).clone()
        row_passes.update_rows_(ours, RowState(), rows, gradient, RowStep("sgd", 1.0, seed=number))
        assert set(ours.unique().tolist()) == {1.0, 1.0 + 2.0**-7}
        moved.append(ours > 1)
        deviation = (1 / 8 * 7 / 8 / ours.numel()) ** 0.5
        assert abs(moved[-1].float().mean().item() - 1 / 8) < 5 * deviation
    assert not torch.equal(*moved)
