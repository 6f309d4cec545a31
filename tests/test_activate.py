"""What lies between the products of a SwiGLU, on each path: awkward sizes against float64."""

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.swiglu import activate, activate_backward

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def drawn(rows, hidden, dtype):
    """gate_up, with numbers whose exponentials are large and small; a gradient; and weights."""
    return (
        (3 * torch.randn(rows, 2 * hidden)).to(dtype),
        torch.randn(rows, hidden).to(dtype),
        torch.rand(rows).to(dtype),
    )


def plainly(gate_up, gradient, weight):
    """The weighted product, the gradients of gate_up and weight, and the product itself, in float64."""
    gate_up, weight = gate_up.double().requires_grad_(), weight.double().requires_grad_()
    gate, up = gate_up.chunk(2, dim=-1)
    product = functional.silu(gate) * up
    weighted = product * weight[:, None]
    found = torch.autograd.grad(weighted, (gate_up, weight), gradient.double())
    return weighted.detach(), *found, product.detach()


@pytest.mark.parametrize(("rows", "hidden"), [(0, 8), (1, 1), (3, 67), (130, 192)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_and_its_gradients(dtype, rows, hidden, path, seed):
    torch.manual_seed(seed)
    gate_up, gradient, weight = drawn(rows, hidden, dtype)
    *expected, product = plainly(gate_up, gradient, weight)
    with poisoned_memory():
        found = activate_backward(gate_up, gradient.clone(), weight)
        activated = activate(gate_up)
        alone = activate_backward(gate_up, gradient.clone())
    assert alone[2] is None and found[2].dtype == torch.float32
    assert activated.dtype == found[0].dtype == found[1].dtype == dtype
    expected_alone = plainly(gate_up, gradient, torch.ones_like(weight))
    pairs = [(activated, product), *zip(found, expected, strict=True), *zip(alone[:2], expected_alone, strict=False)]
    for number, (each, wanted) in enumerate(pairs):
        # a weight's gradient is a sum of products of either sign, and such a sum may nearly cancel
        assert each.shape == wanted.shape
        assert not rows or relative_rms(each, wanted) < TOLERANCE[dtype] * (10 if number == 3 else 1)


def test_what_is_far_from_zero_is_no_nan(path):
    gates = torch.tensor([[-1e30, -200.0, -80.0, -0.0, 80.0, 200.0, 1e30]])
    gate_up = torch.cat([gates, torch.ones_like(gates)], dim=1)
    torch.testing.assert_close(activate(gate_up), functional.silu(gates.double()).float(), rtol=1e-6, atol=1e-30)
    _, gradient, _ = activate_backward(gate_up, torch.ones_like(gates))
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(gradient[:, :7], expected, rtol=1e-6, atol=1e-30)


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
