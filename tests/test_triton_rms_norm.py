"""RMS norm in Triton, and fp32 numbers as three of bf16: compiled on a GPU, interpreted elsewhere."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.rms_norm import across_rows, inverse_rms, rms_norm, rms_norm_in_parts, rms_norm_scaled_twice
from layers.kernels.triton import rms_norm as kernels
from layers.kernels.triton.three_parts import three_parts

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture(autouse=True)
def _by_triton():
    with paths.forced("triton"):
        yield


@pytest.mark.parametrize(
    "rows, columns, scales", [(1, 1, 1), (3, 67, 1), (70, 40, 1), (34, 5, 2), (99, 16, 3), (3, 2100, 1)]
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_norms_and_gradients(dtype, rows, columns, scales, seed):
    torch.manual_seed(seed)
    x, scale, upstream = torch.randn(rows, columns), torch.randn(scales, columns), torch.randn(rows, columns)
    scale = scale if scales > 1 else scale[0]
    x, scale, upstream = (each.to(DEVICE, dtype) for each in (x, scale, upstream))
    wide, wide_scale = x.double().requires_grad_(), scale.double().requires_grad_()
    taking_turns = wide_scale.view(scales, columns).repeat(rows // scales, 1)
    expected = functional.rms_norm(wide, (columns,), eps=1e-3) * taking_turns
    gradients = torch.autograd.grad(expected, (wide, wide_scale), upstream.double())
    found = []
    for _ in range(2):
        with poisoned_memory():
            leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
            normed = rms_norm(*leaves, 1e-3)
            found.append((normed.detach(), *torch.autograd.grad(normed, leaves, upstream)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    for given, wanted in zip(found[0], (expected, *gradients), strict=True):
        assert given.shape == wanted.shape and given.dtype == dtype
        # of one column x has no gradient but rounding
        assert columns == 1 or relative_rms(given, wanted.detach()) < TOLERANCE[dtype]


@pytest.mark.parametrize("rows, columns, scales", [(1, 1, 1), (70, 40, 1), (34, 5, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_rows_are_normed_as_if_they_were_wide(dtype, rows, columns, scales, seed):
    torch.manual_seed(seed)
    x, scale, upstream = torch.randn(rows, columns), torch.randn(scales, columns), torch.randn(rows, columns)
    x, scale, upstream = x.to(DEVICE, dtype), scale.to(DEVICE), upstream.to(DEVICE)
    found = []
    for given in (x, x.float()):
        leaves = given.clone().requires_grad_(), scale.clone().requires_grad_()
        normed = rms_norm(*leaves, 1e-3)
        found.append((normed.detach(), *torch.autograd.grad(normed, leaves, upstream)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][2], found[1][2])
    assert found[0][1].dtype == dtype
    # the interpreter cuts off
    torch.testing.assert_close(found[0][1].float(), found[1][1], rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("rows, columns, scales", [(1, 2, 1), (3, 67, 1), (34, 5, 2), (300, 40, 2)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_norms_by_two_scales(dtype, rows, columns, scales, monkeypatch, seed):
    """Of 300 rows the scales' gradients are five parts, here added two at a time."""
    monkeypatch.setattr(kernels, "_ADDED", 2)
    torch.manual_seed(seed)
    x, upstream = torch.randn(rows, columns).to(DEVICE, dtype), torch.randn(rows, columns, device=DEVICE)
    both = [torch.randn(scales, columns).to(DEVICE, dtype) for _ in range(2)]
    wide = [each.double().requires_grad_() for each in (x, *both)]
    taking_turns = (wide[1] * wide[2]).repeat(rows // scales, 1)
    expected = functional.rms_norm(wide[0], (columns,), eps=1e-3) * taking_turns
    gradients = torch.autograd.grad(expected, wide, upstream.double())
    found = []
    for _ in range(2):
        with poisoned_memory():
            leaves = [each.clone().requires_grad_() for each in (x, *both)]
            normed = rms_norm_scaled_twice(*leaves, 1e-3)
            found.append((normed.detach(), *torch.autograd.grad(normed, leaves, upstream)))
    assert torch.equal(rms_norm_scaled_twice(x, *both, 1e-3), found[0][0])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].dtype == torch.float32 and relative_rms(found[0][0], expected.detach()) < 1e-6
    for given, wanted in zip(found[0][1:], gradients, strict=True):
        assert given.shape == wanted.shape and given.dtype == dtype
        # a scale's gradient is a sum over rows of either sign, and may nearly cancel
        assert relative_rms(given, wanted) < (10 if given.shape != x.shape else 1) * TOLERANCE[dtype]


