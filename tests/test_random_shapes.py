"""The command that holds kernels against float64 on shapes drawn at random: a few shapes of each, and what it says."""

from triton_device import DEVICE  # isort: split

import pytest
import random_shapes
import torch
import triton_interpreter  # noqa: F401

from layers.kernels.triton import quantized_bag, row_passes
from membench.profiler.launches import kernel_work

MOST = 30  # shapes in which each kernel of an operator is launched


@pytest.mark.parametrize("name", random_shapes.DRAWS)
def test_a_few_shapes_launch_every_kernel_of_an_operator(name):
    """Of a seed that is always the same: that nothing is wrong is what the command shows of others."""
    random_shapes.launched.clear()
    wanted = set(random_shapes.DRAWS[name][1])
    with random_shapes.counted_launches():
        for number in range(MOST):
            random_shapes.draw(name, number)
            if random_shapes.launched.keys() >= wanted:
                break
    assert random_shapes.launched.keys() == wanted


def test_every_kernel_is_drawn():
    assert {kernel for _, kernels in random_shapes.DRAWS.values() for kernel in kernels} == {*kernel_work.NAMES}


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["random_shapes", *map(str, words)])
    return random_shapes.main()


def test_a_wrong_result_is_told_with_its_seed(monkeypatch, capsys):
    monkeypatch.setattr(
        row_passes, "weighted_bag", lambda table, rows, weights: table.new_ones(len(rows), table.shape[1])
    )
    assert run(monkeypatch, "bag", "--shapes", 1, "--seed", 3, "--seconds", 1) == 1
    assert "bag: --shapes 1 --seed 3 bag" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (random_shapes.row_passes, "row_dots", "dots"),
        (random_shapes.swiglu, "activate", "activations"),
        (random_shapes.quantized_bag, "quantized_bag", "quantized"),
        (random_shapes.rms_norm, "across_rows", "norms"),
        (random_shapes.grouped_matmul, "grouped_linear", "grouped"),
        (random_shapes.top_k, "scores_gradient", "choices"),
    ],
)
def test_a_result_that_is_off_by_little_more_than_rounding_is_found(module, function, name, monkeypatch):
    right = getattr(module, function)

    def wrong(*arguments, **named):
        found = right(*arguments, **named)
        return found * (1 + 2 * random_shapes.ROUNDING[found.dtype] + 1e-4)

    monkeypatch.setattr(module, function, wrong)
    failed = 0
    for seed in range(8):
        try:
            random_shapes.draw(name, seed)
        except AssertionError:
            failed += 1
    assert failed >= 2


def test_an_unknown_operator_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "bags")
    assert "bags: no operators; these are bag, dots" in capsys.readouterr().err


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has the conversion, or has not")
def test_e4m3_numbers_are_converted_by_a_gpu_that_can(monkeypatch):
    """All that are numbers, by Triton's own conversion, which the interpreter has too."""
    monkeypatch.setattr(quantized_bag, "capability", lambda table: (9, 0))
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[~codes.double().isnan()]
    rows, ones = torch.arange(len(codes))[:, None], torch.ones(len(codes), 1)
    found = quantized_bag.quantized_bag(codes[:, None].contiguous(), ones[:, 0].contiguous(), rows, ones, torch.float32)
    assert torch.equal(found[:, 0].double(), codes.double())
