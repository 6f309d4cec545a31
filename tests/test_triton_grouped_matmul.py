"""Grouped products in Triton, and the experts made of them, against float64: empty experts, awkward widths, gathers."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
import triton_interpreter  # noqa: F401
from against_reference import assert_close, poisoned_memory
from mapped_memory import mapped
from test_grouped_matmul import COUNTS, check

from layers.kernels import paths
from layers.kernels.triton.grouped_matmul import grouped_linear, grouped_linear_gradients

TOKENS = 11
WIDTHS = [(1, 7), (7, 1), (96, 100), (100, 96), (200, 33)]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed)


class Case:
    """Rows for so many an expert, and what each expert's rows are."""

    def __init__(self, counts, n, m, dtype):
        rows = sum(counts)
        self.dtype = str(dtype).removeprefix("torch.")
        self.ends = torch.tensor(counts).cumsum(0).int().to(DEVICE)
        self.token = torch.randint(TOKENS, (rows,)).to(DEVICE)
        self.x = torch.randn(TOKENS, m).to(DEVICE, dtype)
        self.y_gradient = torch.randn(TOKENS, n).to(DEVICE, dtype)
        self.weight = torch.randn(len(counts), n, m).to(DEVICE, dtype)
        self.experts = [slice(end - count, end) for end, count in zip(self.ends.tolist(), counts, strict=True)]

    def linear(self):
        x, weight = self.x[self.token].double(), self.weight.double()
        return torch.cat([x[rows] @ weight[expert].T for expert, rows in enumerate(self.experts)])

    def gradients(self):
        x, y_gradient = self.x[self.token].double(), self.y_gradient[self.token].double()
        return torch.stack([y_gradient[rows].T @ x[rows] for rows in self.experts])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("name", ["empty first, middle and last", "one row"])
def test_products_of_awkward_widths(name, widths, dtype):
    case = Case(COUNTS[name], *widths, dtype)
    with poisoned_memory():
        y = grouped_linear(case.x, case.weight, case.ends, case.token)
        gradient = grouped_linear_gradients(case.y_gradient, case.x, case.ends, case.token, case.token)
    assert y.dtype == gradient.dtype == dtype
    assert_close("y", y, case.linear(), case.dtype)
    assert_close("gradient", gradient, case.gradients(), case.dtype)


@pytest.mark.parametrize("counts", [[0, 130, 64, 1, 65], [200], [0, 0, 129]])
def test_experts_of_several_tiles(counts):
    case = Case(counts, 20, 40, torch.float32)
    assert_close("y", grouped_linear(case.x, case.weight, case.ends, case.token), case.linear(), case.dtype)
    gradient = grouped_linear_gradients(case.y_gradient, case.x, case.ends, case.token, case.token)
    assert_close("gradient", gradient, case.gradients(), case.dtype)
    for expert, count in enumerate(counts):
        assert count or not gradient[expert].any()


def test_more_experts_than_are_counted_at_once(monkeypatch):
    monkeypatch.setattr("layers.kernels.triton.grouped_matmul._EXPERTS_TOGETHER", 4)
    case = Case([0, 70, 0, 1, 65, 0, 0, 0, 0, 0, 2, 0, 129], 5, 6, torch.float32)
    assert_close("y", grouped_linear(case.x, case.weight, case.ends, case.token), case.linear(), case.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_rows_and_transposed_matrices_give_the_same_bits(dtype):
    case = Case([3, 0, 7], 24, 30, dtype)
    y = grouped_linear(case.x, case.weight, case.ends, case.token)
    assert torch.equal(y, grouped_linear(case.x[case.token], case.weight, case.ends))
    assert torch.equal(y, grouped_linear(case.x, case.weight.mT.contiguous().mT, case.ends, case.token))
    x, y_gradient = case.x[case.token], case.y_gradient[case.token]
    gradient = grouped_linear_gradients(y_gradient, x, case.ends)
    assert torch.equal(gradient, grouped_linear_gradients(case.y_gradient, x, case.ends, y_token=case.token))
    assert torch.equal(gradient, grouped_linear_gradients(y_gradient, case.x, case.ends, x_token=case.token))


def test_no_rows():
    case = Case([0, 0, 0], 5, 6, torch.float32)
    with poisoned_memory():
        assert grouped_linear(case.x, case.weight, case.ends, case.token).shape == (0, 5)
        gradient = grouped_linear_gradients(case.y_gradient, case.x, case.ends, case.token, case.token)
    assert torch.equal(gradient, torch.zeros(3, 5, 6, device=DEVICE))


@pytest.mark.skipif(DEVICE == "cuda", reason="maps memory of the host")
def test_matrices_past_two_to_the_31_elements():
    try:
        memory = mapped(3, 2**30, torch.bfloat16)
    except OSError:
        pytest.skip("no address space for 6 GiB")
    weight = memory.as_strided((3, 6, 8), (2**30, 8, 1))
    weight.copy_(torch.randn(3, 6, 8))
    case = Case([2, 0, 3], 6, 8, torch.bfloat16)
    case.weight = weight
    assert_close("y", grouped_linear(case.x, weight, case.ends, case.token), case.linear(), case.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in COUNTS if name != "many with a row each"])
def test_experts_against_the_reference(name, dtype):
    with paths.forced("triton"):
        check(COUNTS[name], 40, 24, dtype, DEVICE)


def test_the_same_bits_twice():
    case = Case([70, 3], 12, 20, torch.float32)
    y = [grouped_linear(case.x, case.weight, case.ends, case.token) for _ in range(2)]
    given = (case.y_gradient, case.x, case.ends, case.token, case.token)
    gradient = [grouped_linear_gradients(*given) for _ in range(2)]
    assert torch.equal(*y) and torch.equal(*gradient)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_host_does_not_wait(dtype):
    case = Case(COUNTS["one heavy among light"], 64, 96, dtype)
    products = [
        lambda: grouped_linear(case.x, case.weight, case.ends, case.token),
        lambda: grouped_linear_gradients(case.y_gradient, case.x, case.ends, case.token, case.token),
    ]
    for product in products:
        product()  # compiled before
    torch.cuda.set_sync_debug_mode("error")
    try:
        for product in products:
            product()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.grouped_matmul import grouped_linear, grouped_linear_gradients
ends = torch.zeros(8, dtype=torch.int32)
for dtype in (torch.bfloat16, torch.float32):
    weight = torch.empty(8, 192, 256, dtype=dtype)
    for rows in (160, 161):
        x, y, token = torch.empty(rows, 256, dtype=dtype), torch.empty(rows, 192, dtype=dtype), torch.arange(rows)
        grouped_linear(x, weight, ends, token)
        grouped_linear(y, weight.mT, ends)
        grouped_linear_gradients(y, x, ends, x_token=token)
""")
    assert len(launched) == 12
    for at in (0, 6):
        assert launched[at : at + 3] == launched[at + 3 : at + 6]
        assert len(set(launched[at : at + 3])) == 3