@pytest.mark.parametrize("rows, columns, scales", [(1, 1, 1), (3, 67, 1), (34, 5, 2), (300, 40, 2), (4, 1100, 2)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_norms_in_parts_are_the_parts_of_norms(dtype, rows, columns, scales, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, columns).to(DEVICE, dtype)
    both = [torch.randn(scales, columns).to(DEVICE, dtype) for _ in range(2)]
    with poisoned_memory():
        found = [rms_norm_in_parts(x, *both, 1e-3) for _ in range(2)]
    assert torch.equal(*found) and found[0].shape == (rows, 3 * columns) and found[0].dtype == torch.bfloat16
    added = sum(part.double() for part in found[0].chunk(3, dim=-1))
    normed = rms_norm_scaled_twice(x, *both, 1e-3)
    torch.testing.assert_close(added, normed.double(), rtol=2.0**-21, atol=0)  # the interpreter cuts off
    if DEVICE == "cpu":  # a GPU may round a product and what is taken from it at once
        assert torch.equal(found[0], three_parts(normed))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_norms_in_parts_show_what_is_no_finite_number(value):
    x, scale = torch.ones(2, 4, device=DEVICE), torch.ones(1, 4, device=DEVICE)
    x[1, 2] = value
    parts = rms_norm_in_parts(x, scale, scale, 1e-3)
    assert torch.equal(parts.float().view(2, 3, 4).sum(1).isnan(), rms_norm_scaled_twice(x, scale, scale, 1e-3).isnan())
    assert parts[1].isnan().any() and not parts[0].isnan().any()


def test_norms_in_parts_are_none_where_a_gradient_is_asked_for_or_several_passes_make_them():
    x, scale = torch.randn(3, 8, device=DEVICE), torch.ones(1, 8, device=DEVICE)
    assert rms_norm_in_parts(x.clone().requires_grad_(), scale, scale, 1e-3) is None
    assert rms_norm_in_parts(x, scale.clone().requires_grad_(), scale, 1e-3) is None
    assert rms_norm_in_parts(x.double(), scale.double(), scale.double(), 1e-3) is None
    with paths.forced("torch"):
        assert rms_norm_in_parts(x, scale, scale, 1e-3) is None


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 67), (1030, 24)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_scales_of_keys_and_what_norms_take_of_their_gradients(dtype, rows, columns, seed):
    torch.manual_seed(seed)
    x, gradient = (torch.randn(rows, columns).to(DEVICE, dtype) for _ in range(2))
    wide = x.double()
    wanted = (wide.square().mean(dim=1) + 1e-3).rsqrt()
    along = (wide * gradient.double()).sum(dim=1) * wanted.square() / columns
    with poisoned_memory():
        found = [inverse_rms(x, 1e-3) for _ in range(2)]
        across = [across_rows(gradient, x, found[0]) for _ in range(2)]
    assert torch.equal(*found) and torch.equal(*across) and across[0].dtype == dtype
    assert relative_rms(found[0], wanted) < 1e-6
    expected = gradient.double() - wide * along[:, None]
    # of one column nothing is left
    assert columns == 1 or relative_rms(across[0], expected) < TOLERANCE[dtype]


def test_torch_finds_no_fault_with_the_operators():
    x = torch.randn(3, 8, device=DEVICE)
    torch.library.opcheck(torch.ops.membench.inverse_rms.default, (x, 1e-3))
    torch.library.opcheck(torch.ops.membench.across_rows.default, (x, x, torch.rand(3, device=DEVICE)))
    scales = torch.rand(2, 8, device=DEVICE).unbind()
    for in_parts in (False, True):
        torch.library.opcheck(torch.ops.membench.rms_norm_scaled_twice.default, (x, *scales, 1e-3, in_parts))
    torch.library.opcheck(torch.ops.membench.rms_norm_scaled_twice_backward.default, (x, *scales, x, 1e-3))


@pytest.mark.parametrize("columns", [1, 7, 40])
def test_parts_of_rows_that_lie_apart(columns, seed):
    torch.manual_seed(seed)
    apart = torch.randn(5, 3, columns, device=DEVICE).transpose(0, 1)
    assert torch.equal(three_parts(apart), three_parts(apart.contiguous()))
    assert torch.equal(three_parts(apart[:, 1:, ::2]), three_parts(apart[:, 1:, ::2].contiguous()))


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (2, 5, 7), (3, 1100)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_three_parts_add_up(shape, scale, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape, device=DEVICE) * scale
    with poisoned_memory():
        parts = three_parts(x)
    assert parts.shape == (*shape[:-1], 3 * shape[-1]) and parts.dtype == torch.bfloat16
    added = sum(part.double() for part in parts.chunk(3, dim=-1))
    torch.testing.assert_close(added, x.double(), rtol=2.0**-21, atol=0)  # the interpreter cuts off


def test_what_is_no_finite_number_is_the_first_part():
    values = torch.tensor([[float("nan"), float("inf"), float("-inf"), 1.0]], device=DEVICE)
    high, *others = three_parts(values).chunk(3, dim=-1)
    torch.testing.assert_close(high.float(), values, equal_nan=True)
    assert not torch.cat(others).any()


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.rms_norm import rms_norm, rms_norm_backward
from layers.kernels.triton.three_parts import three_parts
from layers.kernels.triton.rms_norm import across_rows, inverse_rms
from layers.kernels.triton.rms_norm import rms_norm_scaled_twice_backward
for rows in (16, 17):
    rms_norm(torch.randn(rows, 512).bfloat16(), torch.ones(512).bfloat16(), 1e-5)
for rows in (16, 18):
    rms_norm_backward(torch.randn(rows, 64), torch.ones(2, 64), torch.randn(rows, 64), 1e-5)
for rows in (16, 18):
    scales = torch.ones(2, 64), torch.ones(2, 64)
    rms_norm_scaled_twice_backward(torch.randn(rows, 64), *scales, torch.randn(rows, 64), 1e-5)
for rows in (16, 17):
    three_parts(torch.randn(rows, 64))
for rows in (16, 17):
    three_parts(torch.randn(rows, 4, 64).transpose(0, 1))
for rows in (16, 17):
    inverse_rms(torch.randn(rows, 64), 1e-5)
for rows in (16, 17):
    across_rows(torch.randn(rows, 64), torch.randn(rows, 64), torch.randn(rows))
""")
    assert launched[2:4] == launched[4:6] and launched[6:8] == launched[8:10], "a norm's backward is two"
    of_one = launched[:2] + launched[10:]
    assert len(of_one) == 10 and of_one[::2] == of_one[1::2]
