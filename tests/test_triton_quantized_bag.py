"""Bags of quantized rows in Triton, against float64: compiled on a GPU, interpreted elsewhere."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from mapped_memory import mapped

from layers.checking.sampled_reference import relative_rms
from layers.checking.verification import TOLERANCE
from layers.kernels.paths import forced
from layers.kernels.quantization import dequantize_rows, quantize_rows
from layers.kernels.quantized_bag import quantized_bag

FORMATS = [torch.int8, torch.float8_e4m3fn]


def bags(*given):
    with poisoned_memory(), forced("triton"):
        return quantized_bag(*given)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("columns", [1, 7, 96, 100, 1000, 1100])
def test_bags_against_float64(columns, dtype, seed):
    torch.manual_seed(seed)
    quantized, scales = quantize_rows((torch.randn(60, columns) * torch.rand(60, 1)).to(DEVICE), dtype)
    exact = dequantize_rows(quantized, scales)
    sizes = [(1, 1), (1, 37), (5, 9), (0, 4), (4, 0)] if columns < 1000 else [(3, 9)]
    for tokens, lookups in sizes:
        for result, index in (
            (torch.float32, torch.int32),
            (torch.bfloat16, torch.int64),
            (torch.float16, torch.int32),
        ):
            rows = torch.randint(60, (tokens, lookups), dtype=index, device=DEVICE)
            weights = (0.1 + torch.rand(tokens, lookups, device=DEVICE)).to(result)  # of tiny ones fp16 keeps few bits
            terms = exact[rows] * weights.double()[..., None]
            expected, squares = terms.sum(dim=1), terms.square().sum(dim=1)
            found = bags(quantized, scales, rows, weights, result)
            assert found.dtype == result and found.shape == (tokens, columns)
            name = str(result).removeprefix("torch.")
            assert not tokens or error_of_sums(found, expected, squares.mean().item() or 1) <= TOLERANCE[name]
            assert torch.equal(found, bags(quantized, scales, rows, weights, result))


def test_all_codes_of_float8():
    """A bag of one row of one number, for every code that is a number."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[~codes.double().isnan()].to(DEVICE)
    rows = torch.arange(len(codes), device=DEVICE)[:, None]
    ones = torch.ones(len(codes), 1, device=DEVICE)
    found = bags(codes[:, None].contiguous(), ones[:, 0].contiguous(), rows, ones, torch.float32)
    assert torch.equal(found[:, 0].double(), codes.double())


def test_strided_lookups_and_weights(seed):
    torch.manual_seed(seed)
    quantized, scales = quantize_rows(torch.randn(30, 20, device=DEVICE), torch.int8)
    rows, weights = torch.randint(30, (8, 6), device=DEVICE).t(), torch.rand(8, 6, device=DEVICE).t()
    expected = (dequantize_rows(quantized, scales)[rows] * weights.double()[..., None]).sum(dim=1)
    assert relative_rms(bags(quantized, scales, rows, weights, torch.float32), expected) < 1e-6


def test_rows_past_the_two_billionth_number(seed):
    torch.manual_seed(seed)
    count, columns = 2**21 + 5, 1100
    table = (
        torch.zeros(count, columns, dtype=torch.int8, device=DEVICE)
        if DEVICE == "cuda"
        else mapped(count, columns, torch.int8)
    )
    scales = torch.ones(count, device=DEVICE)
    table[-3:] = torch.randint(-127, 128, (3, columns), dtype=torch.int8, device=DEVICE)
    rows = torch.tensor([[count - 1, count - 3, 0], [count - 2, 5, count - 2]], device=DEVICE)
    weights = torch.rand(2, 3, device=DEVICE)
    expected = (table[rows].double() * weights.double()[..., None]).sum(dim=1)
    assert relative_rms(bags(table, scales, rows, weights, torch.float32), expected) < 1e-6


def test_it_compiles_for_hopper_once_for_all_numbers_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.paths import forced
from layers.kernels.quantized_bag import quantized_bag

for tokens in (1000, 1001):
    for columns in (1000, 1024):
        for dtype in (torch.int8, torch.float8_e4m3fn):
            table, rows = torch.zeros(9, columns, dtype=dtype), torch.zeros(tokens, 32, dtype=torch.int32)
            with forced("triton"):
                quantized_bag(table, torch.ones(9), rows, torch.ones(tokens, 32), torch.bfloat16)
""")
    assert len(launched) == 8 and launched[:4] == launched[4:]
