"""What lies between the products of a SwiGLU in Triton: compiled on a GPU, interpreted elsewhere."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from activation_checks import DTYPES, assert_far_from_zero_is_no_nan, assert_gated_right, assert_right, drawn

from layers.kernels import paths
from layers.kernels.swiglu import activate, activate_backward
from layers.kernels.triton import swiglu as kernels


@pytest.fixture(autouse=True)
def _by_triton():
    with paths.forced("triton"):
        yield


@pytest.mark.parametrize(("rows", "hidden"), [(0, 8), (1, 1), (3, 67), (20, 1030)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_and_its_gradients(dtype, rows, hidden, seed):
    torch.manual_seed(seed)
    assert_right(rows, hidden, dtype, DEVICE)
    assert_gated_right(rows, hidden, dtype, DEVICE)


@pytest.mark.parametrize("hidden", [5, 16, 40])
def test_a_row_of_several_tiles(hidden, monkeypatch, seed):
    monkeypatch.setattr(kernels, "_MOST_COLUMNS", 16)
    torch.manual_seed(seed)
    assert_right(7, hidden, torch.float32, DEVICE)
    assert_gated_right(7, hidden, torch.float32, DEVICE)


def test_what_is_far_from_zero_is_no_nan():
    assert_far_from_zero_is_no_nan(DEVICE)


def test_a_nan_stays_one():
    gate_up = torch.zeros(1, 6, device=DEVICE)
    gate_up[0, 1] = gate_up[0, 5] = torch.nan
    assert activate(gate_up).isnan().tolist() == [[False, True, True]]


def test_the_same_bits_twice_and_of_parts(seed):
    torch.manual_seed(seed)
    given = [each.to(DEVICE) for each in drawn(30, 193, torch.float32)]
    apart = [torch.stack([each] * 2, dim=-1)[..., 0] for each in given]
    found = [(activate(each[0]), *activate_backward(*each)) for each in (given, given, apart)]
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.swiglu import activate, activate_backward
for tokens in (16, 17):
    activate(torch.randn(tokens, 512).bfloat16())
for tokens in (16, 17):
    gate_up, gradient = torch.randn(tokens, 512).bfloat16(), torch.randn(tokens, 256).bfloat16()
    activate_backward(gate_up, gradient, torch.ones(tokens))
    activate_backward(gate_up, gradient, None)
""")
    assert launched[0] == launched[1]
    assert launched[2:4] == launched[4:6]
