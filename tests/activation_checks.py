"""What lies between the products of a SwiGLU, held against float64 on whatever path is taken."""

import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.checking.verification import relative_rms
from layers.kernels.gated import gated
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


def assert_right(rows, hidden, dtype, device="cpu"):
    gate_up, gradient, weight = (each.to(device) for each in drawn(rows, hidden, dtype))
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


def assert_gated_right(rows, columns, dtype, device="cpu"):
    """values * silu(gate), of parts of one matrix as of two, and its gradients."""
    both, gradient, _ = (each.to(device) for each in drawn(rows, columns, dtype))
    gate, values = both.chunk(2, dim=1)
    *expected, product = plainly(both, gradient, torch.ones(rows, device=device))
    for of in (values, values.contiguous()):
        given = [each.detach().requires_grad_() for each in (of, gate)]
        with poisoned_memory():
            found = gated(*given)
            of_values, of_gate = torch.autograd.grad(found, given, gradient)
        assert torch.equal(gated(of, gate), found)
        of_both = torch.cat([of_gate, of_values], dim=1)
        for each, wanted in ((found.detach(), product), (of_both, expected[1])):
            assert each.dtype == dtype and each.shape == wanted.shape
            assert not rows or relative_rms(each, wanted) < TOLERANCE[dtype]


def assert_far_from_zero_is_no_nan(device="cpu"):
    gates = torch.tensor([[-1e30, -200.0, -80.0, -0.0, 80.0, 200.0, 1e30]], device=device)
    gate_up = torch.cat([gates, torch.ones_like(gates)], dim=1)
    torch.testing.assert_close(activate(gate_up), functional.silu(gates.double()).float(), rtol=1e-6, atol=1e-30)
    _, gradient, _ = activate_backward(gate_up, torch.ones_like(gates))
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]], device=device)
    torch.testing.assert_close(gradient[:, :7], expected, rtol=1e-6, atol=1e-30)
