"""What lies between the products of a SwiGLU, on each path: awkward sizes against float64."""

import pytest
import torch
from activation_checks import (
    DTYPES,
    assert_far_from_zero_is_no_nan,
    assert_gated_right,
    assert_right,
    drawn,
    plainly,
)

from layers.kernels import paths
from layers.kernels.gated import gated
from layers.kernels.swiglu import activate, activate_backward


@pytest.mark.parametrize(("rows", "hidden"), [(0, 8), (1, 1), (3, 67), (130, 192)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_and_its_gradients(dtype, rows, hidden, path, seed):
    torch.manual_seed(seed)
    assert_right(rows, hidden, dtype)
    assert_gated_right(rows, hidden, dtype)


def test_what_is_far_from_zero_is_no_nan(path):
    assert_far_from_zero_is_no_nan()


def test_a_nan_stays_one(path):
    gate_up = torch.zeros(1, 6)
    gate_up[0, 1] = gate_up[0, 5] = torch.nan
    assert activate(gate_up).isnan().tolist() == [[False, True, True]]


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_the_same_bits_by_any_number_of_threads_and_of_parts(restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn(300, 193, torch.float32), []
    apart = [torch.stack([each] * 2, dim=-1)[..., 0] for each in given]
    for threads, (gate_up, gradient, weight) in ((1, given), (3, given), (64, apart)):
        torch.set_num_threads(threads)
        found.append((activate(gate_up), *activate_backward(gate_up, gradient.clone(), weight)))
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    gate_up, gradient, weight = drawn(3, 8, torch.float32)
    torch.library.opcheck(torch.ops.membench.activate.default, (gate_up,))
    for given in (weight, None):
        torch.library.opcheck(torch.ops.membench.activate_backward.default, (gate_up, gradient, given))
    gate, values = gate_up.chunk(2, dim=1)
    torch.library.opcheck(torch.ops.membench.gated.default, (values, gate))
    torch.library.opcheck(torch.ops.membench.gated_backward.default, (values, gate, gradient))


def test_factors_of_two_dtypes_are_multiplied_in_the_wider(path):
    values, gate = torch.randn(3, 8), torch.randn(3, 8).bfloat16()
    assert torch.equal(gated(values, gate), values * torch.nn.functional.silu(gate.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_number_is_rounded_once(dtype, path, seed):
    torch.manual_seed(seed)
    gate_up, gradient, weight = drawn(1000, 2, dtype)
    weighted, of_both, _, product = plainly(gate_up, gradient, weight)
    hidden, found_of_both, _ = activate_backward(gate_up, gradient, weight)
    # a gate's own gradient is left out: where silu has its lowest point it nearly cancels
    found = activate(gate_up), gated(*gate_up.chunk(2, dim=1)[::-1]), hidden, found_of_both[:, 2:]
    unit = torch.finfo(dtype)
    for each, wanted in zip(found, (product, product, weighted, of_both[:, 2:]), strict=True):
        apart = (each.double() - wanted).abs()
        assert (apart <= 0.51 * unit.eps * wanted.abs() + unit.tiny * unit.eps).all()
